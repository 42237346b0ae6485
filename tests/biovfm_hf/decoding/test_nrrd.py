"""NRRD: each value equals that of the written array."""

import bz2
import gzip

import numpy as np
import pytest

from biovfm_hf.errors import UserError
from biovfm_hf.pixels import decode, read_volume
from tests.biovfm_hf.decoding.samples import LPS_TO_RAS, RNG, VOLUME, assert_read, slice_of

HEADER = "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 5 6\nendian: little\n"


def read(folder, fields, data, name="a.nrrd"):
    (folder / name).write_bytes(f"{HEADER}{fields}\n".encode() + data)
    return read_volume(folder / name).array


@pytest.mark.parametrize("encoding", ["raw", "ascii", "text", "hex", "gzip", "bz2"])
def test_encodings(tmp_path, encoding):
    data = VOLUME.tobytes(order="F")
    text = " ".join(map(str, VOLUME.ravel(order="F"))).encode()
    written = {"raw": data, "ascii": text, "text": text, "hex": data.hex().encode(), "bz2": bz2.compress(data)}
    found = read(tmp_path, f"encoding: {encoding}\n", written.get(encoding) or gzip.compress(data))
    assert np.array_equal(found, LPS_TO_RAS)


@pytest.mark.parametrize("encoding", ["raw", "ascii", "hex", "gzip"])
def test_encodings_of_a_detached_file_that_a_line_or_bytes_precede(tmp_path, encoding):
    data = VOLUME.tobytes(order="F")
    text = " ".join(f"{number:>20}" for number in VOLUME.ravel(order="F")).encode()
    written = {"raw": data, "ascii": text, "hex": data.hex().encode(), "gzip": gzip.compress(bytes(9) + data)}
    (tmp_path / "a.data").write_bytes(written[encoding])
    fields = f"encoding: {encoding}\nbyte skip: {-1 if encoding in ('raw', 'gzip') else 0}\ndata file: a.data\n"
    assert np.array_equal(read(tmp_path, fields, b"", "a.nhdr"), LPS_TO_RAS)


def test_text_in_a_list_of_files(tmp_path):
    for number in range(6):
        (tmp_path / f"s{number}.txt").write_text(" ".join(map(str, VOLUME[:, :, number].ravel(order="F"))))
    fields = "encoding: ascii\ndata file: LIST\n" + "\n".join(f"s{n}.txt" for n in range(6))
    assert np.array_equal(read(tmp_path, fields, b"", "a.nhdr"), LPS_TO_RAS)


def test_gzip_of_several_members_and_with_something_behind_it(tmp_path):
    data = VOLUME.tobytes(order="F")
    packed = gzip.compress(data[:70]) + gzip.compress(data[70:])
    for end in (b"", b"\0", bytes(3000)):
        assert np.array_equal(read(tmp_path, "encoding: gzip\n", packed + end), LPS_TO_RAS)
    with pytest.raises(UserError, match="truncated"):
        read(tmp_path, "encoding: gzip\n", gzip.compress(data[:70]) + b"x")


@pytest.mark.parametrize("skip", [0, 16, -1])
def test_skipped_bytes_and_lines_of_a_detached_file(tmp_path, skip):
    (tmp_path / "a.raw").write_bytes(b"one\ntwo\n" + bytes(max(skip, 0)) + VOLUME.tobytes(order="F"))
    fields = f"encoding: raw\nline skip: 2\nbyte skip: {skip}\ndata file: a.raw\n"
    assert np.array_equal(read(tmp_path, fields, b"", "a.nhdr"), LPS_TO_RAS)


def test_a_list_and_a_pattern_of_files(tmp_path):
    for number in range(6):
        (tmp_path / f"s{number}.raw").write_bytes(VOLUME[:, :, number].tobytes(order="F"))
    for told in ("LIST\n" + "\n".join(f"s{n}.raw" for n in range(6)), "s%d.raw 0 5 1 2"):
        assert np.array_equal(read(tmp_path, f"encoding: raw\ndata file: {told}", b"", "a.nhdr"), LPS_TO_RAS)


@pytest.mark.parametrize(
    ("space", "flips"),
    [("scanner-xyz", (-1, -1, 1)), ("left-posterior-superior", (-1, -1, 1)), ("RAS", (1, 1, 1)),
     ("3D-right-handed", (-1, -1, 1)), ("left-anterior-superior", (-1, 1, 1)), ("LPST", (-1, -1, 1))],
)  # fmt: skip
def test_spaces(tmp_path, space, flips):
    fields = f"encoding: raw\nspace: {space}\nspace directions: (1,0,0) (0,2,0) (0,0,3)\n"
    found = read(tmp_path, fields, VOLUME.tobytes(order="F"))
    assert np.array_equal(found, VOLUME[tuple(slice(None, None, flip) for flip in flips)])


