"""The verb `visualize_augmentations`: its figure, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

from ray_jobs import visualize_augmentations as verb
from settings.flat import replace
from settings.systems import SYSTEMS
from trainables.conditioner.system import Conditioner
from trainables.system import load_system

OWN = """
from dataclasses import dataclass, field

import torch

from data.mri.augment import AugmentSettings, augment
from data.mri.batch_augment import BatchAugment, BatchAugmentSettings
from settings.schema import Settings
from trainables.parts import Loaders


@dataclass(frozen=True, kw_only=True)
class OwnSettings(Settings):
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    batch_augment: BatchAugmentSettings = field(default_factory=BatchAugmentSettings)


class Samples(torch.utils.data.Dataset):
    def __init__(self, settings, space):
        self.settings, self.space = settings, space

    def __len__(self):
        return 20

    def __getitem__(self, key):
        index, seed = key
        image = torch.full((2, *self.space), index / 20)
        mask = torch.zeros(1, *self.space)
        if index in (3, 11):
            part = mask[0, 1] if mask.dim() == 4 else mask[0]
            part[10:20, 5:15] = 1.0
        sample = {"image": image, "mask": mask, "modality": torch.tensor(0),
                  "spacing": torch.ones(len(self.space))}
        generator = torch.Generator().manual_seed(seed)
        return {**augment(sample, self.settings, generator), "seed": torch.tensor(seed)}


class Flat:
    name = "drawn_by_a_test:Flat"
    Settings = OwnSettings
    originals = {"augment.kind": "none", "batch_augment.enabled": False}
    space = (40, 40)

    def prepare(self, settings, cache):
        return None

    def loaders(self, settings, prepared):
        samples = Samples(settings.augment, self.space)
        return Loaders(samples, samples, BatchAugment(settings.batch_augment))


class Deep(Flat):
    name = "drawn_by_a_test:Deep"
    space = (4, 40, 40)


class Always(Flat):
    name = "drawn_by_a_test:Always"
    originals = {}
"""

FACTOR, SIDE = 4, 160


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "drawn_by_a_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


def draw(tmp_path, system, *arguments):
    target = tmp_path / "new" / "views.png"
    status = verb.main([system, *arguments, "--output", str(target)])
    return status, np.asarray(Image.open(target)) if status == 0 else None


def cell(figure, row, column, channels=2):
    top = verb._HEADER + row * (SIDE + verb._GAP)
    left = verb._GAP + column * (channels * SIDE + verb._GAP)
    return figure[top : top + SIDE, left : left + channels * SIDE]


@pytest.mark.parametrize("system", ["Flat", "Deep"])
def test_the_originals_come_first_with_their_lesions_outlined(own, tmp_path, capsys, system):
    status, figure = draw(
        tmp_path, f"drawn_by_a_test:{system}", "--count", "3", "--views", "2", "augment.kind=vae"
    )
    assert status == 0
    width = 3 * (2 * SIDE + verb._GAP) + verb._GAP
    assert figure.shape == (3 * (SIDE + verb._GAP) + verb._HEADER + verb._GAP, width, 3)
    printed = capsys.readouterr().out
    indices = [
        int(text) for text in printed.split(":")[0].split()[2:] for text in [text.strip(",")]
    ]
    assert set(indices[:2]) == {3, 11}, "those with lesions come first"
    for row, index in enumerate(indices):
        wanted = np.full((SIDE, 2 * SIDE, 3), round(index / 20 * 255), np.uint8)
        if row < 2:  # 10 .. 20, 5 .. 15 times 4, one pixel wide, in both channels
            for left in (0, SIDE):
                rows, columns = slice(40, 80), slice(left + 20, left + 60)
                inner = wanted[41:79, left + 21 : left + 59].copy()
                wanted[rows, columns] = verb._OUTLINE
                wanted[41:79, left + 21 : left + 59] = inner
        assert np.array_equal(cell(figure, row, 0), wanted)
    views = [cell(figure, row, column) for row in range(3) for column in (1, 2)]
    assert len({view.tobytes() for view in views}) > 3


def test_equal_requests_draw_equal_figures_and_other_seeds_others(own, tmp_path):
    system = "drawn_by_a_test:Flat"
    first, again, other = (
        draw(tmp_path, system, "--seed", seed, "--views", "1")[1] for seed in ("0", "0", "1")
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_batches_are_mixed_as_in_a_training(own, tmp_path):
    mixed = ("batch_augment.enabled=true", "batch_augment.mixup_prob=1", "augment.kind=none")
    others = [f"batch_augment.{name}_prob=0" for name in ("cutmix", "mosaic", "copy_paste")]
    _, figure = draw(tmp_path, "drawn_by_a_test:Flat", *mixed, *others, "--views", "1")
    pairs = [(cell(figure, row, 0)[0, 0], cell(figure, row, 1)[0, 0]) for row in range(6)]
    assert any(not np.array_equal(*pair) for pair in pairs)


def test_a_system_that_names_no_originals_is_drawn_without_them(own, tmp_path):
    given = ("augment.kind=none", "--count", "3", "--views", "2")
    figures = [draw(tmp_path, f"drawn_by_a_test:{kind}", *given)[1] for kind in ("Flat", "Always")]
    assert [figure.shape[1] for figure in figures] == [
        columns * (2 * SIDE + verb._GAP) + verb._GAP for columns in (3, 2)
    ]
    assert np.array_equal(cell(figures[0], 2, 0), cell(figures[1], 2, 0))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SYSTEMS if load_system(name).originals])
def test_the_originals_of_a_system_depend_on_no_seed(name, tmp_path):
    system = load_system(name)
    settings = replace(system.Settings(), system.small)
    prepared = system.prepare(settings, tmp_path)

    def differ(settings):
        """Names of the tensors of a batch that its seed changes, but for the seed itself."""
        loaders = system.loaders(settings, prepared)
        one, other = (
            (loaders.collate or default_collate)([loaders.train[i, seed + i] for i in range(8)])
            for seed in (100, 200)
        )
        return {name for name in one if not torch.equal(one[name], other[name])} - {"seed"}

    assert differ(settings)
    assert not differ(replace(settings, system.originals))


@pytest.mark.slow
def test_a_system_without_a_mask(tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(tmp_path / "cache"))
    tiny = [
        f"{key}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for key, value in Conditioner.small.items()
    ]
    status, figure = draw(tmp_path, "conditioner", *tiny, "--count", "2")
    assert status == 0
    assert cell(figure, 1, 4, channels=1).any()


def test_what_cannot_be_drawn_is_refused(own, tmp_path, capsys):
    assert verb.main(["drawn_by_a_test:Flat", "--output", str(tmp_path / "views.jpg")]) == 2
    assert "a .png file, not" in capsys.readouterr().err
    assert draw(tmp_path, "trainables.toy:Toy")[0] == 2
    assert "only samples with an `image`" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("shape", [(6, 7), (1, 1), (12, 3)])
def test_an_outline_is_the_mask_without_its_erosion(shape):
    from scipy import ndimage

    mask = np.random.default_rng(0).random(shape) > 0.3
    wanted = mask & ~ndimage.binary_erosion(mask)
    assert np.array_equal(verb._outline(mask), wanted)
    assert torch.from_numpy(wanted).any()
