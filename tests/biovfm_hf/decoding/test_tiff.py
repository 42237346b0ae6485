"""TIFF of any dtype, against tifffile."""

import struct

import numpy as np
import pytest
from PIL import Image

from biovfm_hf.decoding import Source, read_file
from biovfm_hf.errors import UserError
from biovfm_hf.pictures import oriented
from biovfm_hf.pixels import decode, to_uint8
from tests.biovfm_hf.decoding.samples import RNG, SHADES, assert_read, built, colours, slice_of, smooth

tifffile = pytest.importorskip("tifffile")


@pytest.mark.parametrize("dtype", ["i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8", "u8", "i8"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("pages", [1, 2])
@pytest.mark.parametrize("packing", [None, "zlib", "lzw", "packbits", "zstd"])
def test_tiff_of_every_dtype(tmp_path, dtype, byteorder, pages, packing):
    info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.finfo(dtype)
    stack = np.stack([np.linspace(float(info.min) / 2, float(info.max) / 2, 48).reshape(6, 8).astype(dtype)] * pages)
    tifffile.imwrite(tmp_path / "a.tif", stack, byteorder=byteorder, photometric="minisblack", compression=packing)
    found = decode(tmp_path / "a.tif", slice_index=pages - 1).array
    assert np.array_equal(found, stack[-1]) and found.dtype.isnative


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", ["u1", "u2", "f8"])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_is_turned_whatever_its_dtype(tmp_path, orientation, dtype, channels):
    array = (RNG.random((6, 8, 3) if channels == 3 else (6, 8)) * 200).astype(dtype)
    photometric = "rgb" if channels == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", array, photometric=photometric, extratags=[(274, "H", 1, orientation, True)])
    assert np.array_equal(decode(tmp_path / "a.tif").array, oriented(array, orientation))


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "f2", "f4"])
@pytest.mark.parametrize("packing", [None, "lzw"])
def test_tiff_channels_in_either_order_without_alpha(tmp_path, planar, channels, dtype, packing):
    array = RNG.integers(-128, 128, (6, 8, channels)).astype(dtype)
    stored = array if planar == "contig" else np.ascontiguousarray(array.transpose(2, 0, 1))
    alpha = None if channels == 3 else ["unassalpha"]
    tifffile.imwrite(
        tmp_path / "a.tif", stored, photometric="rgb" if channels > 2 else "minisblack", planarconfig=planar,
        extrasamples=alpha, compression=packing,
    )  # fmt: skip
    assert np.array_equal(decode(tmp_path / "a.tif").array, array[..., 0] if channels == 2 else array[..., :3])


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_tiff_whose_zero_is_white(tmp_path, dtype):
    array = np.arange(48).reshape(6, 8).astype(dtype)
    for photometric in ("miniswhite", "minisblack"):
        tifffile.imwrite(tmp_path / f"{photometric}.tif", array, photometric=photometric)
    white, black = (to_uint8(decode(tmp_path / f"{name}.tif")) for name in ("miniswhite", "minisblack"))
    assert np.array_equal(white, 255 - black)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_tiff_with_a_palette(tmp_path, dtype):
    numbers = RNG.integers(0, 256, (6, 8)).astype(dtype)
    palette = RNG.integers(0, 65536, (3, 1 << 8 * numbers.itemsize)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", numbers, photometric="palette", colormap=palette)
    pixels = decode(tmp_path / "a.tif")
    assert np.array_equal(pixels.array, np.moveaxis(palette[:, numbers], 0, -1)) and pixels.window == (0.0, 65535.0)


def test_tiff_of_other_colours_than_rgb_is_refused_where_they_are_not_converted(tmp_path):
    inks = RNG.integers(0, 65536, (6, 8, 4)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", inks, photometric="separated")
    with pytest.raises(UserError, match="CMYK"):
        decode(tmp_path / "a.tif")


def test_a_pyramid_gives_the_smallest_level_that_serves(tmp_path):
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


def test_a_palette_of_12_bits_keeps_its_levels(tmp_path):
    numbers = smooth(top=255).astype(np.uint8)
    for step in (16, 1, 257):
        palette = np.stack([np.arange(256) * step] * 3).astype(np.uint16)
        tifffile.imwrite(tmp_path / "a.tif", numbers, photometric="palette", colormap=palette)
        (picture,) = built(tmp_path / "a.tif")
        assert len(np.unique(picture.pixels)) > 250, step


@pytest.mark.parametrize("subsampled", [False, True])
def test_luminance_and_colour_differences(tmp_path, subsampled):
    """As libtiff and Pillow convert them, also where four pixels share their colour."""
    stored = np.asarray(Image.fromarray(colours(255).astype(np.uint8)).convert("YCbCr")).copy()
    if subsampled:
        shared = stored[::2, ::2, 1:].copy()
        stored[..., 1:] = np.kron(shared, np.ones((2, 2, 1), np.uint8))
        blocks = np.concatenate([stored[y::2, x::2, :1] for y in (0, 1) for x in (0, 1)] + [shared], axis=-1)
        (tmp_path / "a.tif").write_bytes(subsampled_tiff(blocks.tobytes()))
    else:
        tifffile.imwrite(tmp_path / "a.tif", stored, photometric="ycbcr", subsampling=(1, 1))
    expected = np.asarray(Image.fromarray(stored, "YCbCr").convert("RGB")).astype(int)
    found = decode(tmp_path / "a.tif").array
    assert np.abs(found - expected).max() <= 3
    assert np.array_equal(built(tmp_path / "a.tif")[0].pixels, found)


def subsampled_tiff(data):
    """An uncompressed YCbCr page of 80 x 64 pixels in blocks of 2 x 2, which tifffile does not write."""
    fields = {256: 80, 257: 64, 258: 138, 259: 1, 262: 6, 273: 144, 277: 3, 278: 64, 279: len(data), 530: 0x20002}
    entries = [
        struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, {258: 3, 530: 2}.get(tag, 1), value)
        for tag, value in fields.items()
    ]
    start = b"II*\0" + struct.pack("<IH", 8, len(fields)) + b"".join(entries) + struct.pack("<I", 0)
    return start.ljust(138, b"\0") + struct.pack("<3H", 8, 8, 8) + data


@pytest.mark.parametrize("channels", [1, 3])
def test_an_imagej_stack_of_one_page(tmp_path, channels):
    """ImageJ writes stacks of over 4 GB as one page, with the other pictures behind the first."""
    stack = np.stack([smooth(n) if channels == 1 else colours() + n for n in range(6)]).astype(">u2")
    note = b"ImageJ=1.53t\nimages=6\nslices=6\nloop=false\n\0"
    bits, text = (16, 0) if channels == 1 else (134, 140)
    fields = {254: 0, 256: 80, 257: 64, 258: bits, 262: channels // 2 + 1, 270: text or 134, 273: 200, 277: channels}
    fields |= {278: 64, 279: stack[0].nbytes}
    counts = {258: channels, 270: len(note)}
    short = (258, 262, 277)
    entries = [
        struct.pack(">HHI", tag, 3 if tag in short else 2 if tag == 270 else 4, counts.get(tag, 1))
        + (struct.pack(">HH", value, 0) if tag in short and counts.get(tag, 1) == 1 else struct.pack(">I", value))
        for tag, value in fields.items()
    ]
    start = b"MM\0*" + struct.pack(">IH", 8, len(fields)) + b"".join(entries) + bytes(4)
    start += struct.pack(">3H", 16, 16, 16) + note if channels == 3 else note
    (tmp_path / "a.tif").write_bytes(start.ljust(200, b"\0") + stack.tobytes())
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), stack)
    for number in (0, 3, 5):
        assert_read(tmp_path / "a.tif", stack[number].astype(float), number)
    assert len(built(tmp_path / "a.tif")) == 6
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:-9])
    with pytest.raises(UserError, match="ends before"):
        decode(tmp_path / "a.tif", slice_index=5)


