"""Orientations and palettes of pictures."""

import numpy as np
import pytest

from biovfm_hf.pictures import coloured, oriented


def test_every_orientation_is_undone_by_its_inverse():
    array = np.arange(6).reshape(2, 3)
    inverse = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
    assert all(np.array_equal(oriented(oriented(array, one), inverse[one]), array) for one in inverse)
    assert len({oriented(array, one).tobytes() + bytes(oriented(array, one).shape) for one in inverse}) == 8


@pytest.mark.parametrize(
    ("top", "dtype", "white"), [(255, np.uint8, None), (65535, np.uint8, None), (4080, np.uint16, 4095.0)]
)
def test_a_palette_keeps_the_levels_that_it_uses(top, dtype, white):
    tables = np.stack([np.rint(np.linspace(0, top, 256)), np.rint(np.linspace(top, 0, 256)), np.zeros(256)])
    numbers = np.arange(256).reshape(16, 16)
    pixels = coloured(numbers, tables.astype(np.uint16))
    assert pixels.array.dtype == dtype and pixels.window == (None if white is None else (0.0, white))
    levels = tables.astype(np.uint16)[:, numbers]
    assert np.array_equal(np.moveaxis(pixels.array, -1, 0), levels >> 8 if top == 65535 else levels)
