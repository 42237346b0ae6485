"""A second decoder checks ours on the files that pydicom, nibabel and scikit-image ship, and that ITK writes.

SimpleITK judges DICOM, NIfTI, NRRD and MetaImage; nibabel all that it carries; OpenCV, tifffile and PyAV pictures.
`DIFFERENT` says of each file that comes out otherwise why.
"""

from pathlib import Path

import numpy as np
import pytest

from biovfm_hf.errors import NoPicture, UserError
from biovfm_hf.pixels import decode, read_volume

sitk = pytest.importorskip("SimpleITK")
nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")
cv2 = pytest.importorskip("cv2")
av = pytest.importorskip("av")
tifffile = pytest.importorskip("tifffile")
skimage = pytest.importorskip("skimage")

sitk.ProcessObject.SetGlobalWarningDisplay(False)
RNG = np.random.default_rng(0)
DIFFERENT = {
    "SC_rgb_rle_16bit.dcm": "ITK takes the byte planes of RLE colour in another order than PS3.5 G.2",
    "SC_rgb_rle_16bit_2frame.dcm": "as SC_rgb_rle_16bit.dcm",
    "SC_rgb_rle_32bit.dcm": "as SC_rgb_rle_16bit.dcm",
    "SC_rgb_rle_32bit_2frame.dcm": "as SC_rgb_rle_16bit.dcm",
    "badVR.dcm": "a dose, which is no picture",
    "rtdose.dcm": "a dose, which is no picture",
    "rtdose_expb.dcm": "a dose, which is no picture",
    "rtdose_rle.dcm": "a dose, which is no picture",
    "liver_1frame.dcm": "a segmentation, which is no picture",
    "liver_expb_1frame.dcm": "a segmentation, which is no picture",
}


def packaged(module, pattern):
    folder = Path(module.__file__).parent
    return sorted(path for path in folder.glob(pattern) if path.is_file() and path.stat().st_size < 8 << 20)


def stacked_slices(path):
    """What ITK reads: (slices, rows, columns) of a volume, or (rows, columns[, 3])."""
    try:
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError:
        return None


def test_dicom_has_the_values_that_itk_reads():
    """Every file, with its first and last frame; we read every file that ITK reads."""
    judged, wrong = 0, {}
    for path in [*packaged(pydicom, "data/**/*.dcm"), *packaged(nibabel, "nicom/tests/data/*.dcm")]:
        theirs = stacked_slices(path)
        if theirs is None or path.name in DIFFERENT:
            continue
        frames = theirs if theirs.ndim == 4 or (theirs.ndim == 3 and theirs.shape[2] != 3) else theirs[None]
        for number in {0, len(frames) - 1}:
            try:
                ours = values(path, number)
            except UserError as error:
                wrong[path.name] = str(error)
                continue
            if frames[number].shape != ours.shape or not np.allclose(frames[number], ours, rtol=1e-5, atol=1e-3):
                wrong[path.name] = (frames[number].shape, ours.shape)
        judged += 1
    assert not wrong and judged >= 60


def values(path, number):
    pixels = decode(path, slice_index=number)
    return pixels.array * pixels.slope + pixels.intercept if pixels.array.ndim == 2 else pixels.array


@pytest.mark.parametrize("name", sorted(name for name, reason in DIFFERENT.items() if "no picture" in reason))
def test_what_itk_shows_and_is_no_picture(name):
    (path,) = packaged(pydicom, f"data/**/{name}")
    with pytest.raises(NoPicture):
        decode(path, slice_index=0)


def test_volumes_have_the_voxels_that_nibabel_reads():
    judged = 0
    for path in packaged(nibabel, "tests/data/*"):
        if not path.name.endswith((".nii", ".nii.gz", ".mgz", ".mgh")) or "dconn" in path.name:
            continue
        theirs = nibabel.as_closest_canonical(nibabel.load(path))
        ours = read_volume(path)
        values = ours.array * np.float64(ours.slope) + ours.intercept
        expected = theirs.get_fdata()
        assert np.allclose(values.reshape(expected.shape), expected, equal_nan=True, rtol=1e-5), path.name
        assert np.allclose(ours.spacing, nibabel.affines.voxel_sizes(theirs.affine), rtol=1e-4), path.name
        judged += 1
    assert judged > 5