def test_tiles_that_are_deep_hold_slices(tmp_path):
    volume = np.stack([smooth(n, height=64, width=64) for n in range(32)]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", volume, volumetric=True, tile=(16, 16, 16), photometric="minisblack")
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), volume)
    assert np.array_equal(slice_of(tmp_path / "a.tif", 17), volume[17])
    pictures = built(tmp_path / "a.tif", setting={"window": [0, 4080]})
    assert len(pictures) == 32 and [picture.index for picture in pictures] == list(range(32))


def test_a_pyramid_of_bigtiff(tmp_path):
    base = np.kron(smooth(), np.ones((8, 8))).astype(np.uint16)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", bigtiff=True) as writer:
        writer.write(base, subifds=2, tile=(128, 128), photometric="minisblack")
        for step in (2, 4):
            writer.write(base[::step, ::step], subfiletype=1, tile=(128, 128), photometric="minisblack")
    (picture,) = built(tmp_path / "a.ome.tif", size=60)
    assert picture.pixels.shape == (128, 160) and (picture.width, picture.height) == (640, 512)
    assert np.array_equal(decode(tmp_path / "a.ome.tif").array, base)


def test_channels_that_are_pyramids_of_their_own(tmp_path):
    base = np.stack([np.kron(smooth(seed), np.ones((4, 4))) for seed in range(3)]).astype(np.uint16)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        writer.write(base, subifds=1, tile=(64, 64), metadata={"axes": "CYX"}, photometric="minisblack")
        writer.write(base[:, ::4, ::4], subfiletype=1, tile=(64, 64), photometric="minisblack")
        writer.write(np.zeros((9, 30), np.uint16), photometric="minisblack")  # a label is no channel
    for number in range(3):
        assert np.array_equal(decode(tmp_path / "a.ome.tif", slice_index=number).array, base[number])
    assert [picture.pixels.shape for picture in built(tmp_path / "a.ome.tif", size=30)] == [(64, 80)] * 3


@pytest.mark.parametrize("bits", [3, 6])
def test_fewer_bits_than_8_are_black_to_white(tmp_path, bits):
    values = smooth(top=(1 << bits) - 1).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, bitspersample=bits, photometric="minisblack")
    assert_read(tmp_path / "a.tif", np.rint(values * 255.0 / ((1 << bits) - 1)))


@pytest.mark.parametrize("orientation", [3, 5, 6])
def test_later_pages_are_turned_as_their_tags_say(tmp_path, orientation):
    stack = np.stack([smooth(n) for n in range(2)]).astype(np.uint16)
    tags = [(274, "H", 1, orientation, False)]
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", extratags=tags)
    assert_read(tmp_path / "a.tif", oriented(stack[1], orientation).astype(float), 1)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_bits(tmp_path, bits):
    values = np.floor(smooth(top=255) / 256 * (1 << bits))
    tifffile.imwrite(tmp_path / "a.tif", values.astype(np.uint16), bitspersample=bits, photometric="minisblack")
    assert_read(tmp_path / "a.tif", values)


def test_what_is_no_number_of_a_float_picture_is_black(tmp_path):
    values = (smooth() / 1e3).astype(np.float32)
    values[:20], values[30, 0], values[31, 0] = np.nan, np.inf, -np.inf
    tifffile.imwrite(tmp_path / "a.tif", values)
    for pixels in (to_uint8(decode(tmp_path / "a.tif")), built(tmp_path / "a.tif")[0].pixels):
        assert not pixels[:20].any() and len(np.unique(pixels[20:])) > 200 and pixels[30, 0] == 255
