"""Masks that miss what is asked for are drawn again, and counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data.mri.nifti_write import write_nifti
from ray_jobs.generation import merged
from settings.flat import replace
from settings.schema import SettingsError
from trainables.diffusion.filters import Filter, FilterSettings, Miss, with_retries
from trainables.diffusion.system import Diffusion
from trainables.diffusion.use import GenerateSettings
from trainables.request import Request

SYSTEM = Diffusion()
EDGES = (0.0, 5.0, 10.0)
AFFINE = np.diag([3.0, 1.0, 1.0, 1.0])  # (d, h, w) to mm: slices 3 mm apart


def mask(*boxes, shape=(40, 40)):
    image = torch.zeros(1, *shape)
    for box in boxes:
        image[(0, *(slice(low, high) for low, high in box))] = 1.0
    return image


SMALL, LARGE = ((2, 4), (2, 4)), ((10, 12), (10, 24))  # some 2 and 14 mm


@pytest.mark.parametrize(
    ("image", "counts", "expected"),
    [
        (mask(SMALL, LARGE), (1, 0, 1), None),
        (
            mask(SMALL, LARGE),
            (1, 0, 0),
            Miss("counts", "lesions by size: [1, 0, 1]; counts=[1, 0, 0]"),
        ),
        (mask(SMALL, LARGE), (), None),
        (mask(), (), Miss("lesions", "lesions: 0; filter.least=1, filter.most=5")),
        (
            mask(*(((4 * i, 4 * i + 1), (0, 1)) for i in range(6))),
            (),
            Miss("lesions", "lesions: 6; filter.least=1, filter.most=5"),
        ),
        (mask(((0, 20), (0, 20))), (), Miss("white", "share of lesion: 0.25; filter.white=0.04")),
    ],
    ids=["as asked", "one too many", "any", "none", "six", "too much"],
)
def test_a_mask_is_taken_by_its_lesions_and_their_share(image, counts, expected):
    assert Filter(FilterSettings(), counts, EDGES, 1).miss(image, AFFINE) == expected


def test_sizes_are_in_mm_along_each_axis():
    """Three voxels along d are 9 mm, three along w 3 mm."""
    along_d, along_w = (
        mask(((2, 5), (2, 3), (2, 3)), shape=(8, 8, 8)),
        mask(((2, 3), (2, 3), (2, 5)), shape=(8, 8, 8)),
    )
    for image, counts in ((along_d, (0, 1, 0)), (along_w, (1, 0, 0))):
        assert Filter(FilterSettings(), counts, EDGES, 1).miss(image, AFFINE) is None


def test_attempts_are_counted_and_do_not_depend_on_the_batch():
    def made(seeds, places):
        return (seeds % 5).double()[:, None]

    def miss(image, place):
        return None if float(image) == 0.0 else Miss("value", f"{float(image):g}")

    seeds = torch.arange(20, dtype=torch.int64)
    images, attempts, misses = with_retries(made, seeds, miss, 100)
    assert (images == 0.0).all() and misses == {} and attempts > 16
    alone = [with_retries(made, seeds[i : i + 1], miss, 100) for i in range(20)]
    assert sum(each[1] for each in alone) == attempts
    images, attempts, misses = with_retries(made, seeds, miss, 0)
    assert attempts == 0
    assert misses == {i: Miss("value", f"{i % 5}") for i in range(20) if i % 5}
    _, attempts, misses = with_retries(made, seeds, lambda image, place: Miss("none", ""), 3)
    assert (attempts, list(misses)) == (60, list(range(20)))


def disc(radius, hole=0, side=40):
    """A brain of that radius at 0.5, with a dark hole in its middle; [2, H, W], one channel of
    two."""
    rows, columns = np.ogrid[:side, :side]
    distance = np.hypot(rows - side / 2, columns - side / 2)
    image = torch.zeros(2, side, side)
    image[1] = torch.from_numpy(np.where((distance < radius) & (distance >= hole), 0.5, 0.01))
    return image


@pytest.mark.parametrize(
    ("image", "lesion", "inside", "share"),
    [
        (disc(15), ((18, 22), (18, 22)), 1.0, None),
        (disc(15, hole=6), ((18, 22), (18, 22)), 1.0, None),
        (disc(15), ((0, 3), (0, 3)), 1.0, 0.0),
        (disc(15), ((18, 22), (30, 40)), 1.0, 0.5),
        (disc(15), ((18, 22), (30, 40)), 0.4, None),
        (disc(15), ((18, 22), (30, 40)), 0.6, 0.5),
        (torch.zeros(2, 40, 40), ((18, 22), (18, 22)), 1.0, 0.0),
    ],
    ids=["inside", "dark lesion", "outside", "half", "half will do", "more than half", "no brain"],
)
def test_an_image_is_taken_where_its_lesions_are_in_its_brain(image, lesion, inside, share):
    """Half of the lesion at the edge: 20 of its 40 pixels are less than 15 from the middle."""
    miss = Filter(FilterSettings(inside=inside), (), EDGES, 1).miss(image, AFFINE, mask(lesion))
    text = f"share of the lesions in brain: {share}; filter.inside={inside:g}"
    assert miss == (None if share is None else Miss("inside", text.replace("0.0;", "0;")))


def test_generate_draws_images_again_whose_lesions_lie_outside(shared_cache, tmp_path):
    """Of values around 0 no lesion is whole above 1; a share of 0 is met by all."""
    changes = {"condition.mask.enabled": True}
    settings = replace(SYSTEM.Settings(), {**SYSTEM.small, **changes})
    torch.manual_seed(0)
    modules = SYSTEM.build(settings, SYSTEM.prepare(settings, shared_cache)).modules
    for module in modules.values():
        module.eval()
    lesions = np.zeros((16, 16, 2), np.uint8)
    lesions[4:8, 5:9] = 1
    write_nifti(tmp_path / "in" / "one" / "seg.nii.gz", lesions, np.eye(4), "a mask")
    wanted = {"filter.enabled": True, "filter.retries": 2, "sampling.steps": 1}
    found, files = {}, {}
    for inside, brain in ((1.0, 1.0), (0.0, 1.0)):
        options = replace(
            GenerateSettings(), {**wanted, "filter.brain": brain, "filter.inside": inside}
        )
        target = tmp_path / str(inside)
        request = Request(source=tmp_path / "in", target=target, options=options, count=2)
        with torch.no_grad():
            measures = merged([SYSTEM.generate(settings, modules, request)])
        found[inside] = (measures["further_attempts"], measures["not_met"])
        files[inside] = sorted(str(path.relative_to(target)) for path in target.rglob("*.nii.gz"))
    assert found == {1.0: (8, 4), 0.0: (0, 0)}  # two slices, two images each
    names = [f"one/bravo_slice_00{a}_sample_00{b}.nii.gz" for a in (0, 1) for b in (0, 1)]
    assert files == {1.0: [f"not_met/{name}" for name in names], 0.0: names}
    why = (tmp_path / "1.0" / "not_met" / "one" / "bravo_slice_001_sample_000.txt").read_text()
    assert why == "share of the lesions in brain: 0; filter.inside=1\n"


def test_generate_draws_masks_again_and_says_which_were_never_met(shared_cache, tmp_path, capsys):
    changes = {"data.group": "seg", "condition.sizes.enabled": True}
    settings = replace(SYSTEM.Settings(), {**SYSTEM.small, **changes})
    torch.manual_seed(0)
    modules = SYSTEM.build(settings, SYSTEM.prepare(settings, shared_cache)).modules
    for module in modules.values():
        module.eval()
    wanted = {"filter.enabled": True, "filter.retries": 2, "sampling.steps": 1}
    options = replace(GenerateSettings(), {**wanted, "counts": (9, 0, 0, 0, 0, 0, 0)})
    request = Request(target=tmp_path, options=options, count=3)
    with torch.no_grad():
        measures = merged([SYSTEM.generate(settings, modules, request)])
    assert measures["further_attempts"] == 6
    assert measures["not_met"] == measures["not_met_counts"] == 3
    missed = {path.name for path in (tmp_path / "not_met").iterdir()}
    assert missed == {f"00000{i}.{end}" for i in range(3) for end in ("nii.gz", "txt")}
    assert not list(tmp_path.glob("*.nii.gz"))
    for path in (tmp_path / "not_met").glob("*.txt"):
        assert path.read_text().endswith("; counts=[9, 0, 0, 0, 0, 0, 0]\n")
    said = capsys.readouterr().err
    assert said.startswith("warning: 3 of 3 met the filter in no attempt (filter.retries=2): see ")
    images = replace(SYSTEM.Settings(), SYSTEM.small)
    modules = SYSTEM.build(images, SYSTEM.prepare(images, shared_cache)).modules
    with pytest.raises(SettingsError, match="looks at masks"):
        SYSTEM.generate(
            images, modules, Request(target=tmp_path, options=replace(GenerateSettings(), wanted))
        )
