"""PNG, JPEG 2000 and the like: all levels are kept."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from biovfm_hf.errors import UserError
from biovfm_hf.pictures import RASTER_FORMATS
from biovfm_hf.pixels import decode, to_uint8
from biovfm_hf.reading.image_files import read_uint8
from tests.biovfm_hf.decoding.samples import RNG, assert_read, built, colours, smooth

imagecodecs = pytest.importorskip("imagecodecs")


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(rows, width, height, bits, colour_type, before=b""):
    """A PNG of rows of packed bytes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def deep_png(array, colour_type, before=b""):
    return png(array.astype(">u2"), array.shape[1], array.shape[0], 16, colour_type, before)


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4), (0, 1)])
def test_png_of_16_bits_keeps_all_levels(colour_type, channels):
    array = RNG.integers(0, 4096, (7, 9, channels)).astype(np.uint16)
    data = deep_png(array, colour_type)
    assert np.array_equal(decode(data).array, array[..., :3] if channels > 2 else array[..., 0])
    with pytest.raises(UserError):
        decode(data[: len(data) // 2])


def test_png_of_few_bits_or_turned_by_exif(tmp_path):
    orientation = Image.Exif()
    orientation[0x0112] = 6
    deep = deep_png(colours(), 2, chunk(b"eXIf", orientation.tobytes()[6:]))
    (tmp_path / "a.png").write_bytes(deep)
    assert_read(tmp_path / "a.png", np.rot90(colours(), -1))
    for bits in (1, 2, 4):
        levels = (smooth(bits, 255) // (256 >> bits)).astype(np.uint8)
        packed = np.unpackbits(levels[..., None], axis=2)[..., 8 - bits :].reshape(64, -1)
        data = png(np.packbits(packed, axis=1), 80, 64, bits, 0)
        assert np.array_equal(to_uint8(decode(data)), levels * (255 // ((1 << bits) - 1)))


@pytest.mark.parametrize(
    ("values", "bits"), [(smooth(), 12), (smooth() - 2040, None), (colours(), 12), (smooth(top=65535), 16)]
)
@pytest.mark.parametrize("container", [True, False])
def test_jpeg_2000_of_over_8_bits(tmp_path, values, bits, container):
    array = values.astype(np.int16 if values.min() < 0 else np.uint16)
    codec = imagecodecs.JPEG2K.CODEC.JP2 if container else imagecodecs.JPEG2K.CODEC.J2K
    data = imagecodecs.jpeg2k_encode(array, bitspersample=bits, reversible=True, level=0, codecformat=codec)
    (tmp_path / "a.jp2").write_bytes(data)
    assert np.array_equal(imagecodecs.jpeg2k_decode(data), array)
    assert_read(tmp_path / "a.jp2", values)


def test_grey_and_alpha_of_jpeg_2000(tmp_path):
    array = np.stack([smooth(), np.full((64, 80), 4095)], axis=-1).astype(np.uint16)
    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(array, bitspersample=12, reversible=True, level=0))
    assert_read(tmp_path / "a.jp2", smooth())


def test_a_large_turned_jpeg_keeps_its_size(tmp_path):
    orientation = Image.Exif()
    orientation[0x0112] = 6
    whole = np.kron(smooth(top=255).astype(np.uint8), np.ones((8, 8), np.uint8))
    Image.fromarray(whole).save(tmp_path / "a.jpg", exif=orientation, quality=95)
    (picture,) = built(tmp_path / "a.jpg", size=100)
    assert (picture.width, picture.height) == (512, 640) and picture.pixels.shape == (320, 256)


def test_a_jpeg_of_12_bits(tmp_path):
    """Lossy, so within a few of 4096 levels; libjpeg-turbo writes it, and reads it for us."""
    (tmp_path / "a.jpg").write_bytes(imagecodecs.jpeg_encode(smooth().astype(np.uint16), level=100, bitspersample=12))
    assert np.abs(decode(tmp_path / "a.jpg").array - smooth()).max() < 20
    assert len(np.unique(built(tmp_path / "a.jpg")[0].pixels)) > 200


def test_avif_keeps_ten_bits_frames_and_orientation(tmp_path):
    """libavif writes; Pillow, which cuts to 8 bits, judges the rest."""
    if "AVIF" not in RASTER_FORMATS:
        pytest.skip("this Pillow reads no AVIF")
    ten = colours(1023).astype(np.uint16)
    (tmp_path / "a.avif").write_bytes(imagecodecs.avif_encode(ten, bitspersample=10, level=100))
    read = decode(tmp_path / "a.avif").array
    assert read.dtype == np.uint16 and np.abs(read.astype(int) - ten).max() <= 2
    orientation = Image.Exif()
    orientation[0x0112] = 6
    picture = Image.fromarray(colours(255).astype(np.uint8))
    picture.save(tmp_path / "turned.avif", exif=orientation)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "turned.avif")))
    turned = (tmp_path / "turned.avif").read_bytes()
    assert np.array_equal(decode(turned).array, upright)
    assert np.array_equal(decode(turned[:8] + b"mif1" + turned[12:]).array, upright)  # "avif" among the other brands
    with pytest.raises(UserError, match="HEIC is not read"):
        decode(turned[:8] + b"mif1" + turned[12:].replace(b"avif", b"heic", 1))
    picture.save(tmp_path / "film.avif", save_all=True, append_images=[picture.rotate(180)])
    assert len(built(tmp_path / "film.avif")) == 2


def test_what_no_library_here_reads_is_named(monkeypatch):
    with pytest.raises(UserError, match=r"a\.heic: HEIC is not read; save the picture as PNG"):
        decode(b"\0\0\0\x18ftypheic" + bytes(40), name="a.heic")
    monkeypatch.setattr("biovfm_hf.decoding.raster.RASTER_FORMATS", ("PNG",))
    with pytest.raises(UserError, match=r"AVIF needs Pillow 11\.3"):
        decode(b"\0\0\0\x18ftypavif" + bytes(40))


def test_warnings_of_libraries_reach_nobody(tmp_path):
    """Pillow warns of such palettes in the process that decodes plain files."""
    picture = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).convert("P")
    picture.save(tmp_path / "a.png", transparency=bytes(range(64)))
    with warnings.catch_warnings(record=True) as shown:
        warnings.resetwarnings()
        read_uint8(tmp_path / "a.png")
    assert not shown
