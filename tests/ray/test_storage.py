"""A disk that is full or read-only: said in words, nothing corrupt, the sweep goes on later."""

from __future__ import annotations

import os
import subprocess

import pytest

from ray_jobs.sweep import main


@pytest.fixture
def small_disk(place):
    """1 MiB of tmpfs. Tests often run as root, whom file permissions do not stop."""
    disk = place / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "weighbridge-test", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"mount is not permitted: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def remount(disk, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def fill(disk):
    """Takes every page that is free."""
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            try:
                while file.write(b"\0" * size) == size:
                    pass
            except OSError:
                continue


def test_full_disk(kit, small_disk, brackets):
    """It pauses and says so. What waited at a rung has lost nothing by it."""
    with kit.new_cluster(cpus=1, api_server=False) as cluster:
        check_full_disk(cluster, kit, small_disk, brackets)


def check_full_disk(cluster, kit, small_disk, brackets):
    place, directory = cluster.place, small_disk / "sweep"
    options = (*kit.bracket_options(place, directory), "--address", cluster.address)
    running = place.start(kit.TOY, *options, "data.delay_seconds=0.01")
    kit.until(lambda: len(kit.events(directory, "ended")) >= 4)
    fill(small_disk)
    assert os.statvfs(small_disk).f_bavail == 0
    ran = place.finish(running)
    assert ran.status not in (0, 3), ran.text
    assert "No space left on device" in ran.text
    assert f"--resume {directory}" in ran.text
    assert "Traceback" not in ran.text, ran.text
    remount(small_disk, "size=64m")
    resumed = place.run("--resume", directory, "--address", cluster.address)
    assert resumed.status == 0, resumed.text
    kit.check_each_once(directory, 22, report_every=2)
    kit.check_equal(directory, brackets.directory)


def test_read_only_directory(place, kit, small_disk, capsys):
    held = small_disk / "held"
    options = ("--space", str(place.space()), "--trials", "2")
    remount(small_disk, "ro")
    assert main([kit.TOY, *options, "--dir", str(held)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Read-only file system" in line
    assert str(held) in line


def test_read_only_sweep_cannot_be_resumed_but_read(kit, small_disk, sequential, capsys):
    remount(small_disk, "size=64m")
    directory = small_disk / "sweep"
    subprocess.run(["cp", "-r", str(sequential.directory), str(directory)], check=True)
    remount(small_disk, "ro")
    assert main(["--resume", str(directory)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Read-only file system" in line
    kit.check_equal(directory, sequential.directory)
