"""Decoding: every format to stored numbers, every number to 8 bits, every damaged or hostile file to one line."""

import gzip
import io
import itertools
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image

from biovfm_hf import BioVFMImageProcessor
from biovfm_hf.decoding import open_content
from biovfm_hf.errors import UserError
from biovfm_hf.pixels import AXES, Pixels, decode, percentile_window, read_volume, to_uint8

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")
tifffile = pytest.importorskip("tifffile")

RNG = np.random.default_rng(0)
GREY16 = np.array([[0, 100, 255, 256], [1000, 4095, 40000, 65535]], np.uint16)
REAL = Path(__file__).parents[2] / ".." / "shared" / "real"
few = settings(max_examples=60, deadline=None)


def packaged(name):
    path = pydicom.data.get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"this pydicom does not carry {name}")
    return path


def saved(image, format="PNG", **options):
    out = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(out, format, **options)
    return out.getvalue()


def refusal(call, *args, **kwargs):
    """The message of the UserError that a call must raise: one line that fits a terminal."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


class TestRaster:
    @pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "PPM", "GIF"])
    def test_8_bit_grey_is_kept(self, format):
        grey = RNG.integers(0, 256, (5, 7), np.uint8)
        decoded = decode(saved(grey, format)).array
        assert np.array_equal(decoded if decoded.ndim == 2 else decoded[..., 0], grey)

    @pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "PPM"])
    def test_colour_is_kept(self, format):
        colour = RNG.integers(0, 256, (5, 7, 3), np.uint8)
        assert np.array_equal(decode(saved(colour, format)).array, colour)

    @few
    @given(st_numpy.arrays(np.uint16, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=9)))
    def test_16_bit_png_and_tiff_are_kept_and_never_clipped(self, grey):
        for format in ("PNG", "TIFF"):
            pixels = decode(saved(grey, format))
            assert np.array_equal(pixels.array, grey)
            if len(np.unique(grey)) > 1:
                assert to_uint8(pixels, window=(0, 65535)).max() == np.rint(grey.max() / 257)

    def test_16_bit_image_in_memory_is_not_clipped(self):
        shown = to_uint8(decode(Image.fromarray(GREY16)), window=(0, 65535))
        assert shown.tolist() == [[0, 0, 1, 1], [4, 16, 156, 255]]

    def test_big_endian_and_signed_and_float_tiff(self, tmp_path):
        for array in (GREY16, GREY16.astype(np.int32) - 500, GREY16.astype(np.float32) / 3, GREY16.astype(np.float64)):
            for order in "<>":
                tifffile.imwrite(tmp_path / "a.tif", array, byteorder=order)
                pixels = decode(tmp_path / "a.tif")
                assert np.array_equal(pixels.array, array) and pixels.array.dtype.isnative

    def test_16_bit_colour_tiff(self, tmp_path):
        colour = RNG.integers(0, 65536, (6, 5, 3), np.uint16)
        tifffile.imwrite(tmp_path / "a.tif", colour, photometric="rgb")
        assert np.array_equal(decode(tmp_path / "a.tif").array, colour)

    def test_white_is_zero_tiff_is_inverted_at_every_depth(self, tmp_path):
        for array in (GREY16, (GREY16 // 256).astype(np.uint8)):
            tifffile.imwrite(tmp_path / "a.tif", array, photometric="miniswhite")
            shown = to_uint8(decode(tmp_path / "a.tif"))
            assert shown[0, 0] == 255 and shown[1, 3] == 0

    @pytest.mark.parametrize(
        ("mode", "shape"),
        [("1", (4, 6)), ("L", (4, 6)), ("LA", (4, 6)), ("P", (4, 6, 3)), ("RGBA", (4, 6, 3)), ("CMYK", (4, 6, 3)),
         ("YCbCr", (4, 6, 3)), ("HSV", (4, 6, 3)), ("I", (4, 6)), ("F", (4, 6)), ("I;16", (4, 6))],
    )  # fmt: skip
    def test_every_pil_mode(self, mode, shape):
        pixels = decode(Image.new("L", (6, 4), 200).convert("1" if mode == "1" else mode))
        assert pixels.array.shape == shape
        assert to_uint8(pixels).dtype == np.uint8

    def test_alpha_and_palette_give_their_colours(self):
        image = Image.new("RGBA", (2, 2), (10, 200, 30, 7))
        assert decode(image).array[0, 0].tolist() == [10, 200, 30]
        assert decode(Image.new("RGB", (2, 2), (255, 0, 0)).convert("P")).array[0, 0].tolist() == [255, 0, 0]
        assert to_uint8(decode(Image.new("1", (2, 2), 1))).min() == 255

    def test_exif_orientation_is_applied(self):
        image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
        exif = image.getexif()
        exif[0x0112] = 6  # to be turned clockwise
        turned = decode(saved(image, "PNG", exif=exif)).array
        assert np.array_equal(turned, np.rot90(np.asarray(image), -1))

    def test_pages_and_frames_are_chosen_by_index(self):
        pages = [Image.fromarray(np.full((3, 4), 10 * n, np.uint8)) for n in range(4)]
        for format in ("TIFF", "GIF"):
            data = saved(pages[0], format, save_all=True, append_images=pages[1:])
            assert "slice_index" in refusal(decode, data, name="stack")
            assert np.unique(decode(data, slice_index=2).array).tolist() == [20]
            assert f"no {'page' if format == 'TIFF' else 'frame'} 4" in refusal(decode, data, slice_index=4)
            refusal(decode, data, slice_index=-1)

    def test_16_bit_colour_pages(self, tmp_path):
        stack = RNG.integers(0, 65536, (3, 6, 5, 3), np.uint16)
        tifffile.imwrite(tmp_path / "a.tif", stack, photometric="rgb")
        assert "3 pages" in refusal(decode, tmp_path / "a.tif")
        assert np.array_equal(decode(tmp_path / "a.tif", slice_index=1).array, stack[1])

    def test_numpy_file(self, tmp_path):
        np.save(tmp_path / "a.npy", GREY16)
        assert np.array_equal(decode(tmp_path / "a.npy").array, GREY16)


class TestArrays:
    @pytest.mark.parametrize(
        ("shape", "channels", "expected"),
        [((5, 7), None, (5, 7)), ((5, 7, 1), None, (5, 7)), ((1, 5, 7), None, (5, 7)), ((5, 7, 3), None, (5, 7, 3)),
         ((3, 5, 7), None, (5, 7, 3)), ((4, 5, 7), "first", (5, 7, 3)), ((5, 7, 4), None, (5, 7, 3)),
         ((3, 5, 3), None, (3, 5, 3)), ((3, 5, 3), "first", (5, 3, 3))],
    )  # fmt: skip
    def test_layouts(self, shape, channels, expected):
        assert decode(np.zeros(shape, np.uint8), channels=channels).array.shape == expected

    def test_channels_first_keeps_the_pixels(self):
        colour = RNG.integers(0, 256, (5, 7, 3), np.uint8)
        assert np.array_equal(decode(colour.transpose(2, 0, 1)).array, colour)

    @few
    @given(
        st_numpy.arrays(
            st.one_of(
                st_numpy.integer_dtypes(),
                st_numpy.unsigned_integer_dtypes(),
                st_numpy.floating_dtypes(),
                st.just(bool),
            ),
            st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=8),
        )
    )
    def test_any_dtype_becomes_8_bits(self, array):
        shown = to_uint8(decode(array))
        assert shown.dtype == np.uint8 and shown.shape == array.shape
        finite = np.isfinite(array)
        if finite.all() and array.dtype != np.uint8:
            flat, order = shown.ravel(), np.argsort(array.ravel(), kind="stable")
            assert (np.diff(flat[order].astype(int)) >= 0).all()  # never turns brighter and darker around

    def test_unit_range_floats_and_booleans_are_taken_as_they_are(self):
        assert to_uint8(decode(np.array([[0.2, 0.4]]))).tolist() == [[51, 102]]
        assert to_uint8(decode(np.array([[True, False]]))).tolist() == [[255, 0]]

    def test_torch_tensors(self):
        torch = pytest.importorskip("torch")
        tensor = torch.rand(3, 4, 5, requires_grad=True)
        assert decode(tensor).array.shape == (4, 5, 3)
        assert decode(tensor.to(torch.bfloat16)).array.dtype == np.float32
        assert decode(torch.zeros(4, 5, dtype=torch.int16)).array.dtype == np.int16

    @pytest.mark.parametrize(
        "source",
        [np.zeros((4, 5, 6), np.uint8), np.zeros(3), np.zeros((0, 4)), np.zeros((4, 4), complex), 7, None,
         np.array([["a", "b"]]), np.array([[{}]], object), np.zeros((2, 2, 2, 2, 2))],
    )  # fmt: skip
    def test_what_is_no_image_is_refused(self, source):
        refusal(decode, source)


class TestIntensity:
    @few
    @given(
        st_numpy.arrays(np.int16, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=8)),
        st.tuples(st.integers(-40000, 40000), st.integers(1, 40000)),
    )
    def test_window_is_linear_between_its_ends(self, array, window):
        low, high = window[0], window[0] + window[1]
        expected = np.rint(np.clip((array.astype(float) - low) / (high - low), 0, 1) * 255)
        assert np.abs(to_uint8(Pixels(array), window=(low, high)).astype(float) - expected).max() <= 1e-6

    @pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
    def test_the_table_equals_the_arithmetic(self, dtype):
        info = np.iinfo(dtype)
        large = RNG.integers(info.min, info.max, (300, 300), dtype, endpoint=True)
        window = (info.min * 0.7 + 3, info.max * 0.6)
        table = to_uint8(Pixels(large), window=window)
        rows = [to_uint8(Pixels(row[None, :200]), window=window)[0] for row in large[:20]]
        assert np.array_equal(table[:20, :200], np.stack(rows))

    def test_window_is_in_values_not_stored_numbers(self):
        stored = np.array([[0, 1024, 2048]], np.int16)
        assert to_uint8(Pixels(stored, 1.0, -1024.0), window=(-1024, 1024)).tolist() == [[0, 128, 255]]
        assert to_uint8(Pixels(stored, -1.0, 1024.0), window=(-1024, 1024)).tolist() == [[255, 128, 0]]

    def test_inverted_and_negative_slope(self):
        array = np.arange(1000, dtype=np.uint16).reshape(10, 100)
        shown = to_uint8(Pixels(array))
        assert shown[0, 0] == 0 and shown[-1, -1] == 255
        assert np.array_equal(to_uint8(Pixels(array, inverted=True)), 255 - shown)
        assert np.abs(to_uint8(Pixels(array, slope=-2.0)).astype(int) - (255 - shown.astype(int))).max() <= 1

    def test_what_is_no_number_is_black_in_either_polarity(self):
        array = np.array([[np.nan, 0.0, 1.0]], np.float32)
        assert to_uint8(Pixels(array)).tolist() == [[0, 0, 255]]
        assert to_uint8(Pixels(array, inverted=True)).tolist() == [[0, 255, 0]]

    def test_order_of_precedence(self):
        array = np.array([[0, 100, 1000]], np.uint16)
        own = Pixels(array, window=(0.0, 200.0))
        assert to_uint8(own).tolist() == [[0, 128, 255]]
        assert to_uint8(own, window=(0, 1000)).tolist() == [[0, 26, 255]]
        assert to_uint8(own, intensity="percentile", percentiles=(0, 100)).tolist() == [[0, 26, 255]]

    def test_8_bit_is_taken_as_it_is(self):
        array = np.array([[10, 20, 30]], np.uint8)
        assert np.array_equal(to_uint8(Pixels(array)), array)
        assert to_uint8(Pixels(array), window=(10, 30)).tolist() == [[0, 128, 255]]

    def test_nan_infinity_and_constants(self):
        array = np.array([[np.nan, -np.inf, 1.0, 3.0, 5.0, 6.0, 7.0, 9.0, np.inf]], np.float32)
        shown = to_uint8(Pixels(array), percentiles=(0, 100)).tolist()[0]
        assert shown == [0, 0, 0, 64, 128, 159, 191, 255, 255]
        assert to_uint8(Pixels(np.full((3, 3), 700, np.int16))).max() == 0
        assert to_uint8(Pixels(np.full((3, 3), np.nan))).max() == 0

    @pytest.mark.parametrize("window", [(5, 5), (9, 1), (0, float("nan")), (float("-inf"), 3)])
    def test_senseless_windows_are_refused(self, window):
        assert "window" in refusal(to_uint8, Pixels(GREY16), window=window)
        assert "intensity" in refusal(to_uint8, Pixels(GREY16), intensity="bright")

    @few
    @given(
        st.lists(st.integers(-(2**15), 2**15 - 1), min_size=3, max_size=100, unique=True),
        st.tuples(st.integers(2, 30), st.integers(2, 30)),
        st.sampled_from([1, 3]),
        st.integers(0, 2**32 - 1),
    )
    def test_percentiles_of_integers_equal_sorting(self, levels, shape, skew, seed):
        places = len(levels) * np.random.default_rng(seed).random(shape) ** skew  # skew: the first levels are frequent
        array = np.array(levels, np.int16)[places.astype(int)]
        low, high = percentile_window(array, (10, 90))
        values = np.sort(array.ravel())
        inside = values[values != values[0]]
        values = inside if 0 < inside.size < 0.8 * values.size else values
        expected = [values[min(values.size - 1, int(values.size * p / 100))] for p in (10, 90)]
        assume(expected[0] != expected[1])
        assert [low, high] == expected
        assert percentile_window(array.astype(np.float64), (10, 90)) == (low, high)

    def test_background_does_not_pull_the_window(self):
        scan = np.full((100, 100), -1000, np.int16)
        scan[30:70, 30:70] = RNG.normal(50, 20, (40, 40)).astype(np.int16)
        low, high = percentile_window(scan)
        assert -60 < low < 20 and 80 < high < 160

    def test_large_volumes_are_sampled(self):
        volume = RNG.integers(0, 4096, (160, 160, 160), np.int16)
        low, high = percentile_window(volume)
        assert abs(low - 20) < 5 and abs(high - 4076) < 5


def write_dicom(path, stored, **header):
    """Write a minimal DICOM file of (H, W), (frames, H, W) or (H, W, 3) integers."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "12345"
    colour = stored.ndim == 3 and stored.shape[-1] == 3
    if stored.ndim == 3 and not colour:
        dataset.NumberOfFrames = len(stored)
    dataset.Rows, dataset.Columns = stored.shape[:2] if colour or stored.ndim == 2 else stored.shape[1:]
    dataset.SamplesPerPixel = 3 if colour else 1
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * stored.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    dataset["PixelData"].VR = "OB" if stored.dtype.itemsize == 1 else "OW"
    for name, value in header.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