@pytest.mark.parametrize(
    ("kinds", "axes"),
    [("list domain domain domain", 0), ("domain domain domain time", 3), ("vector space space space", 0)],
)
def test_an_axis_of_time_or_colours(tmp_path, kinds, axes):
    array = RNG.integers(0, 99, (3, 4, 5, 6) if axes == 0 else (4, 5, 6, 3)).astype(np.int16)
    sizes = " ".join(map(str, array.shape))
    header = f"NRRD0005\ntype: int16\ndimension: 4\nsizes: {sizes}\nkinds: {kinds}\nendian: little\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(header.encode() + array.tobytes(order="F"))
    volume = read_volume(tmp_path / "a.nrrd")
    assert volume.rgb == kinds.startswith("vector")
    assert np.array_equal(volume.array, np.moveaxis(array, axes, 3)[::-1, ::-1])


@pytest.mark.parametrize("kinds", ["domain domain list", "domain domain time", "list domain domain"])
def test_a_list_of_frames_is_no_volume(tmp_path, kinds):
    at = kinds.split().index("time" if "time" in kinds else "list")
    frames = RNG.integers(0, 256, (6, 5, 4), np.uint8)
    stored = np.moveaxis(frames.transpose(2, 1, 0), 2, at)
    sizes = " ".join(map(str, stored.shape))
    header = f"NRRD0005\ntype: uint8\ndimension: 3\nsizes: {sizes}\nkinds: {kinds}\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(header.encode() + stored.tobytes(order="F"))
    assert all(np.array_equal(slice_of(tmp_path / "a.nrrd", n), frame) for n, frame in enumerate(frames))


def test_a_picture_of_two_dimensions(tmp_path):
    picture = RNG.integers(0, 256, (5, 4), np.uint8)
    header = b"NRRD0004\ntype: uchar\ndimension: 2\nsizes: 4 5\nencoding: raw\n\n"
    assert np.array_equal(decode(header + picture.tobytes(), name="a.nrrd").array, picture)


@pytest.mark.parametrize("kind", ["RGB-color", "3-color", "vector", "RGBA-color", "4-color"])
def test_colours_of_pictures_and_volumes(tmp_path, kind):
    count = 4 if kind[:1] == "4" or "A" in kind else 3
    for shape in ((7, 6), (5, 7, 6)):
        array = RNG.integers(0, 256, (*shape, count), np.uint8)
        sizes, domains = " ".join(map(str, array.shape[::-1])), " domain" * len(shape)
        fields = f"dimension: {array.ndim}\nsizes: {sizes}\nkinds: {kind}{domains}\nencoding: raw\n"
        header = f"NRRD0004\ntype: uchar\n{fields}\n"
        (tmp_path / "a.nrrd").write_bytes(header.encode() + array.tobytes())
        if len(shape) == 2:
            assert np.array_equal(decode(tmp_path / "a.nrrd").array, array[..., :3])
        else:
            found = read_volume(tmp_path / "a.nrrd")
            assert np.array_equal(found.array, array[..., :3].transpose(2, 1, 0, 3)[::-1, ::-1]) and found.rgb


@pytest.mark.parametrize(("kinds", "at"), [("domain domain domain RGB-color", 3), ("domain domain 3-color", 2)])
def test_colours_in_planes_of_their_own(tmp_path, kinds, at):
    """As SimpleITK reads them, which moves such an axis to the front."""
    array = RNG.integers(0, 256, (*(4, 5, 6)[:at], 3), np.uint8)
    sizes = " ".join(map(str, array.shape))
    header = f"NRRD0004\ntype: uchar\ndimension: {array.ndim}\nsizes: {sizes}\nkinds: {kinds}\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(header.encode() + array.tobytes(order="F"))
    if at == 2:
        assert np.array_equal(decode(tmp_path / "a.nrrd").array, array.transpose(1, 0, 2))
    else:
        assert np.array_equal(read_volume(tmp_path / "a.nrrd").array, array[::-1, ::-1])


@pytest.mark.parametrize("space", ["space: left-posterior-superior-time", "space dimension: 4"])
@pytest.mark.parametrize("kind", ["time", "domain"])  # ITK writes the latter
def test_a_space_with_time(tmp_path, space, kind):
    array = RNG.integers(0, 256, (4, 5, 6, 3), np.uint8)
    fields = (
        f"sizes: 4 5 6 3\nkinds: domain domain domain {kind}\n{space}\n"
        "space directions: (1,0,0,0) (0,1,0,0) (0,0,2,0) (0,0,0,1)\nencoding: raw\n"
    )
    (tmp_path / "a.nrrd").write_bytes(f"NRRD0004\ntype: uchar\ndimension: 4\n{fields}\n".encode() + array.tobytes("F"))
    volume = read_volume(tmp_path / "a.nrrd")
    assert np.array_equal(volume.array, array[::-1, ::-1]) and volume.spacing == (1.0, 1.0, 2.0)


def test_a_header_with_carriage_returns_comments_and_values_of_its_own(tmp_path):
    fields = "# a comment\ncontent: x: y\nencoding: raw\nmy key:=a value: with a colon\nspacings: nan 2 3\n"
    data = VOLUME.tobytes(order="F")
    for text in (HEADER + fields, (HEADER + fields).replace("\n", "\r\n")):
        (tmp_path / "a.nrrd").write_bytes(text.encode() + (b"\r\n" if "\r" in text else b"\n") + data)
        assert_read(tmp_path / "a.nrrd", LPS_TO_RAS.astype(float))
