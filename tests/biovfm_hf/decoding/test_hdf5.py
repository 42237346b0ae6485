"""HDF5, and MATLAB files of version 7.3."""

import numpy as np
import pytest

from biovfm_hf.decoding import Source, read_file
from biovfm_hf.errors import UserError
from biovfm_hf.pixels import decode
from tests.biovfm_hf.decoding.samples import RNG, SHADES, slice_of, smooth

h5py = pytest.importorskip("h5py")


def test_matlab_7_3_structures(tmp_path):
    image = SHADES.astype(np.int16)
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        group = file.create_group("cjdata")
        for name, kind in (("image", "int16"), ("tumorMask", "logical"), ("words", "char")):
            group[name] = (
                (image > 9).astype(np.uint8).T
                if kind == "logical"
                else image.T.astype("u2" if kind == "char" else "i2")
            )
            group[name].attrs["MATLAB_class"] = np.bytes_(kind)
        file["other"] = h5py.ExternalLink("elsewhere.h5", "/image")
    data = bytearray((tmp_path / "a.mat").read_bytes())
    data[:128] = b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM"
    (tmp_path / "a.mat").write_bytes(data)
    assert np.array_equal(decode(tmp_path / "a.mat").array, image)


def test_the_largest_array_of_a_file(tmp_path):
    stack = np.stack([smooth(n) for n in range(5)]).astype(np.uint16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["group/stack"], file["labels"], file["kspace"] = stack, np.arange(9), np.ones((9, 99, 99), np.complex64)
    assert all(np.array_equal(slice_of(tmp_path / "a.h5", n), stack[n]) for n in range(5))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["labels"] = np.arange(9)
    with pytest.raises(UserError, match="no array of numbers"):
        decode(tmp_path / "b.h5")


def test_pictures_behind_each_other_are_read_one_at_a_time(tmp_path, monkeypatch):
    stack = RNG.integers(0, 256, (6, 64, 80, 3), np.uint8)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["x"] = stack
    with (tmp_path / "a.hdf5").open("rb") as file:
        pages = read_file(Source(file, "a.hdf5", max_bytes=stack[0].nbytes))
        assert pages.count == 6 and np.array_equal(pages.page(4).array, stack[4])
    assert np.array_equal(decode(tmp_path / "a.hdf5", slice_index=5).array, stack[5])
