"""MetaImage: each value equals that of the written array."""

import zlib

import numpy as np
import pytest

from biovfm_hf.errors import UnsafePath, UserError
from biovfm_hf.pixels import decode, read_volume, to_uint8
from tests.biovfm_hf.decoding.samples import LPS_TO_RAS, RNG, VOLUME, assert_read


def write(folder, fields="", data=None, name="a.mha", dims="4 5 6", kind="MET_SHORT", file="LOCAL"):
    count = len(dims.split())
    header = f"ObjectType = Image\nNDims = {count}\nDimSize = {dims}\n{fields}ElementType = {kind}\n"
    data = VOLUME.tobytes(order="F") if data is None else data
    (folder / name).write_bytes(f"{header}ElementDataFile = {file}\n".encode() + (data if file == "LOCAL" else b""))
    return folder / name


def test_voxels_behind_a_header_of_stated_or_any_length(tmp_path):
    data = VOLUME.tobytes(order="F")
    for size, before in ((344, 344), (-1, 100), (0, 0)):
        (tmp_path / "a.raw").write_bytes(bytes(before) + data)
        path = write(tmp_path, f"HeaderSize = {size}\n", file="a.raw", name="a.mhd")
        assert np.array_equal(read_volume(path).array, LPS_TO_RAS), size


def test_voxels_as_text(tmp_path):
    text = "\n".join(map(str, VOLUME.ravel(order="F"))).encode()
    path = write(tmp_path, "BinaryData = False\n", text)
    assert np.array_equal(read_volume(path).array, LPS_TO_RAS)
    with pytest.raises(UserError, match="fewer numbers"):
        read_volume(write(tmp_path, "BinaryData = False\n", text[:200]))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_two_dimensions(tmp_path, channels):
    picture = RNG.integers(0, 256, (5, 4, 3) if channels == 3 else (5, 4), np.uint8)
    fields = f"ElementNumberOfChannels = {channels}\nElementSpacing = 0.5 2\n"
    pixels = decode(write(tmp_path, fields, picture.tobytes(), dims="4 5", kind="MET_UCHAR"))
    assert np.array_equal(pixels.array, picture) and pixels.spacing == (2.0, 0.5)
    assert np.array_equal(to_uint8(pixels), picture)


def test_a_header_of_thousands_of_lines(tmp_path):
    lines = "".join(f"Seq_Frame{n:04}_Timestamp = {n / 10}\n" for n in range(5000))
    assert np.array_equal(read_volume(write(tmp_path, lines)).array, LPS_TO_RAS)


@pytest.mark.parametrize(
    ("dims", "kinds"), [("4 5 6", "domain domain list"), ("4 5 1 6", "domain domain domain list")]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_list_of_frames_is_no_volume(tmp_path, dims, kinds, channels):
    frames = RNG.integers(0, 256, (6, 5, 4, 3) if channels == 3 else (6, 5, 4), np.uint8)
    fields = f"Kinds = {kinds}\nElementNumberOfChannels = {channels}\nElementSpacing = 0.5 2 1 1\n"
    path = write(tmp_path, fields, frames.tobytes(), dims=dims, kind="MET_UCHAR")
    for number, frame in enumerate(frames):
        pixels = decode(path, slice_index=number)
        assert np.array_equal(pixels.array, frame) and pixels.spacing == (2.0, 0.5)
    with pytest.raises(UserError, match="no volume"):
        read_volume(path)


@pytest.mark.parametrize("name", ["./a.raw", "below/a.raw"])
def test_voxels_in_a_file_below(tmp_path, name):
    (tmp_path / "below").mkdir()
    (tmp_path / name).write_bytes(VOLUME.tobytes(order="F"))
    assert np.array_equal(read_volume(write(tmp_path, file=name, name="a.mhd")).array, LPS_TO_RAS)
    with pytest.raises(UnsafePath):
        read_volume(write(tmp_path / "below", file="../a.raw", name="a.mhd"))


def test_voxels_in_a_list_and_a_pattern_of_files(tmp_path):
    for number in range(6):
        (tmp_path / f"s{number:02}.raw").write_bytes(VOLUME[:, :, number].tobytes(order="F"))
    listed = "LIST\n" + "\n".join(f"s{number:02}.raw" for number in range(6))
    for told in (listed, "LIST 2\n" + listed[5:], "s%02d.raw 0 5 1"):
        path = write(tmp_path, file=told, name="a.mhd")
        assert np.array_equal(read_volume(path).array, LPS_TO_RAS), told


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("MET_LONG", "<i4"),
        ("MET_ULONG", "<u4"),
        ("MET_LONG_LONG", "<i8"),
        ("MET_CHAR", "i1"),
        ("MET_FLOAT", "<f4"),
    ],
)
def test_every_type_and_byte_order(tmp_path, kind, dtype):
    array = (VOLUME % 100).astype(dtype)
    assert np.array_equal(
        read_volume(write(tmp_path, data=array.tobytes(order="F"), kind=kind)).array, array[::-1, ::-1]
    )
    swapped = array.astype(array.dtype.newbyteorder(">"))
    path = write(tmp_path, "BinaryDataByteOrderMSB = True\n", swapped.tobytes(order="F"), kind=kind)
    assert np.array_equal(read_volume(path).array, array[::-1, ::-1])


def test_compressed_voxels_with_something_behind_them(tmp_path):
    data = zlib.compress(VOLUME.tobytes(order="F")) + b"\0"
    assert np.array_equal(read_volume(write(tmp_path, "CompressedData = True\n", data)).array, LPS_TO_RAS)
    with pytest.raises(UserError, match="truncated"):
        read_volume(write(tmp_path, "CompressedData = True\n", data[: len(data) // 2]))


def test_a_header_with_carriage_returns_and_its_own_axes(tmp_path):
    values = VOLUME.astype(float)
    lines = "TransformMatrix = 0 1 0 -1 0 0 0 0 1\r\nElementSize = 1 2 3\r\n"
    assert_read(write(tmp_path, lines.replace("\r", "")), np.swapaxes(values, 0, 1)[:, ::-1])
    path = write(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n", 5)[: -VOLUME.nbytes] + VOLUME.tobytes(order="F"))
    assert_read(path, values[::-1, ::-1])
