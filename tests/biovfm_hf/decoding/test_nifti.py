"""NIfTI, Analyze and MGH against nibabel."""

import gzip
import io
import struct

import numpy as np
import pytest

from biovfm_hf.errors import UnsafePath
from biovfm_hf.pixels import read_volume
from tests.biovfm_hf.decoding.samples import VOLUME, built

nibabel = pytest.importorskip("nibabel")


def test_a_pair_by_either_name_and_analyze(tmp_path):
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    nibabel.save(nibabel.Nifti1Pair(VOLUME, affine), tmp_path / "a.img")
    nibabel.save(nibabel.Nifti1Pair(VOLUME, affine), tmp_path / "B.img.gz")
    for name in ("a.img", "a.hdr", "B.img.gz", "B.hdr.gz"):
        volume = read_volume(tmp_path / name)
        assert np.array_equal(volume.array, VOLUME) and volume.spacing == (2.0, 3.0, 4.0), name
    nibabel.save(nibabel.AnalyzeImage(VOLUME, np.diag([-2.0, 3.0, 4.0, 1.0])), tmp_path / "c.img")
    theirs = nibabel.as_closest_canonical(nibabel.load(tmp_path / "c.img"))
    assert np.array_equal(read_volume(tmp_path / "c.hdr").array, np.asarray(theirs.dataobj))
    (tmp_path / "a.img.gz").write_bytes(gzip.compress((tmp_path / "a.img").read_bytes()))
    (tmp_path / "a.img").unlink()
    assert all(np.array_equal(read_volume(tmp_path / name).array, VOLUME) for name in ("a.hdr", "a.img.gz"))
    (tmp_path / "a.hdr").unlink()
    with pytest.raises(UnsafePath, match="gz: the file that holds"):
        read_volume(tmp_path / "a.img.gz")


@pytest.mark.parametrize("name", ["a.mgz", "a.mgh"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4"])
def test_mgh(tmp_path, name, dtype):
    affine = np.array([[0, 0, -2, 3], [2, 0, 0, 4], [0, 2, 0, 5], [0, 0, 0, 1]], float)
    image = nibabel.MGHImage((VOLUME % 99).astype(dtype), affine)
    nibabel.save(image, tmp_path / name)
    theirs = nibabel.as_closest_canonical(image)
    volume = read_volume(tmp_path / name)
    assert np.array_equal(volume.array, np.asarray(theirs.dataobj)) and volume.spacing == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("excess", [6e-7, 1e-4])
def test_a_quaternion_that_rounding_made_too_long(excess):
    image = nibabel.Nifti1Image(VOLUME, None)
    image.header["qform_code"], image.header["sform_code"] = 1, 0
    image.header["quatern_b"], image.header["quatern_c"] = 1 + excess, 0
    image.header["pixdim"][:4] = 1, 1, 1, 1
    volume = read_volume(io.BytesIO(image.to_bytes()), name="a.nii")
    assert np.array_equal(volume.array, VOLUME[:, ::-1, ::-1])  # half a turn about the first axis


def test_a_slope_without_an_intercept():
    image = nibabel.Nifti1Image(VOLUME, np.eye(4))
    data = bytearray(image.to_bytes())
    data[112:120] = struct.pack("<ff", 2.0, float("nan"))
    volume = read_volume(io.BytesIO(data), name="a.nii")
    assert (volume.slope, volume.intercept) == (2.0, 0.0)


def test_a_handedness_of_zero_is_right_handed(tmp_path):
    image = nibabel.Nifti1Image(VOLUME, None)
    image.set_qform(np.array([[0, -1, 0, 5], [1, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]], float), 1)
    data = bytearray(image.to_bytes())
    data[76:80] = struct.pack("<f", 0.0)
    (tmp_path / "a.nii").write_bytes(data)
    theirs = nibabel.as_closest_canonical(nibabel.load(tmp_path / "a.nii"))
    volume = read_volume(tmp_path / "a.nii")
    assert np.array_equal(volume.array, np.asarray(theirs.dataobj)) and volume.spacing == (1.0, 1.0, 2.0)


def test_a_matrix_of_zeros_gives_way_to_the_quaternion():
    image = nibabel.Nifti1Image(VOLUME, None)
    image.set_qform(np.diag([2.0, 3.0, 4.0, 1.0]), 1)
    image.header["sform_code"] = 1
    assert read_volume(io.BytesIO(image.to_bytes()), name="a.nii").spacing == (2.0, 3.0, 4.0)


@pytest.mark.parametrize("shape", [(20, 24), (20, 1, 24), (1, 20, 24)])
def test_one_slice_is_a_picture(tmp_path, shape):
    nibabel.save(nibabel.Nifti1Image(VOLUME.reshape(-1)[:20].repeat(24).reshape(shape), np.eye(4)), tmp_path / "a.nii")
    assert [picture.pixels.shape for picture in built(tmp_path / "a.nii", "volume")] == [(24, 20)]
