"""The pictures of the systems, on tensors that are known."""

from __future__ import annotations

import torch

from trainables.conditioner.system import Conditioner
from trainables.drawing import PICTURED, rows
from trainables.hdr_patch.system import HdrPatch


def test_rows_lie_below_each_other_and_show_the_first_images():
    images = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 2, 3) / 16.0
    drawn = rows(images, 1.0 - images)
    assert drawn.shape == (3, 4, 3 * PICTURED)
    for number in range(PICTURED):
        assert torch.equal(drawn[:, 1, 3 * number], torch.full((3,), number / 16.0))
        assert torch.equal(drawn[:, 2, 3 * number + 2], torch.full((3,), 1.0 - number / 16.0))


def test_a_hole_is_black_in_the_first_row_and_filled_in_the_second():
    batch = {"warped": torch.full((2, 3, 4, 5), 0.5), "hole": torch.zeros(2, 1, 4, 5)}
    batch["hole"][:, :, 1, 2] = 1.0
    batch["target"] = torch.full((2, 3, 4, 5), 1e3)
    image = HdrPatch().picture({"radiance": batch["warped"]}, batch)
    assert image.shape == (3, 12, 10)
    assert not image[:, 1, 2].any() and image[:, 1, 1].all()
    assert torch.equal(image[:, 5, 2], image[:, 5, 1])
    assert (image[:, 8:] == 1.0).all()  # a highlight is white


def test_fields_are_drawn_on_the_scale_of_the_true_ones():
    true = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(1)) * 7.0 - 2.0
    fields = {"hier": true, "field": true, "target_field": true}
    image = Conditioner().picture(fields, {"hier": true})
    assert image.shape == (3, 12, 18)
    assert torch.equal(image[:, :4], image[:, 4:8]) and not image[:, 8:].any()
    assert (float(image.min()), float(image.max())) == (0.0, 1.0)
    latents = Conditioner().picture({"hier": true + 9.0}, {"hier": true})
    assert (latents[:, 4:] == 1.0).all()