class TestDicom:
    STORED = np.array([[-1000, 0, 40], [80, 1000, 3000]], np.int16)

    def test_rescale_and_window(self, tmp_path):
        path = write_dicom(
            tmp_path / "a.dcm", self.STORED, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=40, WindowWidth=401
        )
        pixels = decode(path)
        assert np.array_equal(pixels.array, self.STORED) and pixels.array.dtype == np.int16
        assert (pixels.slope, pixels.intercept, pixels.inverted) == (2.0, -100.0, False)
        assert pixels.window == (-160.5, 239.5)  # c - 0.5 +- (w - 1) / 2, PS3.3 C.11.2.1.2.1

    def test_the_fragments_of_a_long_series_are_looked_up_once(self, tmp_path, monkeypatch):
        """pydicom goes through all of them for each frame: 20,000 frames took 57 ms each, and 0.5 ms so."""
        colours = [Image.new("L", (16, 16), 40 * number) for number in range(6)]
        path = write_dicom(tmp_path / "a.dcm", np.zeros((16, 16), np.uint8))
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
        dataset.NumberOfFrames = len(colours)
        dataset.PixelData = pydicom.encaps.encapsulate([saved(one, "JPEG") for one in colours], has_bot=False)
        dataset["PixelData"].VR = "OB"
        dataset.save_as(path)
        lookups, parse = [], pydicom.encaps.parse_fragments
        monkeypatch.setattr(pydicom.encaps, "parse_fragments", lambda file: lookups.append(1) or parse(file))
        with path.open("rb") as file:
            content = open_content(file, "a.dcm")
            middles = [int(content.page(number).array[8, 8]) for number in (4, 0, 5, 2)]
        assert np.allclose(middles, [160, 0, 200, 80], atol=2) and len(lookups) == 1

    def test_exact_window_and_the_first_of_several(self, tmp_path):
        header = {"VOILUTFunction": "LINEAR_EXACT", "WindowCenter": [40, 600], "WindowWidth": [400, 2000]}
        assert decode(write_dicom(tmp_path / "a.dcm", self.STORED, **header)).window == (-160.0, 240.0)
        assert decode(write_dicom(tmp_path / "b.dcm", self.STORED, WindowCenter=40, WindowWidth=0)).window is None

    def test_matches_pydicom_windowing(self, tmp_path):
        header = {"RescaleSlope": 1, "RescaleIntercept": -20, "WindowCenter": 50, "WindowWidth": 300}
        path = write_dicom(tmp_path / "a.dcm", RNG.integers(-900, 900, (40, 50)).astype(np.int16), **header)
        dataset = pydicom.dcmread(path)
        theirs = pydicom.pixels.apply_voi_lut(pydicom.pixels.apply_rescale(dataset.pixel_array, dataset), dataset)
        theirs = (theirs - theirs.min()) / np.ptp(theirs) * 255
        assert np.abs(to_uint8(decode(path)) - theirs).max() <= 1

    def test_monochrome1_shows_its_smallest_value_white(self, tmp_path):
        path = write_dicom(tmp_path / "a.dcm", self.STORED, PhotometricInterpretation="MONOCHROME1")
        shown = to_uint8(decode(path))
        assert shown[0, 0] == 255 and shown[1, 2] == 0

    def test_frames(self, tmp_path):
        stored = RNG.integers(0, 4000, (3, 4, 5)).astype(np.uint16)
        path = write_dicom(tmp_path / "a.dcm", stored)
        assert "3 frames" in refusal(decode, path)
        assert "no frame 3" in refusal(decode, path, slice_index=3)
        for frame in range(3):
            assert np.array_equal(decode(path, slice_index=frame).array, stored[frame])

    def test_functional_groups_of_each_frame(self, tmp_path):
        groups = []
        for frame in range(2):
            rescale, window, group = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
            rescale.RescaleSlope, rescale.RescaleIntercept = frame + 1, -frame
            window.WindowCenter, window.WindowWidth, window.VOILUTFunction = 100, 10 * (frame + 1), "LINEAR_EXACT"
            group.PixelValueTransformationSequence = [rescale]
            group.FrameVOILUTSequence = [window]
            groups.append(group)
        stored = RNG.integers(0, 200, (2, 4, 4)).astype(np.uint16)
        path = write_dicom(tmp_path / "a.dcm", stored, PerFrameFunctionalGroupsSequence=groups)
        second = decode(path, slice_index=1)
        assert (second.slope, second.intercept, second.window) == (2.0, -1.0, (90.0, 110.0))

    def test_spacing(self, tmp_path):
        assert decode(write_dicom(tmp_path / "a.dcm", self.STORED, PixelSpacing=[0.5, 0.25])).spacing == (0.5, 0.25)
        assert decode(write_dicom(tmp_path / "b.dcm", self.STORED, PixelAspectRatio=[2, 1])).spacing == (2.0, 1.0)
        assert decode(write_dicom(tmp_path / "c.dcm", self.STORED)).spacing == (1.0, 1.0)

    def test_colour(self, tmp_path):
        colour = RNG.integers(0, 256, (6, 4, 3), np.uint8)
        assert np.array_equal(decode(write_dicom(tmp_path / "a.dcm", colour)).array, colour)

    def test_nothing_of_the_patient_comes_out(self, tmp_path):
        pixels = decode(write_dicom(tmp_path / "a.dcm", self.STORED))
        assert "Doe" not in repr(pixels) and "12345" not in repr(pixels)

    def test_no_preamble_needs_the_suffix_only(self, tmp_path):
        path = write_dicom(tmp_path / "a.dcm", self.STORED)
        bare = path.read_bytes()[132:]
        assert np.array_equal(decode(bare, name="a.dcm").array, self.STORED)
        refusal(decode, bare)

    def test_every_transfer_syntax_of_one_scan_gives_the_same_pixels(self):
        plain = decode(packaged("MR_small.dcm"))
        names = ["MR_small_RLE", "MR_small_implicit", "MR_small_bigendian", "MR_small_padded"]
        try:
            import openjpeg  # noqa: F401

            names.append("MR_small_jp2klossless")
        except ImportError:
            pass
        for name in names:
            other = decode(packaged(f"{name}.dcm"))
            assert np.array_equal(other.array, plain.array) and other.window == plain.window

    @pytest.mark.parametrize(
        ("name", "shape", "index"),
        [("CT_small.dcm", (128, 128), None), ("examples_palette.dcm", (350, 800, 3), None),
         ("examples_rgb_color.dcm", (240, 320, 3), None), ("examples_ybr_color.dcm", (240, 320, 3), 29),
         ("image_dfl.dcm", (512, 512), None), ("ExplVR_BigEnd.dcm", (60, 80, 3), None),
         ("SC_ybr_full_422_uncompressed.dcm", (100, 100, 3), None), ("SC_rgb_rle_16bit.dcm", (100, 100, 3), None)],
    )  # fmt: skip
    def test_packaged_files(self, name, shape, index):
        pixels = decode(packaged(name), slice_index=index)
        assert pixels.array.shape == shape and pixels.array.dtype.isnative
        assert np.ptp(to_uint8(pixels)) > 100

    def test_ct_is_in_hounsfield_units(self):
        pixels = decode(packaged("CT_small.dcm"))
        values = pixels.slope * pixels.array + pixels.intercept
        assert -1100 < values.min() < -700 and 500 < values.max() < 3100  # air in the lungs; bone

    def test_ybr_becomes_rgb(self):
        bars = decode(packaged("SC_ybr_full_422_uncompressed.dcm")).array
        assert bars[5, 50, 0] > 250 and bars[5, 50, 1] < 5  # the first bar is red

    @pytest.mark.parametrize("name", ["rtplan.dcm", "test-SR.dcm", "waveform_ecg.dcm", "MR_truncated.dcm"])
    def test_files_without_a_whole_image_are_refused(self, name):
        assert name in refusal(decode, packaged(name))

    def test_claimed_sizes_are_refused_unread(self, tmp_path):
        path = write_dicom(tmp_path / "a.dcm", self.STORED, Rows=60000, Columns=60000)
        assert "60000 x 60000" in refusal(decode, path)

    @pytest.mark.parametrize(
        ("syntax", "format"),
        [("JPEG2000Lossless", "JPEG2000"), ("JPEGBaseline8Bit", "JPEG"), ("JPEGBaseline8Bit", None)],
    )
    def test_compressed_stream_larger_than_its_header(self, tmp_path, syntax, format):
        path = write_dicom(tmp_path / "a.dcm", np.zeros((8, 8), np.uint8))
        dataset = pydicom.dcmread(path)
        large = saved(
            np.zeros((300, 200), np.uint8), format or "JPEG", **({"no_jp2": True} if "2000" in syntax else {})
        )
        large = large if format else large[:2] + b"\xff" + large[2:]  # a fill byte before the first marker
        dataset.PixelData = pydicom.encaps.encapsulate([large])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
        dataset.save_as(path)
        assert "claims 60000 pixels" in refusal(decode, path, max_pixels=1000)

    def test_deflated_bomb(self, tmp_path, monkeypatch):
        monkeypatch.setattr("biovfm_hf.decoding.dicom_header._MAX_INFLATED_BYTES", 32 << 20)
        path = write_dicom(tmp_path / "a.dcm", np.zeros((2, 2), np.uint8))
        meta = pydicom.dcmread(path).file_meta
        meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        out = pydicom.filebase.DicomBytesIO()
        out.write(b"\0" * 128 + b"DICM")
        pydicom.filewriter.write_file_meta_info(out, meta)
        out.seek(0)
        deflater, block = zlib.compressobj(9, zlib.DEFLATED, -15), b"\0" * (1 << 24)
        bomb = b"".join(deflater.compress(block) for _ in range(12)) + deflater.flush()
        (tmp_path / "bomb.dcm").write_bytes(out.read() + bomb)
        tracemalloc.start()
        assert "inflates" in refusal(decode, tmp_path / "bomb.dcm")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
        tracemalloc.stop()

    @few
    @given(st.data())
    def test_damaged_files_give_one_line(self, tmp_path_factory, data):
        whole = Path(packaged("MR_small.dcm")).read_bytes()
        damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
        for _ in range(data.draw(st.integers(0, 6))):
            if damaged:
                damaged[data.draw(st.integers(0, min(len(damaged), 2000) - 1))] = data.draw(st.integers(0, 255))
        try:
            assert decode(bytes(damaged), name="damaged.dcm").array.ndim in (2, 3)
        except UserError as error:
            assert "\n" not in str(error)

    @few
    @given(start=st.integers(132, 1900), length=st.integers(0, 40))
    def test_messages_repeat_nothing_of_the_header(self, start, length):
        """Bytes of a name where others stood, as in a file whose parts have shifted."""
        whole = Path(packaged("MR_small.dcm")).read_bytes()
        name = b"\\Qyzzx^Wvqqe\\"
        try:
            decode(whole[:start] + name + whole[start + length :], name="damaged.dcm")
        except UserError as error:
            assert not any(part in str(error).lower() for part in ("qyz", "yzz", "zzx", "wvq", "vqq", "qqe"))

    @pytest.mark.parametrize("field", ["RescaleSlope", "WindowCenter", "PixelSpacing", "PhotometricInterpretation"])
    def test_a_name_in_another_field_is_not_repeated(self, tmp_path, field):
        values = {"PixelSpacing": ["7.7", "7.7"], "PhotometricInterpretation": "MONOCHROME2"}
        header = {"RescaleIntercept": "0", "RescaleSlope": "1", "WindowWidth": "9", field: values.get(field, "7.7777")}
        path = write_dicom(tmp_path / "a.dcm", self.STORED, **header)
        old = b"MONOCHROME2" if field == "PhotometricInterpretation" else b"7.7777" if field not in values else b"7.7"
        name = b"Doe^Jane"[: len(old)].ljust(len(old))
        path.write_bytes(path.read_bytes().replace(old, name))
        message = refusal(decode, path)
        assert "cannot be read as DICOM" in message and not any(w in message for w in ("Doe", "Jan"))

    def test_warnings_of_its_decoder_are_not_shown(self, tmp_path):
        path = write_dicom(tmp_path / "a.dcm", self.STORED, StudyInstanceUID="1.2.3.4.5")
        path.write_bytes(path.read_bytes().replace(b"1.2.3.4.5", b"Doe^Jane1"))
        code = "import logging, sys; logging.basicConfig(); from biovfm_hf.pixels import decode; decode(sys.argv[1])"
        ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        assert ran.stderr == "" and "Doe" in str(list(pydicom.dcmread(path).values()))


