"""Volumes turned to the patient's axes, compared with nibabel."""

import nibabel
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from biovfm_hf.volumes import canonical


@settings(max_examples=100, deadline=None)
@given(st_numpy.arrays(np.float64, (3, 3), elements=st.floats(-3, 3)), st.booleans())
def test_orientation_is_nibabels(matrix, even):
    affine = np.eye(4)
    affine[:3, :3] = np.rint(matrix) if even else matrix
    array = np.arange(24).reshape(2, 3, 4)
    theirs = nibabel.io_orientation(affine)
    turned, spacing, _ = canonical(array, affine)
    if np.isnan(theirs).any() or np.linalg.matrix_rank(affine) < 4:
        return  # axes as stored, or in an order that nobody can tell
    assert np.array_equal(turned, nibabel.apply_orientation(array, theirs))
    expected = np.empty(3)
    expected[theirs[:, 0].astype(int)] = nibabel.affines.voxel_sizes(affine)
    assert np.allclose(spacing, expected)
