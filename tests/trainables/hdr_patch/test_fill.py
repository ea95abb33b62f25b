"""The verb `generate` of `hdr_patch`: folders of frames in, filled frames out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from data.hdr.files import Frame, read_image, write_frame, write_image
from data.hdr.scenes import sequence
from models.hdr.exposure import mu_law
from ray_jobs import generate, train
from trainables.checkpoints import checkpoint
from trainables.checkpoints.restore import open_checkpoint
from trainables.hdr_patch.system import HdrPatch

SMALL = [f"{key}={value}" for key, value in HdrPatch.small.items()]
LENGTH = ("train.steps=6", "train.report_every=3", "train.tensorboard=false")


def trained(folder, *overrides, motion="false"):
    given = ["hdr_patch", *SMALL, *LENGTH, "hdr.prefill=push_pull", *overrides]
    given.append(f"model.use_motion={motion}")
    assert train.main([*given, "--no-ray", "--dir", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training whose radiance was divided by 3."""
    return trained(tmp_path_factory.mktemp("fill"), "data.scale=3")


@pytest.fixture
def frames(tmp_path):
    """Two frames of 75 x 101 without `ref/`, numbers 4 and 11."""
    made = dict(zip((4, 11), sequence(2, 75, 101, 5), strict=True))
    for number, frame in made.items():
        write_frame(tmp_path / "in", number, frame)
    for path in (tmp_path / "in" / "ref").iterdir():
        path.unlink()
    (tmp_path / "in" / "ref").rmdir()
    return made


def fill(run, folder, *options):
    given = ["--checkpoint", run, "--input", folder / "in", "--output", folder / "out"]
    return generate.main([str(each) for each in (*given, *options, "--json")])


def filled(folder, number):
    return read_image(folder / "out" / f"filled-{number}.exr", 3).transpose(2, 0, 1)


def model_of(run):
    opened = open_checkpoint(checkpoint.find(run, best=True))
    return opened.modules["model"].eval()


def test_every_frame_is_filled_and_drawn(run, tmp_path, frames, capsys):
    assert fill(run, tmp_path, "tile=0") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["frames"], found["left_out"]) == (2, 0)
    share = np.mean([frame.hole.mean() for frame in frames.values()])
    assert found["hole_share"] == pytest.approx(share, rel=1e-5)
    assert "tile_seam_nat" not in found
    for number, frame in frames.items():
        image = filled(tmp_path, number)
        hole = np.broadcast_to(frame.hole > 0, image.shape)
        assert image.dtype == np.float32 and (image[hole] > 0).all()
        changed = image != frame.warped
        near = torch.nn.functional.max_pool2d(torch.from_numpy(frame.hole)[None], 3, 1, 1)[0]
        assert not changed[np.broadcast_to(near.numpy() == 0, image.shape)].any()
        for name, radiance in (("warped", frame.warped), ("filled", image)):
            drawn = np.asarray(Image.open(tmp_path / "out" / f"{name}-{number}.png"))
            shown = mu_law(torch.from_numpy(radiance / 3), 300.0, 0.8).clamp(0.0, 1.0) * 255
            np.testing.assert_allclose(drawn.transpose(2, 0, 1), shown.round(), atol=1)


@torch.no_grad()
def test_it_is_what_the_model_makes_of_the_frame_in_its_own_scale(run, tmp_path, capsys):
    (frame,) = sequence(1, 64, 96, 5)
    write_frame(tmp_path / "in", 0, frame)
    assert fill(run, tmp_path) == 0
    given = {"warped": torch.from_numpy(frame.warped)[None] / 3}
    expected = model_of(run)({**given, "hole": torch.from_numpy(frame.hole)[None]})["radiance"]
    np.testing.assert_allclose(filled(tmp_path, 0), expected[0].numpy() * 3, rtol=1e-5)


def test_tiles_tell_their_seam_and_pngs_can_be_left_out(run, tmp_path, frames, capsys):
    assert fill(run, tmp_path, "tile=32", "overlap=16", "png=false") == 0
    found = json.loads(capsys.readouterr().out)
    assert 0.0 < found["tile_seam_nat"] < 3.0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["filled-11.exr", "filled-4.exr"]