@pytest.mark.parametrize("suffix", ["nrrd", "nhdr", "mha", "mhd", "nii", "nii.gz", "hdr"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize("compress", [False, True])
def test_volumes_that_itk_writes(tmp_path, suffix, dtype, compress):
    array = RNG.integers(0, 99, (3, 4, 5)).astype(dtype)  # slices to the head, rows to the back, columns to the left
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 2.0, 3.0))
    sitk.WriteImage(image, str(tmp_path / f"a.{suffix}"), compress)
    volume = read_volume(tmp_path / f"a.{suffix}")
    assert np.array_equal(volume.array, array.transpose(2, 1, 0)[::-1, ::-1])
    assert volume.array.dtype == array.dtype and np.allclose(volume.spacing, (0.5, 2.0, 3.0))


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
@pytest.mark.parametrize(
    "direction", [(0, 0, 1, 1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, 0, 1, 0, 1, 0), (0, -1, 0, 1, 0, 0, 0, 0, 1)]
)
def test_directions_that_itk_writes(tmp_path, suffix, direction):
    image = sitk.GetImageFromArray(RNG.integers(0, 99, (3, 4, 5)).astype(np.int16))
    image.SetDirection(direction)
    image.SetSpacing((1.0, 2.0, 3.0))
    sitk.WriteImage(image, str(tmp_path / f"a.{suffix}"))
    turned = sitk.DICOMOrient(image, "RAS")  # ITK calls axes by where they come from in some releases
    for letters in ("RAS", "LPI"):
        turned = sitk.DICOMOrient(image, letters)
        if np.allclose(np.reshape(turned.GetDirection(), (3, 3)), np.diag([-1, -1, 1])):
            break
    volume = read_volume(tmp_path / f"a.{suffix}")
    assert np.array_equal(volume.array, sitk.GetArrayFromImage(turned).transpose(2, 1, 0))
    assert np.allclose(volume.spacing, turned.GetSpacing())


def colours_of(path):
    """What OpenCV reads, or of what it does not, tifffile and PyAV: (H, W) or (H, W, 3)."""
    if path.suffix == ".gif":
        with av.open(str(path)) as file:
            return next(file.decode(video=0)).to_ndarray(format="rgb24")
    if path.suffix == ".tif":
        first = tifffile.TiffFile(path).pages[0].asarray()
        return np.moveaxis(first, 0, -1) if first.shape[0] == 3 else first
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return found[..., 2::-1] if found.ndim == 3 and found.shape[2] >= 3 else found


def test_pictures_have_the_colours_that_others_read():
    judged = 0
    for path in packaged(skimage, "data/*.*"):
        if path.suffix in (".png", ".tif", ".jpg", ".gif"):
            ours, theirs = decode(path, slice_index=0).array, colours_of(path)
            if ours.ndim < theirs.ndim:  # grey as equal colours
                ours = np.broadcast_to(ours[..., None], theirs.shape)
            assert np.array_equal(ours, theirs), path.name
            judged += 1
    assert judged >= 25


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.bmp", "a.jpg", "a.webp"])
@pytest.mark.parametrize("colours", [False, True])
def test_pictures_that_imageio_writes(tmp_path, name, dtype, colours):
    imageio = pytest.importorskip("imageio.v3")
    shape = (9, 11, 3) if colours else (9, 11)
    array = (RNG.random(shape) * (255 if dtype == "u1" else 4000)).astype(dtype)
    try:
        imageio.imwrite(tmp_path / name, array)
    except (TypeError, OSError, ValueError, KeyError, RuntimeError):
        pytest.skip(f"{name} has no such numbers")
    theirs, ours = imageio.imread(tmp_path / name), decode(tmp_path / name).array
    if ours.ndim < theirs.ndim:
        ours = np.broadcast_to(ours[..., None], theirs.shape)
    assert theirs.dtype == ours.dtype and np.array_equal(ours, theirs)
