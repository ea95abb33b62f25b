"""Masks that miss what is asked for are drawn again, and counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data.mri.nifti_write import write_nifti
from ray_jobs.generation import merged
from settings.flat import replace
from settings.schema import SettingsError
from trainables.diffusion.filters import Filter, FilterSettings, with_retries
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
        (mask(SMALL, LARGE), (1, 0, 1), True),
        (mask(SMALL, LARGE), (1, 0, 0), False),
        (mask(SMALL, LARGE), (), True),
        (mask(), (), False),
        (mask(*(((4 * i, 4 * i + 1), (0, 1)) for i in range(6))), (), False),
        (mask(((0, 20), (0, 20))), (), False),  # a quarter of the image
    ],
    ids=["as asked", "one too many", "any", "none", "six", "too much"],
)
def test_a_mask_is_taken_by_its_lesions_and_their_share(image, counts, expected):
    assert Filter(FilterSettings(), counts, EDGES, 1).takes(image, AFFINE) == expected


def test_sizes_are_in_mm_along_each_axis():
    """Three voxels along d are 9 mm, three along w 3 mm."""
    along_d, along_w = (
        mask(((2, 5), (2, 3), (2, 3)), shape=(8, 8, 8)),
        mask(((2, 3), (2, 3), (2, 5)), shape=(8, 8, 8)),
    )
    for image, counts in ((along_d, (0, 1, 0)), (along_w, (1, 0, 0))):
        assert Filter(FilterSettings(), counts, EDGES, 1).takes(image, AFFINE)


def test_attempts_are_counted_and_do_not_depend_on_the_batch():
    def made(seeds, places):
        return (seeds % 5).double()[:, None]

    def takes(image, place):
        return float(image) == 0.0

    seeds = torch.arange(20, dtype=torch.int64)
    images, attempts, missed = with_retries(made, seeds, takes, 100)
    assert (images == 0.0).all() and missed == 0 and attempts > 16
    alone = [with_retries(made, seeds[i : i + 1], takes, 100) for i in range(20)]
    assert sum(each[1] for each in alone) == attempts
    assert with_retries(made, seeds, takes, 0)[1:] == (0, 16)
    images, attempts, missed = with_retries(made, seeds, lambda image, place: False, 3)
    assert (attempts, missed) == (60, 20)


def disc(radius, hole=0, side=40):
    """A brain of that radius at 0.5, with a dark hole in its middle; [2, H, W], one channel of
    two."""
    rows, columns = np.ogrid[:side, :side]
    distance = np.hypot(rows - side / 2, columns - side / 2)
    image = torch.zeros(2, side, side)
    image[1] = torch.from_numpy(np.where((distance < radius) & (distance >= hole), 0.5, 0.01))
    return image


@pytest.mark.parametrize(
    ("image", "lesion", "inside", "expected"),
    [
        (disc(15), ((18, 22), (18, 22)), 1.0, True),
        (disc(15, hole=6), ((18, 22), (18, 22)), 1.0, True),
        (disc(15), ((0, 3), (0, 3)), 1.0, False),
        (disc(15), ((18, 22), (30, 40)), 1.0, False),
        (disc(15), ((18, 22), (30, 40)), 0.4, True),
        (disc(15), ((18, 22), (30, 40)), 0.6, False),
        (torch.zeros(2, 40, 40), ((18, 22), (18, 22)), 1.0, False),
    ],
    ids=["inside", "dark lesion", "outside", "half", "half will do", "more than half", "no brain"],
)
def test_an_image_is_taken_where_its_lesions_are_in_its_brain(image, lesion, inside, expected):
    """Half of the lesion at the edge: 20 of its 40 pixels are less than 15 from the middle."""
    taken = Filter(FilterSettings(inside=inside), (), EDGES, 1)
    assert taken.takes(image, AFFINE, mask(lesion)) == expected


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
    found = {}
    for inside, brain in ((1.0, 1.0), (0.0, 1.0)):
        options = replace(
            GenerateSettings(), {**wanted, "filter.brain": brain, "filter.inside": inside}
        )
        request = Request(source=tmp_path / "in", target=tmp_path, options=options, count=2)
        with torch.no_grad():
            measures = merged([SYSTEM.generate(settings, modules, request)])
        found[inside] = (measures["further_attempts"], measures["not_met"])
    assert found == {1.0: (8, 4), 0.0: (0, 0)}  # two slices, two images each


def test_generate_draws_masks_again(shared_cache, tmp_path):
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
    assert measures["further_attempts"] == 6 and measures["not_met"] == 3
    images = replace(SYSTEM.Settings(), SYSTEM.small)
    modules = SYSTEM.build(images, SYSTEM.prepare(images, shared_cache)).modules
    with pytest.raises(SettingsError, match="looks at masks"):
        SYSTEM.generate(
            images, modules, Request(target=tmp_path, options=replace(GenerateSettings(), wanted))
        )
