"""MATLAB files of levels 4 and 5, against scipy."""

import numpy as np
import pytest

from biovfm_hf.errors import UserError
from biovfm_hf.pixels import decode
from tests.biovfm_hf.decoding.samples import SHADES, assert_read, smooth

scipy_io = pytest.importorskip("scipy.io")


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_structures_and_cells(tmp_path, compressed):
    image = SHADES.astype(np.int16)
    nested = {"cjdata": {"label": 2.0, "mask": image > 9, "inner": {"image": image}}, "text": "hello"}
    scipy_io.savemat(tmp_path / "a.mat", nested, do_compression=compressed)
    assert np.array_equal(decode(tmp_path / "a.mat").array, image)
    cells = np.empty(2, object)
    cells[:] = ["a", image]
    scipy_io.savemat(tmp_path / "b.mat", {"cells": cells}, do_compression=compressed)
    assert np.array_equal(decode(tmp_path / "b.mat").array, image)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "f4", "f8"])
def test_level_4(tmp_path, dtype):
    values = smooth(top=255 if dtype == "u1" else 4080)
    others = {"name": "text", "imaginary": np.ones((99, 99)) * 1j, "number": 3.0}
    scipy_io.savemat(tmp_path / "a.mat", {**others, "x": values.astype(dtype)}, format="4")
    assert np.array_equal(scipy_io.loadmat(tmp_path / "a.mat")["x"], values)
    assert_read(tmp_path / "a.mat", values)
    data = (tmp_path / "a.mat").read_bytes()
    for damaged in (data[:-800], data[:24] + b"x" * 30 + data[24:], data[:60]):
        with pytest.raises(UserError):
            decode(damaged, name="a.mat")


@pytest.mark.parametrize("dtype", ["i2", "f8"])
def test_level_4_of_other_byte_order(dtype):
    values = smooth().astype(f">{dtype}")
    kind = 1000 + 10 * ["f8", "f4", "i4", "i2"].index(dtype)
    header = np.array([kind, *values.shape, 0, 2], ">i4").tobytes()
    assert np.array_equal(decode(header + b"x\0" + values.tobytes(order="F"), name="a.mat").array, values)
