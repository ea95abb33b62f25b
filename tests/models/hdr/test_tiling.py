"""Frames through the model, whole and in tiles: what padding and tiles must not change."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from models.hdr.head import HeadSettings
from models.hdr.network import HdrPatchModel, ModelSettings
from models.hdr.tiling import fill_frame
from settings.flat import replace


def model_with(output: float = 0.3, **head: object) -> HdrPatchModel:
    """An untrained model whose residuals are of that size."""
    torch.manual_seed(0)
    changes = {
        "prefill": "push_pull",
        "cap.log_delta_max": 3.0,
        **{k.replace("__", "."): v for k, v in head.items()},
    }
    model = HdrPatchModel(ModelSettings(width=4), replace(HeadSettings(), changes)).eval()
    nn.init.normal_(model.network.output.weight, std=output)
    return model


def frame_of(
    height: int, width: int, hole: tuple[slice, slice] | None = None
) -> dict[str, Tensor]:
    """Smooth log radiance over about 6 nat with texture, and a hole."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    rows = torch.linspace(-2.0, 1.5, height)[:, None] + torch.linspace(-1.0, 1.5, width)
    log = rows + 0.2 * torch.randn(1, 3, height, width, generator=generator)
    mask = torch.zeros(1, 1, height, width)
    at = hole or (slice(height // 4, height // 2), slice(width // 3, 2 * width // 3))
    mask[0, 0, at[0], at[1]] = 1.0
    return {"warped": log.exp() * (1.0 - mask), "hole": mask}


def log_of(model: HdrPatchModel, radiance: Tensor) -> Tensor:
    return (radiance + model.head.settings.epsilon).log()


@torch.no_grad()
def test_a_frame_that_fits_is_what_the_model_makes_of_it_to_the_bit() -> None:
    model, frame = model_with(), frame_of(64, 96)
    filled = fill_frame(model, frame)
    assert torch.equal(filled.radiance, model(frame)["radiance"])
    assert filled.seam == (0.0, 0.0)


def test_padding_is_in_no_percentile_and_in_no_first_guess() -> None:
    """A frame and the same with its border repeated to 16ths agree; with black valid pixels as
    padding they do not.
    """
    model, frame = model_with(prefill="nearest"), frame_of(75, 101)
    missing = (0, 11, 0, 5)
    repeated = {key: F.pad(plane, missing, mode="replicate") for key, plane in frame.items()}
    black = {key: F.pad(plane, missing) for key, plane in frame.items()}
    hole = (frame["hole"] > 0).expand_as(frame["warped"])
    padded = log_of(model, fill_frame(model, frame).radiance)

    def apart(other: Mapping[str, Tensor]) -> float:
        whole = log_of(model, fill_frame(model, other).radiance)[..., :75, :101]
        return float((whole - padded)[hole].abs().mean())

    idle = log_of(model, fill_frame(model_with(0.0, prefill="nearest"), frame).radiance)
    base = float((padded - idle)[hole].abs().mean())
    assert base > 0.3, "the network does something"
    assert apart(repeated) < 0.02 * base
    assert apart(black) > 0.2 * base


def test_the_networks_input_is_padded_after_the_head_has_prepared_it() -> None:
    model, frame = model_with(), frame_of(75, 101)
    seen: list[Tensor] = []
    model.network.register_forward_pre_hook(lambda module, given: seen.extend(given[:2]))
    fill_frame(model, frame)
    image = model.head.prepare(frame)["image"]
    assert seen[0].shape[-2:] == (80, 112)
    assert torch.equal(seen[0], F.pad(image, (0, 11, 0, 5), mode="replicate"))
    assert torch.equal(seen[1], F.pad(frame["hole"], (0, 11, 0, 5), mode="replicate"))


@given(
    height=st.integers(9, 90),
    width=st.integers(9, 90),
    tile=st.sampled_from([0, 32, 48]),
    overlap=st.integers(0, 16),
)
def test_every_size_is_filled_and_valid_pixels_come_back_to_the_bit(
    height: int, width: int, tile: int, overlap: int
) -> None:
    model, frame = model_with(), frame_of(height, width)
    filled = fill_frame(model, frame, tile, overlap)
    ring = F.max_pool2d(frame["hole"], 3, stride=1, padding=1) > 0
    assert torch.equal(filled.changed, ring)
    kept = ~ring.expand_as(filled.radiance)
    assert torch.equal(filled.radiance[kept], frame["warped"][kept])
    assert bool(torch.isfinite(filled.radiance).all())
    assert float(filled.radiance.min()) > 1e-4, "no tile is left black"


def test_a_residual_that_is_everywhere_the_same_has_no_seam() -> None:
    """Over a base of 0 and without a percentile in the scale, tiles know nothing of each other."""
    model = model_with(0.0, prefill="zero")
    nn.init.constant_(model.network.output.bias, 0.4)
    frame = frame_of(80, 112)
    whole, tiled = fill_frame(model, frame), fill_frame(model, frame, 32, 8)
    assert tiled.seam[0] < 1e-5 * tiled.seam[1]
    torch.testing.assert_close(tiled.radiance, whole.radiance, rtol=1e-4, atol=0.0)


def test_tiles_that_differ_are_mixed_by_a_line_and_the_difference_is_told() -> None:
    """Two tiles of 64 in a row of 96, each with its own median as the first guess."""
    model = model_with(0.0, prefill="median_log", ring_scale=0.0)
    frame = frame_of(64, 96, (slice(20, 24), slice(2, 94)))
    filled = fill_frame(model, frame, 64, 32)
    log = log_of(model, filled.radiance)
    left, right = log[0, :, 21, 10], log[0, :, 21, 90]
    share = torch.arange(1, 33) / 33.0
    line = left[:, None] + (right - left)[:, None] * share
    torch.testing.assert_close(log[0, :, 21, 32:64], line, rtol=0.0, atol=1e-4)
    values, count = filled.seam
    assert count == 4 * 32 * 3
    assert values / count == pytest.approx(float((right - left).abs().mean()), rel=1e-4)


def test_a_tile_inside_a_large_hole_guesses_from_around_it() -> None:
    model = model_with(0.0)
    frame = frame_of(192, 192, (slice(40, 150), slice(40, 150)))
    found = fill_frame(model, frame, 32, 8).radiance[0, :, 40:150, 40:150]
    assert float(found.min()) > 0.05, "the darkest valid pixel beside the hole has about 0.1"
    whole = fill_frame(model, frame).radiance[0, :, 40:150, 40:150]
    assert float((found.log() - whole.log()).abs().mean()) < 0.7


def test_a_network_that_can_be_told_fills_a_frame_without_its_motion() -> None:
    torch.manual_seed(0)
    settings = ModelSettings(width=4, use_motion=True)
    model = HdrPatchModel(settings, HeadSettings(prefill="push_pull"), ("motion",)).eval()
    nn.init.normal_(model.network.output.weight, std=0.3)
    frame = frame_of(75, 101)
    still = {**frame, "motion": torch.zeros(1, 2, 75, 101)}
    unknown, known = (fill_frame(model, model.completed(f), 48, 16) for f in (frame, still))
    assert bool(torch.isfinite(unknown.radiance).all())
    assert not torch.equal(unknown.radiance, known.radiance), (
        "that it is unknown is no motion of 0"
    )
