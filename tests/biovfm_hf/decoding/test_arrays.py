"""Arrays of numbers: which are pictures, which axis counts slices."""

import h5py
import numpy as np
import pytest
import scipy.io

from biovfm_hf.decoding.arrays import slice_axis
from biovfm_hf.errors import UserError
from biovfm_hf.pixels import decode, to_uint8
from tests.biovfm_hf.decoding.samples import RNG, SHADES, slice_of

tifffile = pytest.importorskip("tifffile")


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((100, 64, 64), 0), ((200, 40, 40), 0), ((64, 64, 20), 2), ((64, 64, 100), 2), ((100, 64, 80), 0),
     ((64, 80, 20), 2), ((20, 64, 80), 0), ((64, 64, 64), 0)],
)  # fmt: skip
def test_which_axis_counts_the_slices(tmp_path, shape, axis):
    assert slice_axis(shape) == axis
    array = RNG.integers(0, 999, shape).astype(np.int16)
    np.save(tmp_path / "a.npy", array)
    assert np.array_equal(slice_of(tmp_path / "a.npy", 3), np.take(array, 3, axis))


def test_pictures_behind_each_other_and_channels_first(tmp_path):
    stack = RNG.integers(0, 256, (4, 6, 8, 3), np.uint8)
    np.save(tmp_path / "a.npy", stack)
    np.save(tmp_path / "b.npy", stack.transpose(0, 3, 1, 2))
    np.save(tmp_path / "c.npy", stack[0].transpose(2, 0, 1))
    for name in ("a.npy", "b.npy"):
        assert np.array_equal(slice_of(tmp_path / name, 3), stack[3])
    assert np.array_equal(decode(tmp_path / "c.npy").array, stack[0])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_gives_its_largest_array(tmp_path, save):
    save(tmp_path / "a.npz", labels=np.arange(7), images=SHADES.astype(np.uint16), note=np.array("hello"))
    assert np.array_equal(decode(tmp_path / "a.npz").array, SHADES)
    save(tmp_path / "b.npz", labels=np.array([{}], object))
    with pytest.raises(UserError):
        decode(tmp_path / "b.npz")


def test_floats_of_any_range_in_a_file_are_stretched_alike(tmp_path):
    ramp = np.linspace(0, 1, 4096).reshape(64, 64)
    expected = to_uint8(decode((ramp * 1000).astype(np.float32)))
    for scale, dtype in ((1e-6, "f4"), (0.00255, "f4"), (0.5, "f4"), (1.0, "f4"), (3e5, "f4"), (1e307, "f8")):
        array = (ramp * scale).astype(dtype)
        tifffile.imwrite(tmp_path / "a.tif", array)
        np.save(tmp_path / "a.npy", array)
        for name in ("a.tif", "a.npy"):
            assert np.abs(to_uint8(decode(tmp_path / name)).astype(int) - expected).max() <= 1, (name, scale)


def test_of_a_mask_and_a_picture_of_one_size_the_picture_is_read(tmp_path):
    picture = np.arange(30, dtype=np.float32).reshape(5, 6)
    np.savez(tmp_path / "a.npz", a_mask=picture > 9, picture=picture)
    np.savez(tmp_path / "b.npz", label=np.float32(picture > 9), picture=picture)
    scipy.io.savemat(tmp_path / "b.mat", {"GT": np.float32(picture > 9), "picture": picture})
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["annotation"], file["picture"] = np.uint8(picture > 9), picture
    for name in ("b.npz", "b.mat", "b.h5"):
        assert np.array_equal(decode(tmp_path / name).array, picture), name
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a_mask"], file["picture"] = picture > 9, picture
    for name in ("a.npz", "a.h5"):
        assert np.array_equal(decode(tmp_path / name).array, picture)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a_mask"] = picture > 9
    assert np.array_equal(to_uint8(decode(tmp_path / "a.h5")), (picture > 9) * 255)
