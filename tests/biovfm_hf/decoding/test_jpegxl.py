"""JPEG XL: libjxl writes and judges; the size header is read by hand, since it bounds what is decoded."""

import numpy as np
import pytest

from biovfm_hf.errors import ManyPictures, TooLarge, UserError
from biovfm_hf.pixels import decode
from biovfm_hf.reading.image_files import count_frames
from biovfm_hf.reading.limited import Limited, Limits, Stopped
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


@pytest.mark.parametrize("values", [smooth(), colours(), np.dstack([colours(), smooth()])])
@pytest.mark.parametrize("count", [1, 3])
def test_pages_are_the_frames_of_an_animation(tmp_path, values, count):
    pages = np.stack([values // (number + 1) for number in range(count)]).astype(np.uint16)
    data = imagecodecs.jpegxl_encode(pages, lossless=True, photometric="rgb" if values.ndim == 3 else None)
    assert count_frames(data, "a.jxl") == count
    for number in range(count):
        page = pages[number] if values.ndim == 2 else pages[number, ..., :3]
        assert np.array_equal(decode(data, slice_index=number).array, page)
    if count > 1:
        with pytest.raises(ManyPictures, match="holds 3 frames"):
            decode(data)


def box(kind: bytes, content: bytes, wide: bool = False) -> bytes:
    size = len(content) + 8
    return (b"\0\0\0\1" + kind + (size + 8).to_bytes(8) if wide else size.to_bytes(4) + kind) + content


def test_a_codestream_is_found_in_any_boxes():
    values = np.stack([smooth(top=255), smooth(top=255)[::-1]]).astype(np.uint8)
    stream = imagecodecs.jpegxl_encode(values, lossless=True)
    front, last = b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"ftyp", b"jxl \0\0\0\0jxl "), b"\x80\0\0\1"
    for boxes in (
        box(b"jxlc", stream, wide=True),
        b"\0\0\0\0jxlc" + stream,
        box(b"Exif", bytes(70_000)) + box(b"jxlc", stream),
        box(b"xml ", b"<a>jxlc</a>", wide=True) + box(b"jxlc", stream),
        box(b"jxlp", bytes(4) + stream[:1]) + box(b"jxlp", last + stream[1:]),
    ):
        assert np.array_equal(imagecodecs.jpegxl_decode(front + boxes), values)
        for number in (0, 1):
            assert np.array_equal(decode(front + boxes, slice_index=number).array, values[number])


def test_a_lack_of_memory_is_not_called_damage():
    """libjxl reports both alike."""
    data = imagecodecs.jpegxl_encode(np.zeros((3000, 3000, 3), np.uint8), lossless=True, effort=1)
    limited = Limited(Limits(memory=100 << 20))
    try:
        with pytest.raises(Stopped, match="needs more than 100 MiB of memory"):
            limited.call("a.jxl", decode, data)
        with pytest.raises(UserError, match="not a readable JPEG XL"):
            limited.call("a.jxl", decode, imagecodecs.jpegxl_encode(smooth().astype(np.uint16))[:-40])
    finally:
        limited.close()


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