def test_broken_frames_are_named_and_negative_values_counted(run, tmp_path, frames, capsys):
    nan = frames[11].warped.copy()
    nan[0, 0, 0] = np.nan
    write_frame(tmp_path / "in", 12, Frame(nan, frames[11].hole, frames[11].target))
    whole = np.ones_like(frames[4].hole)
    write_frame(tmp_path / "in", 13, Frame(frames[4].warped, whole, frames[4].target))
    warped = frames[4].warped.copy()
    y, x = np.argwhere(frames[4].hole[0] == 0)[0]
    warped[:, y, x] = -0.5
    write_image(tmp_path / "in/warp_hole/warped_hole-4.exr", warped.transpose(1, 2, 0))
    write_image(tmp_path / "in/warp_hole/strange.exr", warped.transpose(1, 2, 0))
    assert fill(run, tmp_path) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["frames"], found["left_out"]) == (2, 2)
    assert (found["negative_values"], found["unrecognised_files"]) == (3, 1)
    nan_line, hole_line = (tmp_path / "out" / "left_out.txt").read_text().splitlines()
    assert "warped_hole-12.exr" in nan_line and "found 3 that are NaN" not in nan_line
    assert "found 1 that are NaN or infinite" in nan_line
    assert "hole-13.exr" in hole_line and "found holes alone" in hole_line
    assert (filled(tmp_path, 4) >= 0).all()


def test_where_no_frame_is_usable_the_first_problem_is_told(run, tmp_path, frames, capsys):
    for path in (tmp_path / "in" / "hole").iterdir():
        path.write_bytes(b"not an image")
    assert fill(run, tmp_path) == 2
    assert "hole-4.exr: expected a complete .exr image" in capsys.readouterr().err


def test_sequences_keep_their_folders(run, tmp_path, frames, capsys):
    for name in ("night", "day"):
        (tmp_path / "in" / name).mkdir()
        for part in ("warp_hole", "hole"):
            (tmp_path / "in" / part).rename(tmp_path / "in" / name / part)
        if name == "night":
            for number, frame in enumerate(frames.values()):
                write_frame(tmp_path / "in", number, frame)
    for folder in [*(tmp_path / "in").glob("m*"), *(tmp_path / "in").glob("[or]*")]:
        folder.rename(tmp_path / folder.name)
    assert fill(run, tmp_path, "png=false") == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 4
    names = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    assert names == [
        f"{place}-{n}.exr"
        for place, n in (
            ("day/filled", 0),
            ("day/filled", 1),
            ("night/filled", 11),
            ("night/filled", 4),
        )
    ]


@pytest.mark.slow
def test_what_the_network_is_fed_is_asked_for(tmp_path, frames, capsys):
    run = trained(tmp_path, motion="true")
    assert fill(run, tmp_path) == 0
    (tmp_path / "in" / "motion" / "motion-4.exr").unlink()
    (tmp_path / "out").rename(tmp_path / "before")
    assert fill(run, tmp_path) == 0
    assert "frame 4: expected its motion image" in (tmp_path / "out/left_out.txt").read_text()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["tile=40"], "tile must be 0 or a multiple of 16 from 32 on"),
        (["tile=16"], "not 16. Take 32"),
        (["tile=64", "overlap=40"], "overlap must be at most half of tile=64, not 40"),
        (["crop=64"], "generate takes train.external, tile"),
        (["--seed", "1"], "draws nothing"),
        (["--batch-size", "2"], "takes its inputs one by one"),
    ],
)
def test_options_that_do_not_fit_are_refused(run, tmp_path, frames, capsys, options, says):
    assert fill(run, tmp_path, *options) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_holes_is_refused_with_what_is_wanted(run, tmp_path, frames, capsys):
    (tmp_path / "in" / "hole").rename(tmp_path / "in" / "masks")
    assert fill(run, tmp_path) == 2
    assert "expected hole/hole-<id>.exr" in capsys.readouterr().err
