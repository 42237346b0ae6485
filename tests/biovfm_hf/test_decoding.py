"""Files that bug reports tell of, written here and read back: every right value is that of the array written."""

import gzip
import io
import struct
import zipfile
import zlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image

from biovfm_hf.decoding.arrays import slice_axis
from biovfm_hf.errors import NoPicture, UnsafePath, UserError
from biovfm_hf.pictures import oriented
from biovfm_hf.pixels import decode, read_volume, to_uint8
from biovfm_hf.volumes import canonical

h5py = pytest.importorskip("h5py")
nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")
scipy_io = pytest.importorskip("scipy.io")
tifffile = pytest.importorskip("tifffile")

RNG = np.random.default_rng(0)
VOLUME = RNG.integers(0, 900, (4, 5, 6)).astype(np.int16)  # axes to the left, back and head, as ITK's files have them
LPS_TO_RAS = VOLUME[::-1, ::-1]
SHADES = np.arange(48, dtype=np.int64).reshape(6, 8)


def slice_of(path, index=2, **where):
    return decode(path, slice_index=index, **where).array


class TestMetaImage:
    def write(self, folder, fields="", data=None, name="a.mha", dims="4 5 6", kind="MET_SHORT", file="LOCAL"):
        count = len(dims.split())
        header = f"ObjectType = Image\nNDims = {count}\nDimSize = {dims}\n{fields}ElementType = {kind}\n"
        data = VOLUME.tobytes(order="F") if data is None else data
        (folder / name).write_bytes(
            f"{header}ElementDataFile = {file}\n".encode() + (data if file == "LOCAL" else b"")
        )
        return folder / name

    def test_voxels_behind_a_header_of_stated_or_any_length(self, tmp_path):
        data = VOLUME.tobytes(order="F")
        for size, before in ((344, 344), (-1, 100), (0, 0)):
            (tmp_path / "a.raw").write_bytes(bytes(before) + data)
            path = self.write(tmp_path, f"HeaderSize = {size}\n", file="a.raw", name="a.mhd")
            assert np.array_equal(read_volume(path).array, LPS_TO_RAS), size

    def test_voxels_as_text(self, tmp_path):
        text = "\n".join(map(str, VOLUME.ravel(order="F"))).encode()
        path = self.write(tmp_path, "BinaryData = False\n", text)
        assert np.array_equal(read_volume(path).array, LPS_TO_RAS)
        with pytest.raises(UserError, match="fewer numbers"):
            read_volume(self.write(tmp_path, "BinaryData = False\n", text[:200]))

    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_picture_of_two_dimensions(self, tmp_path, channels):
        picture = RNG.integers(0, 256, (5, 4, 3) if channels == 3 else (5, 4), np.uint8)
        fields = f"ElementNumberOfChannels = {channels}\nElementSpacing = 0.5 2\n"
        pixels = decode(self.write(tmp_path, fields, picture.tobytes(), dims="4 5", kind="MET_UCHAR"))
        assert np.array_equal(pixels.array, picture) and pixels.spacing == (2.0, 0.5)
        assert np.array_equal(to_uint8(pixels), picture)

    def test_a_header_of_thousands_of_lines(self, tmp_path):
        lines = "".join(f"Seq_Frame{n:04}_Timestamp = {n / 10}\n" for n in range(5000))
        assert np.array_equal(read_volume(self.write(tmp_path, lines)).array, LPS_TO_RAS)

    @pytest.mark.parametrize(
        ("dims", "kinds"), [("4 5 6", "domain domain list"), ("4 5 1 6", "domain domain domain list")]
    )
    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_list_of_frames_is_no_volume(self, tmp_path, dims, kinds, channels):
        frames = RNG.integers(0, 256, (6, 5, 4, 3) if channels == 3 else (6, 5, 4), np.uint8)
        fields = f"Kinds = {kinds}\nElementNumberOfChannels = {channels}\nElementSpacing = 0.5 2 1 1\n"
        path = self.write(tmp_path, fields, frames.tobytes(), dims=dims, kind="MET_UCHAR")
        for number, frame in enumerate(frames):
            pixels = decode(path, slice_index=number)
            assert np.array_equal(pixels.array, frame) and pixels.spacing == (2.0, 0.5)
        with pytest.raises(UserError, match="no volume"):
            read_volume(path)

    @pytest.mark.parametrize("name", ["./a.raw", "below/a.raw"])
    def test_voxels_in_a_file_below(self, tmp_path, name):
        (tmp_path / "below").mkdir()
        (tmp_path / name).write_bytes(VOLUME.tobytes(order="F"))
        assert np.array_equal(read_volume(self.write(tmp_path, file=name, name="a.mhd")).array, LPS_TO_RAS)
        with pytest.raises(UnsafePath):
            read_volume(self.write(tmp_path / "below", file="../a.raw", name="a.mhd"))

    def test_voxels_in_a_list_and_a_pattern_of_files(self, tmp_path):
        for number in range(6):
            (tmp_path / f"s{number:02}.raw").write_bytes(VOLUME[:, :, number].tobytes(order="F"))
        listed = "LIST\n" + "\n".join(f"s{number:02}.raw" for number in range(6))
        for told in (listed, "LIST 2\n" + listed[5:], "s%02d.raw 0 5 1"):
            path = self.write(tmp_path, file=told, name="a.mhd")
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
    def test_every_type_and_byte_order(self, tmp_path, kind, dtype):
        array = (VOLUME % 100).astype(dtype)
        assert np.array_equal(
            read_volume(self.write(tmp_path, data=array.tobytes(order="F"), kind=kind)).array, array[::-1, ::-1]
        )
        swapped = array.astype(array.dtype.newbyteorder(">"))
        path = self.write(tmp_path, "BinaryDataByteOrderMSB = True\n", swapped.tobytes(order="F"), kind=kind)
        assert np.array_equal(read_volume(path).array, array[::-1, ::-1])

    def test_compressed_voxels_with_something_behind_them(self, tmp_path):
        data = zlib.compress(VOLUME.tobytes(order="F")) + b"\0"
        assert np.array_equal(read_volume(self.write(tmp_path, "CompressedData = True\n", data)).array, LPS_TO_RAS)
        with pytest.raises(UserError, match="truncated"):
            read_volume(self.write(tmp_path, "CompressedData = True\n", data[: len(data) // 2]))


class TestNrrd:
    HEADER = "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 5 6\nendian: little\n"

    def read(self, folder, fields, data, name="a.nrrd"):
        (folder / name).write_bytes(f"{self.HEADER}{fields}\n".encode() + data)
        return read_volume(folder / name).array

    @pytest.mark.parametrize("encoding", ["raw", "ascii", "text", "hex", "gzip", "bz2"])
    def test_encodings(self, tmp_path, encoding):
        import bz2

        data = VOLUME.tobytes(order="F")
        text = " ".join(map(str, VOLUME.ravel(order="F"))).encode()
        written = {"raw": data, "ascii": text, "text": text, "hex": data.hex().encode(), "bz2": bz2.compress(data)}
        found = self.read(tmp_path, f"encoding: {encoding}\n", written.get(encoding) or gzip.compress(data))
        assert np.array_equal(found, LPS_TO_RAS)

    @pytest.mark.parametrize("encoding", ["raw", "ascii", "hex", "gzip"])
    def test_encodings_of_a_detached_file_that_a_line_or_bytes_precede(self, tmp_path, encoding):
        data = VOLUME.tobytes(order="F")
        text = " ".join(f"{number:>20}" for number in VOLUME.ravel(order="F")).encode()
        written = {"raw": data, "ascii": text, "hex": data.hex().encode(), "gzip": gzip.compress(bytes(9) + data)}
        (tmp_path / "a.data").write_bytes(written[encoding])
        fields = f"encoding: {encoding}\nbyte skip: {-1 if encoding in ('raw', 'gzip') else 0}\ndata file: a.data\n"
        assert np.array_equal(self.read(tmp_path, fields, b"", "a.nhdr"), LPS_TO_RAS)

    def test_text_in_a_list_of_files(self, tmp_path):
        for number in range(6):
            (tmp_path / f"s{number}.txt").write_text(" ".join(map(str, VOLUME[:, :, number].ravel(order="F"))))
        fields = "encoding: ascii\ndata file: LIST\n" + "\n".join(f"s{n}.txt" for n in range(6))
        assert np.array_equal(self.read(tmp_path, fields, b"", "a.nhdr"), LPS_TO_RAS)

    def test_gzip_of_several_members_and_with_something_behind_it(self, tmp_path):
        data = VOLUME.tobytes(order="F")
        packed = gzip.compress(data[:70]) + gzip.compress(data[70:])
        for end in (b"", b"\0", bytes(3000)):
            assert np.array_equal(self.read(tmp_path, "encoding: gzip\n", packed + end), LPS_TO_RAS)
        with pytest.raises(UserError, match="truncated"):
            self.read(tmp_path, "encoding: gzip\n", gzip.compress(data[:70]) + b"x")

    @pytest.mark.parametrize("skip", [0, 16, -1])
    def test_skipped_bytes_and_lines_of_a_detached_file(self, tmp_path, skip):
        (tmp_path / "a.raw").write_bytes(b"one\ntwo\n" + bytes(max(skip, 0)) + VOLUME.tobytes(order="F"))
        fields = f"encoding: raw\nline skip: 2\nbyte skip: {skip}\ndata file: a.raw\n"
        assert np.array_equal(self.read(tmp_path, fields, b"", "a.nhdr"), LPS_TO_RAS)

    def test_a_list_and_a_pattern_of_files(self, tmp_path):
        for number in range(6):
            (tmp_path / f"s{number}.raw").write_bytes(VOLUME[:, :, number].tobytes(order="F"))
        for told in ("LIST\n" + "\n".join(f"s{n}.raw" for n in range(6)), "s%d.raw 0 5 1 2"):
            assert np.array_equal(self.read(tmp_path, f"encoding: raw\ndata file: {told}", b"", "a.nhdr"), LPS_TO_RAS)

    @pytest.mark.parametrize(
        ("space", "flips"),
        [("scanner-xyz", (-1, -1, 1)), ("left-posterior-superior", (-1, -1, 1)), ("RAS", (1, 1, 1)),
         ("3D-right-handed", (-1, -1, 1)), ("left-anterior-superior", (-1, 1, 1)), ("LPST", (-1, -1, 1))],
    )  # fmt: skip
    def test_spaces(self, tmp_path, space, flips):
        fields = f"encoding: raw\nspace: {space}\nspace directions: (1,0,0) (0,2,0) (0,0,3)\n"
        found = self.read(tmp_path, fields, VOLUME.tobytes(order="F"))
        assert np.array_equal(found, VOLUME[tuple(slice(None, None, flip) for flip in flips)])

    @pytest.mark.parametrize(
        ("kinds", "axes"),
        [("list domain domain domain", 0), ("domain domain domain time", 3), ("vector space space space", 0)],
    )
    def test_an_axis_of_time_or_colours(self, tmp_path, kinds, axes):
        array = RNG.integers(0, 99, (3, 4, 5, 6) if axes == 0 else (4, 5, 6, 3)).astype(np.int16)
        sizes = " ".join(map(str, array.shape))
        header = (
            f"NRRD0005\ntype: int16\ndimension: 4\nsizes: {sizes}\nkinds: {kinds}\nendian: little\nencoding: raw\n\n"
        )
        (tmp_path / "a.nrrd").write_bytes(header.encode() + array.tobytes(order="F"))
        volume = read_volume(tmp_path / "a.nrrd")
        assert volume.rgb == kinds.startswith("vector")
        assert np.array_equal(volume.array, np.moveaxis(array, axes, 3)[::-1, ::-1])

    @pytest.mark.parametrize("kinds", ["domain domain list", "domain domain time", "list domain domain"])
    def test_a_list_of_frames_is_no_volume(self, tmp_path, kinds):
        at = kinds.split().index("time" if "time" in kinds else "list")
        frames = RNG.integers(0, 256, (6, 5, 4), np.uint8)
        stored = np.moveaxis(frames.transpose(2, 1, 0), 2, at)
        sizes = " ".join(map(str, stored.shape))
        header = f"NRRD0005\ntype: uint8\ndimension: 3\nsizes: {sizes}\nkinds: {kinds}\nencoding: raw\n\n"
        (tmp_path / "a.nrrd").write_bytes(header.encode() + stored.tobytes(order="F"))
        assert all(np.array_equal(slice_of(tmp_path / "a.nrrd", n), frame) for n, frame in enumerate(frames))

    def test_a_picture_of_two_dimensions(self, tmp_path):
        picture = RNG.integers(0, 256, (5, 4), np.uint8)
        header = b"NRRD0004\ntype: uchar\ndimension: 2\nsizes: 4 5\nencoding: raw\n\n"
        assert np.array_equal(decode(header + picture.tobytes(), name="a.nrrd").array, picture)


class TestNifti:
    def test_a_pair_by_either_name_and_analyze(self, tmp_path):
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
    def test_mgh(self, tmp_path, name, dtype):
        affine = np.array([[0, 0, -2, 3], [2, 0, 0, 4], [0, 2, 0, 5], [0, 0, 0, 1]], float)
        image = nibabel.MGHImage((VOLUME % 99).astype(dtype), affine)
        nibabel.save(image, tmp_path / name)
        theirs = nibabel.as_closest_canonical(image)
        volume = read_volume(tmp_path / name)
        assert np.array_equal(volume.array, np.asarray(theirs.dataobj)) and volume.spacing == (2.0, 2.0, 2.0)

    @pytest.mark.parametrize("excess", [6e-7, 1e-4])
    def test_a_quaternion_that_rounding_made_too_long(self, excess):
        image = nibabel.Nifti1Image(VOLUME, None)
        image.header["qform_code"], image.header["sform_code"] = 1, 0
        image.header["quatern_b"], image.header["quatern_c"] = 1 + excess, 0
        image.header["pixdim"][:4] = 1, 1, 1, 1
        volume = read_volume(io.BytesIO(image.to_bytes()), name="a.nii")
        assert np.array_equal(volume.array, VOLUME[:, ::-1, ::-1])  # half a turn about the first axis

    def test_a_slope_without_an_intercept(self):
        image = nibabel.Nifti1Image(VOLUME, np.eye(4))
        data = bytearray(image.to_bytes())
        data[112:120] = struct.pack("<ff", 2.0, float("nan"))
        volume = read_volume(io.BytesIO(data), name="a.nii")
        assert (volume.slope, volume.intercept) == (2.0, 0.0)


@settings(max_examples=100, deadline=None)
@given(st_numpy.arrays(np.float64, (3, 3), elements=st.floats(-3, 3)), st.booleans())
def test_orientation_is_nibabels(matrix, even):
    affine = np.eye(4)
    affine[:3, :3] = np.rint(matrix) if even else matrix
    array = np.arange(24).reshape(2, 3, 4)
    theirs = nibabel.io_orientation(affine)
    turned, spacing, _ = canonical(array, affine)
    if np.isnan(theirs).any() or np.linalg.matrix_rank(affine) < 4:
        return  # axes as stored, or in an order that nobody can tell
    assert np.array_equal(turned, nibabel.apply_orientation(array, theirs))
    expected = np.empty(3)
    expected[theirs[:, 0].astype(int)] = nibabel.affines.voxel_sizes(affine)
    assert np.allclose(spacing, expected)


class TestRaster:
    @staticmethod
    def png(array, colour_type):
        def chunk(kind, body):
            return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

        header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, colour_type, 0, 0, 0)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
        data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + data

    @pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4), (0, 1)])
    def test_png_of_16_bits_keeps_all_levels(self, colour_type, channels):
        array = RNG.integers(0, 4096, (7, 9, channels)).astype(np.uint16)
        data = self.png(array, colour_type)
        assert np.array_equal(decode(data).array, array[..., :3] if channels > 2 else array[..., 0])
        with pytest.raises(UserError):
            decode(data[: len(data) // 2])

    def test_ppm_of_16_bits(self):
        array = RNG.integers(0, 4096, (7, 9, 3)).astype(np.uint16)
        assert np.array_equal(decode(b"P6\n# deep\n9 7\n4095\n" + array.astype(">u2").tobytes()).array, array)

    @pytest.mark.parametrize("dtype", ["i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8", "u8", "i8"])
    @pytest.mark.parametrize("byteorder", ["<", ">"])
    @pytest.mark.parametrize("pages", [1, 2])
    @pytest.mark.parametrize("packing", [None, "zlib", "lzw", "packbits", "zstd"])
    def test_tiff_of_every_dtype(self, tmp_path, dtype, byteorder, pages, packing):
        info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.finfo(dtype)
        stack = np.stack(
            [np.linspace(float(info.min) / 2, float(info.max) / 2, 48).reshape(6, 8).astype(dtype)] * pages
        )
        tifffile.imwrite(tmp_path / "a.tif", stack, byteorder=byteorder, photometric="minisblack", compression=packing)
        found = decode(tmp_path / "a.tif", slice_index=pages - 1).array
        assert np.array_equal(found, stack[-1]) and found.dtype.isnative

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("dtype", ["u1", "u2", "f8"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_tiff_is_turned_whatever_its_dtype(self, tmp_path, orientation, dtype, channels):
        array = (RNG.random((6, 8, 3) if channels == 3 else (6, 8)) * 200).astype(dtype)
        photometric = "rgb" if channels == 3 else "minisblack"
        tifffile.imwrite(
            tmp_path / "a.tif", array, photometric=photometric, extratags=[(274, "H", 1, orientation, True)]
        )
        assert np.array_equal(decode(tmp_path / "a.tif").array, oriented(array, orientation))

    @pytest.mark.parametrize("planar", ["contig", "separate"])
    @pytest.mark.parametrize("channels", [2, 3, 4])
    @pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "f2", "f4"])
    @pytest.mark.parametrize("packing", [None, "lzw"])
    def test_tiff_channels_in_either_order_without_alpha(self, tmp_path, planar, channels, dtype, packing):
        array = RNG.integers(-128, 128, (6, 8, channels)).astype(dtype)
        stored = array if planar == "contig" else np.ascontiguousarray(array.transpose(2, 0, 1))
        alpha = None if channels == 3 else ["unassalpha"]
        tifffile.imwrite(
            tmp_path / "a.tif", stored, photometric="rgb" if channels > 2 else "minisblack", planarconfig=planar,
            extrasamples=alpha, compression=packing,
        )  # fmt: skip
        assert np.array_equal(decode(tmp_path / "a.tif").array, array[..., 0] if channels == 2 else array[..., :3])

    @pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
    def test_tiff_whose_zero_is_white(self, tmp_path, dtype):
        array = np.arange(48).reshape(6, 8).astype(dtype)
        for photometric in ("miniswhite", "minisblack"):
            tifffile.imwrite(tmp_path / f"{photometric}.tif", array, photometric=photometric)
        white, black = (to_uint8(decode(tmp_path / f"{name}.tif")) for name in ("miniswhite", "minisblack"))
        assert np.array_equal(white, 255 - black)

    @pytest.mark.parametrize("dtype", ["u1", "u2"])
    def test_tiff_with_a_palette(self, tmp_path, dtype):
        numbers = RNG.integers(0, 256, (6, 8)).astype(dtype)
        palette = RNG.integers(0, 65536, (3, 1 << 8 * numbers.itemsize)).astype(np.uint16)
        tifffile.imwrite(tmp_path / "a.tif", numbers, photometric="palette", colormap=palette)
        assert np.array_equal(decode(tmp_path / "a.tif").array, np.moveaxis(palette[:, numbers] >> 8, 0, -1))

    def test_tiff_of_other_colours_than_rgb_is_refused_where_they_are_not_converted(self, tmp_path):
        inks = RNG.integers(0, 65536, (6, 8, 4)).astype(np.uint16)
        tifffile.imwrite(tmp_path / "a.tif", inks, photometric="separated")
        with pytest.raises(UserError, match="CMYK"):
            decode(tmp_path / "a.tif")

    def test_a_pyramid_gives_the_smallest_level_that_serves(self, tmp_path):
        from biovfm_hf.decoding import Source, read_file

        base = np.kron(SHADES.astype(np.uint16) * 100, np.ones((64, 64), np.uint16))
        with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
            writer.write(base, subifds=2, tile=(64, 64))
            for step in (2, 4):
                writer.write(base[::step, ::step], subfiletype=1, tile=(64, 64))
        with (tmp_path / "a.tif").open("rb") as file:
            pages = read_file(Source(file, "a.tif", shorter_side=90))
            assert np.array_equal(pages.page(0).array, base[::4, ::4]) and pages.size == (512, 384)
        with (tmp_path / "a.tif").open("rb") as file:  # the first is too large, the second is not
            pages = read_file(Source(file, "a.tif", max_pixels=60_000))
            assert np.array_equal(pages.page(0).array, base[::2, ::2])
        assert np.array_equal(decode(tmp_path / "a.tif").array, base)

    def test_floats_of_any_range_in_a_file_are_stretched_alike(self, tmp_path):
        ramp = np.linspace(0, 1, 4096).reshape(64, 64)
        expected = to_uint8(decode((ramp * 1000).astype(np.float32)))
        for scale in (1e-6, 0.00255, 0.5, 1.0, 3e5):
            array = (ramp * scale).astype(np.float32)
            tifffile.imwrite(tmp_path / "a.tif", array)
            np.save(tmp_path / "a.npy", array)
            for name in ("a.tif", "a.npy"):
                assert np.abs(to_uint8(decode(tmp_path / name)).astype(int) - expected).max() <= 1, (name, scale)


class TestArrays:
    @pytest.mark.parametrize(
        ("shape", "axis"),
        [((100, 64, 64), 0), ((200, 40, 40), 0), ((64, 64, 20), 2), ((64, 64, 100), 2), ((100, 64, 80), 0),
         ((64, 80, 20), 2), ((20, 64, 80), 0), ((64, 64, 64), 0)],
    )  # fmt: skip
    def test_which_axis_counts_the_slices(self, tmp_path, shape, axis):
        assert slice_axis(shape) == axis
        array = RNG.integers(0, 999, shape).astype(np.int16)
        np.save(tmp_path / "a.npy", array)
        assert np.array_equal(slice_of(tmp_path / "a.npy", 3), np.take(array, 3, axis))

    def test_pictures_behind_each_other_and_channels_first(self, tmp_path):
        stack = RNG.integers(0, 256, (4, 6, 8, 3), np.uint8)
        np.save(tmp_path / "a.npy", stack)
        np.save(tmp_path / "b.npy", stack.transpose(0, 3, 1, 2))
        np.save(tmp_path / "c.npy", stack[0].transpose(2, 0, 1))
        for name in ("a.npy", "b.npy"):
            assert np.array_equal(slice_of(tmp_path / name, 3), stack[3])
        assert np.array_equal(decode(tmp_path / "c.npy").array, stack[0])

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_npz_gives_its_largest_array(self, tmp_path, save):
        save(tmp_path / "a.npz", labels=np.arange(7), images=SHADES.astype(np.uint16), note=np.array("hello"))
        assert np.array_equal(decode(tmp_path / "a.npz").array, SHADES)
        save(tmp_path / "b.npz", labels=np.array([{}], object))
        with pytest.raises(UserError):
            decode(tmp_path / "b.npz")

    @pytest.mark.parametrize("compressed", [False, True])
    def test_matlab_structures_and_cells(self, tmp_path, compressed):
        image = SHADES.astype(np.int16)
        nested = {"cjdata": {"label": 2.0, "mask": image > 9, "inner": {"image": image}}, "text": "hello"}
        scipy_io.savemat(tmp_path / "a.mat", nested, do_compression=compressed)
        assert np.array_equal(decode(tmp_path / "a.mat").array, image)
        cells = np.empty(2, object)
        cells[:] = ["a", image]
        scipy_io.savemat(tmp_path / "b.mat", {"cells": cells}, do_compression=compressed)
        assert np.array_equal(decode(tmp_path / "b.mat").array, image)

    def test_matlab_7_3_structures(self, tmp_path):
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


def test_a_rotated_video_with_wide_pixels_is_upright(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(64, 45)
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 60 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    pixels = decode(tmp_path / "a.mp4", slice_index=2)
    assert pixels.array.shape == (48, 64, 3) and abs(pixels.array.mean() - 120) < 4
    assert pixels.spacing == pytest.approx((1.0, 64 / 45))
    with pytest.raises(UserError, match="no frame 9"):
        decode(tmp_path / "a.mp4", slice_index=9)


def test_archives_and_gzip_are_told_by_their_content(tmp_path):
    picture = io.BytesIO()
    Image.fromarray(SHADES.astype(np.uint8)).save(picture, "PNG")
    assert np.array_equal(decode(gzip.compress(picture.getvalue()), name="a.png.gz").array, SHADES)
    nrrd = b"NRRD0004\ntype: uchar\ndimension: 2\nsizes: 8 6\nencoding: raw\n\n" + SHADES.astype(np.uint8).tobytes()
    assert np.array_equal(decode(gzip.compress(nrrd), name="a.nrrd.gz").array, SHADES)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", picture.getvalue())
    with pytest.raises(UserError):
        decode(tmp_path / "a.zip")


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize(("bits", "words"), [(8, False), (8, True), (16, True)])
def test_a_dicom_palette_in_either_byte_order(tmp_path, bits, words, big_endian):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    numbers, first, order = RNG.integers(0, 220, (6, 8)).astype(np.uint8), 10, ">" if big_endian else "<"
    palette = RNG.integers(0, 1 << bits, (3, 200)).astype(np.uint16)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian if big_endian else ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 6, 8, 1
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "PALETTE COLOR", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelData = 8, 8, 7, numbers.tobytes()
    for colour, table in zip(("Red", "Green", "Blue"), palette, strict=True):
        stored = table if words else table.astype(np.uint8).view("<u2")
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [200, first, bits])
        setattr(dataset, f"{colour}PaletteColorLookupTableData", stored.astype(f"{order}u2").tobytes())
    dataset.save_as(tmp_path / "a.dcm", implicit_vr=False, little_endian=not big_endian, enforce_file_format=True)
    expected = np.moveaxis(palette[:, np.clip(numbers.astype(int) - first, 0, 199)], 0, -1) >> (bits - 8)
    assert np.array_equal(decode(tmp_path / "a.dcm").array, expected)


def test_objects_that_are_no_pictures_are_told_apart():
    names = ("liver_1frame.dcm", "rtdose_1frame.dcm", "rtplan.dcm", "test-SR.dcm", "waveform_ecg.dcm")
    for name in names:
        path = pydicom.data.get_testdata_file(name, download=False)
        if path is not None:
            with pytest.raises(NoPicture):
                decode(path, slice_index=0)


def test_every_orientation_is_undone_by_its_inverse():
    array = np.arange(6).reshape(2, 3)
    inverse = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
    assert all(np.array_equal(oriented(oriented(array, one), inverse[one]), array) for one in inverse)
    assert len({oriented(array, one).tobytes() + bytes(oriented(array, one).shape) for one in inverse}) == 8
