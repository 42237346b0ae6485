"""JPEG XL: libjxl writes and judges; the size header is read by hand, since it bounds what is decoded."""

import numpy as np
import pytest

from biovfm_hf.errors import TooLarge, UserError
from biovfm_hf.pixels import decode
from tests.biovfm_hf.decoding.samples import assert_read, colours, smooth
from tests.dataset_builder.conftest import write_dicom

imagecodecs = pytest.importorskip("imagecodecs")


@pytest.mark.parametrize(
    ("values", "kind"), [(smooth(), "u2"), (colours(), "u2"), (colours(255), "u1"), (smooth() / 4080, "f4")]
)
def test_all_bits_are_kept(tmp_path, values, kind):
    values = values.astype(kind)
    (tmp_path / "a.jxl").write_bytes(imagecodecs.jpegxl_encode(values, lossless=True))
    assert_read(tmp_path / "a.jxl", values)


@pytest.mark.parametrize("container", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (256, 192), (257, 100), (320, 180), (1, 9), (600, 500), (1000, 999)])
def test_no_picture_is_larger_than_allowed(size, container):
    data = imagecodecs.jpegxl_encode(np.zeros(size[::-1], np.uint8), usecontainer=container)
    pixels = size[0] * size[1]
    assert decode(data, max_pixels=pixels).array.shape == size[::-1]
    with pytest.raises(TooLarge, match=f"{size[0]} x {size[1]} pixels are over"):
        decode(data, max_pixels=pixels - 1)


@pytest.mark.parametrize("data", [b"\xff\x0a", b"\xff\x0a" + b"\xff" * 30, b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(30)])
def test_damaged_files_are_refused(data):
    with pytest.raises(UserError):
        decode(data, name="a.jxl")


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("values", [smooth().astype(np.uint16), colours(255).astype(np.uint8)])
def test_dicom_of_jpeg_xl(tmp_path, values, frames):
    """pydicom does not know its syntax, which is written in place of another of the same length."""
    pydicom = pytest.importorskip("pydicom")
    write_dicom(tmp_path / "a.dcm", values)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.file_meta.TransferSyntaxUID, dataset.NumberOfFrames = pydicom.uid.HTJ2KLossless, frames
    streams = [imagecodecs.jpegxl_encode(values // (number + 1), lossless=True) for number in range(frames)]
    dataset.PixelData = pydicom.encaps.encapsulate(streams)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "a.dcm")
    data = (tmp_path / "a.dcm").read_bytes().replace(b"1.2.840.10008.1.2.4.201", b"1.2.840.10008.1.2.4.110")
    for number in range(frames):
        assert np.array_equal(decode(data, slice_index=number).array, values // (number + 1))
    with pytest.raises(UserError, match="not a readable JPEG XL"):
        decode(data.replace(streams[-1][:12], bytes(12)), slice_index=frames - 1)
