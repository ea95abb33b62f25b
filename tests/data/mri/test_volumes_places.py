"""Where samples lie: their affines, for every way in which a patient is cut and padded."""

from __future__ import annotations

import numpy as np
import pytest

from data.mri.files import Patient
from data.mri.volumes import CutCounts, Rules, cut

RULES = {
    "group": "bravo",
    "normalise": "min_max",
    "below_zero": "auto",
    "low_percentile": 0.0,
    "high_percentile": 100.0,
    "slice_sum": -1.0,
    "empty_masks": False,
    "depth_padding": "replicate",
    "require_seg": False,
    "require_lesions": False,
    "least_lesion": 1,
}


@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize(("space", "axis"), [
    *(((8, 4), axis) for axis in range(3)),
    *(((depth, 8, 4), axis) for depth in (4, 5, 6, 9, 10) for axis in range(3)),
])
def test_every_sample_knows_where_it_lies(space, axis, fit):
    """Images whose values are places in mm, turned and sheared, against affine @ index."""
    affine = np.array([[0.2, 1.0, -2.0, 50], [0, 3.0, 0.5, 80], [1.5, 0.1, 0, 40], [0, 0, 0, 1]])
    shape = (6, 16, 12)
    index = np.stack([*np.indices(shape), np.ones(shape)])
    image = np.tensordot(affine[axis], index, 1).astype(np.float32)
    patient = Patient({}, {"bravo": image}, None, affine, (1.0, 1.0, 1.0), 0)
    samples = list(cut(patient, Rules(space=space, fit=fit, **RULES), CutCounts()))
    assert len(samples) == (6 if len(space) == 2 else 1)
    for sample in samples:
        found = sample.image[0] if len(space) == 3 else sample.image
        first, stop = sample.inside
        assert stop - first == (1 if len(space) == 2 else min(space[0], 6))
        index = np.stack([*np.indices(found.shape), np.ones(found.shape)])
        wanted = np.tensordot(sample.affine[axis], index, 1)
        # Where resizing sees neither a border nor the four rows that are padded at each end.
        inner = (slice(first, stop), slice(2, -2) if fit == "pad" else slice(1, -1), slice(1, -1))
        own = found * (image.max() - image.min()) + image.min()
        assert np.allclose(own[inner], wanted[inner], atol=1e-4)