def write_nifti(path, array, affine=None, **header):
    image = nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


ORIENTATIONS = [
    "".join(letters) for order in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*order)
]


class TestVolumes:
    RAS = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)

    @pytest.mark.parametrize("letters", ORIENTATIONS)
    def test_every_stored_orientation_becomes_ras(self, tmp_path, letters):
        ras = nibabel.Nifti1Image(self.RAS, np.diag([2.0, 3.0, 4.0, 1.0]))
        to_stored = nibabel.orientations.ornt_transform(
            nibabel.orientations.io_orientation(ras.affine), nibabel.orientations.axcodes2ornt(letters)
        )
        nibabel.save(ras.as_reoriented(to_stored), tmp_path / "a.nii")
        volume = read_volume(tmp_path / "a.nii")
        assert np.array_equal(volume.array, self.RAS) and volume.array.dtype == np.int16
        assert volume.spacing == (2.0, 3.0, 4.0)
        assert [volume.slice(1, axis).spacing for axis in AXES] == [(4.0, 3.0), (4.0, 2.0), (3.0, 2.0)]

    def test_slices_show_front_and_head_up_and_right_at_left(self, tmp_path):
        array = np.zeros((4, 5, 6), np.int16)
        array[-1, :, :] += 1  # right
        array[:, -1, :] += 10  # front
        array[:, :, -1] += 100  # head
        volume = read_volume(write_nifti(tmp_path / "a.nii", array))
        axial, coronal, sagittal = (volume.slice(2, axis).array for axis in ("axial", "coronal", "sagittal"))
        assert axial.shape == (5, 4) and (axial[0] >= 10).all() and (axial[:, 0] % 10 == 1).all()
        assert coronal.shape == (6, 4) and (coronal[0] >= 100).all() and (coronal[:, 0] % 10 == 1).all()
        assert sagittal.shape == (6, 5) and (sagittal[0] >= 100).all() and (sagittal[:, 0] % 100 >= 10).all()

    @pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "u2", "i4", "f4", ">f4", "f8"])
    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    def test_dtypes_are_kept(self, tmp_path, dtype, name):
        array = RNG.integers(0, 100, (3, 4, 5)).astype(dtype)
        header = nibabel.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
        header.set_data_dtype(array.dtype)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4), header), tmp_path / name)
        volume = read_volume(tmp_path / name)
        assert np.array_equal(volume.array, array) and volume.array.dtype == array.dtype.newbyteorder("=")

    def test_scaling_is_kept_apart(self, tmp_path):
        image = nibabel.Nifti1Image(self.RAS, np.eye(4))
        image.header.set_slope_inter(0.5, -7)
        nibabel.save(image, tmp_path / "a.nii.gz")
        data = (tmp_path / "a.nii.gz").read_bytes()
        pixels = decode(data, slice_index=0)
        assert np.array_equal(pixels.array, self.RAS[::-1, ::-1, 0].T)
        assert (pixels.slope, pixels.intercept) == (0.5, -7.0)

    def test_nifti2(self, tmp_path):
        nibabel.save(nibabel.Nifti2Image(self.RAS, np.eye(4)), tmp_path / "a.nii.gz")
        assert np.array_equal(read_volume(tmp_path / "a.nii.gz").array, self.RAS)

    def test_header_extensions_are_passed_over(self, tmp_path):
        image = nibabel.Nifti1Image(self.RAS, np.eye(4))
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"scanned on a Tuesday" * 50))
        nibabel.save(image, tmp_path / "a.nii")
        assert np.array_equal(read_volume(tmp_path / "a.nii").array, self.RAS)

    def test_a_slice_must_be_chosen(self, tmp_path):
        path = write_nifti(tmp_path / "a.nii.gz", self.RAS)
        assert "3 x 4 x 5" in refusal(decode, path) and "slice_index=2" in refusal(decode, path)
        assert "0 to 4" in refusal(decode, path, slice_index=5)
        assert "oblique" in refusal(decode, path, slice_index=1, axis="oblique")
        assert "time" in refusal(decode, path, slice_index=1, time_index=1)
        assert decode(path, slice_index=3, axis="coronal").array.shape == (5, 3)

    def test_one_slice_needs_no_choice(self, tmp_path):
        for axis, name in enumerate(AXES):
            array = np.moveaxis(np.arange(12, dtype=np.uint8).reshape(3, 4, 1), 2, axis)
            pixels = decode(write_nifti(tmp_path / "a.nii", array))
            assert pixels.array.size == 12, name
        assert decode(write_nifti(tmp_path / "b.nii", self.RAS[..., 0])).array.shape == (4, 3)

    def test_series(self, tmp_path):
        series = RNG.integers(0, 99, (3, 4, 5, 6)).astype(np.int16)
        path = write_nifti(tmp_path / "a.nii", series)
        assert "series of 6" in refusal(decode, path, slice_index=0)
        assert np.array_equal(decode(path, slice_index=1, time_index=4).array, series[::-1, ::-1, 1, 4].T)
        assert "time_index 6" in refusal(decode, path, slice_index=1, time_index=6)

    def test_colour_volume(self, tmp_path):
        rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
        colours = RNG.integers(0, 256, (3, 4, 5, 3), np.uint8)
        path = write_nifti(tmp_path / "a.nii", np.ascontiguousarray(colours).view(rgb)[..., 0])
        assert np.array_equal(read_volume(path).array, colours)
        assert decode(path, slice_index=2).array.shape == (4, 3, 3)

    def test_percentiles_come_from_the_whole_volume(self, tmp_path):
        array = np.tile(np.arange(1000, dtype=np.int16).reshape(1, 1, 1000), (4, 4, 1))
        path = write_nifti(tmp_path / "a.nii.gz", array)
        assert to_uint8(decode(path, slice_index=500)).mean() == pytest.approx(127, abs=2)
        assert to_uint8(decode(path, slice_index=2)).max() == 0

    def test_degenerate_affine_leaves_the_axes_as_stored(self, tmp_path):
        image = nibabel.Nifti1Image(self.RAS, np.eye(4))
        nibabel.save(image, tmp_path / "a.nii")
        data = bytearray((tmp_path / "a.nii").read_bytes())
        data[280:328] = struct.pack("<12f", *[float("nan")] * 12)
        data[252:256] = struct.pack("<hh", 0, 2)  # no qform; sform as given
        volume = read_volume(io.BytesIO(data), name="a.nii")
        assert np.array_equal(volume.array, self.RAS) and volume.spacing == (1.0, 1.0, 1.0)

    def test_hundred_gigabyte_header(self, tmp_path):
        path = write_nifti(tmp_path / "a.nii", self.RAS)
        data = bytearray(path.read_bytes())
        data[40:56] = struct.pack("<8h", 3, 4000, 4000, 4000, 1, 1, 1, 1)
        for name, hostile in (("big.nii", bytes(data)), ("big.nii.gz", gzip.compress(bytes(data)))):
            (tmp_path / name).write_bytes(hostile)
            assert "119.2 GiB" in refusal(read_volume, tmp_path / name)
            assert "119.2 GiB" in refusal(decode, tmp_path / name, slice_index=0)

    def test_no_more_is_inflated_than_the_header_claims(self, tmp_path):
        path = write_nifti(tmp_path / "a.nii", self.RAS)
        (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(path.read_bytes() + bytes(128 << 20), 1))
        tracemalloc.start()
        volume = read_volume(tmp_path / "bomb.nii.gz")
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
        tracemalloc.stop()
        assert np.array_equal(volume.array, self.RAS)

    def test_damaged_files(self, tmp_path):
        path = write_nifti(tmp_path / "a.nii.gz", RNG.integers(0, 9999, (20, 20, 20)).astype(np.int16))
        data = path.read_bytes()
        (tmp_path / "short.nii.gz").write_bytes(data[: len(data) // 2])
        (tmp_path / "flipped.nii.gz").write_bytes(data[:5000] + bytes([data[5000] ^ 0xFF]) + data[5001:])
        (tmp_path / "text.nii.gz").write_bytes(gzip.compress(b"not a volume" * 100))
        (tmp_path / "short.nii").write_bytes(gzip.decompress(data)[:3000])
        for name in ("short.nii.gz", "flipped.nii.gz", "text.nii.gz", "short.nii"):
            assert name in refusal(read_volume, tmp_path / name)

    @few
    @given(st.data())
    def test_random_headers_give_a_volume_or_one_line(self, data):
        image = nibabel.Nifti1Image(self.RAS, np.eye(4))
        damaged = bytearray(image.to_bytes())
        for _ in range(data.draw(st.integers(1, 8))):
            damaged[data.draw(st.integers(0, 351))] = data.draw(st.integers(0, 255))
        try:
            assert read_volume(io.BytesIO(damaged), name="a.nii", max_bytes=1 << 20).array.ndim in (3, 4)
        except UserError as error:
            assert "\n" not in str(error)

    def test_complex_volumes_are_refused(self, tmp_path):
        assert "complex" in refusal(read_volume, write_nifti(tmp_path / "a.nii", self.RAS.astype(np.complex64)))


class TestRefusals:
    def test_paths(self, tmp_path):
        assert "folder" in refusal(decode, tmp_path)
        assert "no such file" in refusal(decode, tmp_path / "absent.png")
        assert "no such file" in refusal(decode, "https://example.org/scan.png")
        refusal(decode, "a\0b")
        refusal(decode, "x" * 5000)
        assert "no such file" in refusal(decode, "/dev/zero")

    @pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM"])
    def test_truncated_images(self, tmp_path, format):
        data = saved(RNG.integers(0, 256, (64, 64), np.uint8), format)
        path = tmp_path / f"cut.{format.lower()}"
        path.write_bytes(data[: len(data) // 2])
        assert path.name in refusal(decode, path)

    @few
    @given(st.binary(max_size=600))
    def test_any_bytes(self, data):
        for name in ("a.png", "a.dcm", "a.nii.gz"):
            refusal(decode, data, name=name)

    @few
    @given(st.data())
    def test_damaged_rasters_give_an_image_or_one_line(self, data):
        whole = saved(GREY16, data.draw(st.sampled_from(["PNG", "TIFF"])))
        damaged = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 6))):
            damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        try:
            assert decode(bytes(damaged)).array.ndim in (2, 3)
        except UserError as error:
            assert "\n" not in str(error)

    def test_decompression_bomb(self):
        def chunk(kind, body):
            return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

        for side in (10_000, 60_000):
            header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
            bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
            refusal(decode, bomb, name="bomb.png")
        assert "limit of 100" in refusal(decode, saved(np.zeros((20, 20), np.uint8)), max_pixels=100)

    @pytest.mark.parametrize("size", [(1, 2 << 20), (2 << 20, 1)])
    @pytest.mark.parametrize("mode", ["L", "P"])
    def test_a_picture_of_one_endless_side_is_refused_before_it_is_decoded(self, size, mode, tmp_path):
        """A decoder has a pointer for each row: 1 x 89,000,000 pixels took 935 MiB."""
        (tmp_path / "long.png").write_bytes(data := saved(Image.new(mode, size)))
        map_of = np.zeros((8, 8), np.uint8)
        opened, processor = Image.open(io.BytesIO(data)), BioVFMImageProcessor()
        calls = [
            *((decode, source) for source in (data, opened, tmp_path / "long.png")),
            *((processor, source) for source in (data, io.BytesIO(data), opened, {"bytes": data, "path": None})),
            (processor, map_of, data),
        ]
        for call, *inputs in calls:
            assert "no side may be over" in refusal(call, *inputs)

    def test_pickled_array(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([{"a": 1}, print], dtype=object), allow_pickle=True)
        assert "Python objects" in refusal(decode, tmp_path / "a.npy")

    def test_array_file_that_claims_more_than_it_holds(self, tmp_path):
        with (tmp_path / "a.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<f4", "fortran_order": False, "shape": (200_000, 200_000)}
            )
        assert "limit" in refusal(decode, tmp_path / "a.npy")

    def test_late_frame_of_an_animation(self):
        frames = [Image.fromarray(np.full((3, 4), n, np.uint8)) for n in (0, 1)]
        data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert "out of range" in refusal(decode, data, slice_index=10**12)

    def test_missing_extra_is_named(self, monkeypatch, tmp_path):
        path = write_dicom(tmp_path / "a.dcm", TestDicom.STORED)
        monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
        assert "biovfm-hf[data]" in refusal(decode, path)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the folder of real images beside the checkout")
class TestRealFiles:
    @pytest.mark.parametrize(
        "pattern", ["chestxray14/images/*.png", "busi/**/*.png", "bccd/**/*.jpg", "fundus/**/*.JPG"]
    )
    def test_pictures(self, pattern):
        for path in sorted(REAL.glob(pattern))[:3]:
            assert np.ptp(to_uint8(decode(path))) > 0

    def test_brain_is_upright(self):
        volume = read_volume(REAL / "volumes" / "spm152.nii.gz")
        sagittal = to_uint8(volume.slice(volume.array.shape[0] // 2, "sagittal")).astype(float)
        half = sagittal.shape[1] // 2
        # below the middle of the head, the cerebellum lies behind (right) and there is nothing in front (left)
        assert sagittal[-60:, half:].mean() > 2 * sagittal[-60:, :half].mean()
