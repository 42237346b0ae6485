"""NIfTI, Analyze and MGH against nibabel."""

import io
import struct

import numpy as np
import pytest

from biovfm_hf.errors import UnsafePath
from biovfm_hf.pixels import read_volume
from tests.biovfm_hf.decoding.samples import VOLUME

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
    (tmp_path / "a.hdr").unlink()
    with pytest.raises(UnsafePath):
        read_volume(tmp_path / "a.img")


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
