"""The same command as a job: `ray job submit --working-dir . -- python -m ray_jobs.sweep ...`."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from results.frame import load_sweep


@pytest.fixture(scope="module")
def cluster(kit):
    """With the API server, which takes jobs, and with a token, as Ray has it from 2.61 on."""
    with kit.new_cluster(cpus=2) as made:
        yield made


def submit(cluster, kit, *command):
    ray = str(Path(sys.executable).with_name("ray"))
    given = [ray, "job", "submit", "--address", cluster.url, "--working-dir", ".", "--"]

    def attempt():
        ran = cluster.place.finish(cluster.place.popen([*given, *map(str, command)]))
        return None if "No available agent" in ran.text else ran  # Ray is still starting up

    return kit.until(attempt)


def test_sweep_as_a_job(cluster, kit):
    """Of groups, one of which is stopped, where Ray's own clean-up could give back what they had;
    test_no_hang is where it cannot.
    """
    directory = cluster.place / "sweep"
    ran = submit(
        cluster, kit, sys.executable, "-m", "ray_jobs.sweep", kit.TOY,
        "--space", cluster.place.space(), "--dir", directory, *kit.STOPPED_GROUPS,
    )
    assert ran.status == 0, ran.text
    assert "succeeded" in ran.text
    assert load_sweep(directory)["state"].tolist() == ["complete", "stopped"]
    kit.check_given_back(cluster)


def test_a_job_that_is_stopped_has_written_its_state(cluster, kit):
    """Ray sends SIGTERM and kills three seconds later. What had run goes on by its directory."""
    directory = cluster.place / "stopped"
    options = (*kit.sequential_options(cluster.place, directory, 4), "data.delay_seconds=0.05")
    ray = [str(Path(sys.executable).with_name("ray")), "job"]
    given = ["--address", cluster.url, "--working-dir", ".", "--no-wait", "--submission-id", "one"]
    command = [*ray, "submit", *given, "--", sys.executable, "-m", "ray_jobs.sweep", kit.TOY]
    submitted = cluster.place.popen([str(part) for part in (*command, *options)])
    assert cluster.place.finish(submitted).status == 0
    kit.until(lambda: len(kit.events(directory, "ended")) >= 1)
    stop = cluster.place.popen([*ray, "stop", "--address", cluster.url, "one"])
    assert cluster.place.finish(stop).status == 0
    last = kit.events(directory, "ended")[-1]
    assert (last["state"], last["reason"]) == ("interrupted", "SIGTERM")
    options = ("--address", cluster.address, "--max-concurrent", 1)
    resumed = cluster.place.run("--resume", directory, *options)
    assert resumed.status == 0, resumed.text
    kit.check_each_once(directory, 4)


def test_without_a_directory_it_is_refused_in_words(cluster, kit):
    ran = submit(
        cluster,
        kit,
        sys.executable,
        "-m",
        "ray_jobs.sweep",
        kit.TOY,
        "--space",
        cluster.place.space(),
    )
    assert ran.status != 0
    assert "Give --dir DIR on storage that outlives the job" in ran.text
    assert "Traceback" not in ran.text.split("Give --dir")[0].split("Running entrypoint")[-1]


def test_the_upload_leaves_out_what_is_no_source(kit, tmp_path):
    """The history, the environment and the caches are large, and no trial reads them.

    Asked of the function that packs the working directory, on a copy of the files that decide.
    """
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import (
        create_package,  # as `ray job submit` does; Ray has no public way
    )

    tree = tmp_path / "tree"
    for name in ("ray_jobs", "settings"):
        shutil.copytree(kit.ROOT / name, tree / name)
    for name in (".git", ".venv/bin", ".cache", "sweeps/one", "runs/one", "losses/__pycache__"):
        (tree / name).mkdir(parents=True)
        (tree / name / "large").write_text("x")
    for name in (".gitignore", ".rayignore"):
        if (kit.ROOT / name).exists():
            shutil.copy(kit.ROOT / name, tree / name)
    package = tmp_path / "package.zip"
    create_package(
        str(tree), package, include_gitignore=True, excludes=get_runtime_env_default_excludes()
    )
    names = zipfile.ZipFile(package).namelist()
    assert "ray_jobs/sweep.py" in names
    assert any(name.startswith("settings/presets/") for name in names)
    assert not [name for name in names if name.endswith("large")]
