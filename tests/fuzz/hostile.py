"""Small files that need gigabytes or minutes: one maker for each kind."""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit

from tests.dataset_builder.conftest import write_dicom
from tests.fuzz.seeds import picture

Maker = Callable[[Path], object]


def _tiff_with_tile(side: int, dtype: str, samples: int) -> Maker:
    """64 x 64 pixels in one deflated tile that claims side x side."""

    def write(path: Path) -> None:
        buffer = io.BytesIO()
        shape = (64, 64, samples) if samples > 1 else (64, 64)
        with tifffile.TiffWriter(buffer) as writer:
            photometric = "rgb" if samples > 1 else "minisblack"
            writer.write(np.zeros(shape, dtype), photometric=photometric, tile=(64, 64), compression="zlib")
        data = bytearray(buffer.getvalue())
        for tag in (322, 323):
            at = data.find(struct.pack("<HH", tag, 4))
            at = at if at >= 0 else data.find(struct.pack("<HH", tag, 3))
            data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, side)
        path.write_bytes(data)

    return write


def _png(width: int, height: int) -> Maker:
    """A black picture that deflates to nothing."""

    def write(path: Path) -> None:
        packer = zlib.compressobj(1)
        row, left = b"\0" * (1 + width), height
        parts = []
        while left:
            count = min(left, max(1, 2**20 // len(row)))
            parts.append(packer.compress(row * count))
            left -= count
        parts.append(packer.flush())

        def chunk(kind: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
        body = chunk(b"IHDR", header) + chunk(b"IDAT", b"".join(parts)) + chunk(b"IEND", b"")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)

    return write


def _gif(path: Path) -> None:
    """300 frames of one pixel on a canvas of 9400 x 9400."""
    frame = (
        b"\x21\xf9\x04\x00\x0a\x00\x00\x00" + b"\x2c" + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    )
    header = b"GIF89a" + struct.pack("<HHBBB", 9400, 9400, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    path.write_bytes(header + frame * 300 + b";")


def _webp(path: Path) -> None:
    """Two frames on a canvas of 5600 x 5600."""
    image = Image.new("RGB", (5600, 5600))
    second = Image.new("RGB", (5600, 5600), 1)
    image.save(path, "WEBP", lossless=True, quality=0, method=0, save_all=True, append_images=[second])


def _hdf5_chunk(name: str) -> Maker:
    """64 x 64 numbers that lie in a chunk of 22000 x 22000 doubles."""

    def write(path: Path) -> None:
        with h5py.File(path, "w", userblock_size=512) as file:
            file.create_dataset(
                name, (64, 64), "f8", chunks=(22000, 22000), maxshape=(None, None), compression=4
            ).id.write_direct_chunk((0, 0), zlib.compress(bytes(1 << 20)))
        path.write_bytes(_mat_start(path.read_bytes()))

    return write


def _mat_start(data: bytes) -> bytes:
    """A MAT-file of version 7.3, which is HDF5 behind 512 bytes."""
    return b"MATLAB 7.3 MAT-file".ljust(124) + struct.pack("<H2s", 0x0200, b"IM") + data[128:]


def _hdf5_link(path: Path) -> None:
    """An external link to a pipe that nobody writes to: opening it would wait for ever."""
    pipe = path.with_suffix(".pipe")
    if not pipe.exists():
        os.mkfifo(pipe)
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"] = h5py.ExternalLink(pipe.name, "/x")
    path.write_bytes(_mat_start(path.read_bytes()))


def _hdf5_rows(path: Path) -> None:
    """A million rows of which none is stored."""
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (10**6, 64, 64), "u1", chunks=(1, 64, 64))


def _mat5(path: Path) -> None:
    """40 compressed arrays of 310 MiB."""
    size = 310 << 20
    head = struct.pack("<II", 6, 8) + struct.pack("<II", 9, 0) + struct.pack("<II", 5, 8)
    head += struct.pack("<ii", 1 << 10, size >> 10) + struct.pack("<HHI", 1, 1, 0x61) + struct.pack("<II", 2, size)
    packer = zlib.compressobj(1)
    parts = [packer.compress(struct.pack("<II", 14, len(head) + size) + head)]
    parts += [packer.compress(bytes(1 << 20)) for _ in range(310)]
    element = b"".join([*parts, packer.flush()])
    start = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM")
    path.write_bytes(start + (struct.pack("<II", 15, len(element)) + element) * 40)


def _jpeg_scans(path: Path) -> None:
    """A progressive JPEG that repeats its last scan 1,000 times."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 2, (1500, 1500), dtype=np.uint8) * 3
    Image.fromarray(noise).save(buffer, "JPEG", progressive=True, quality=30)
    data = buffer.getvalue()
    last = data.rfind(b"\xff\xda")
    path.write_bytes(data[:last] + data[last:-2] * 1000 + b"\xff\xd9")


def _jpeg_frames(path: Path) -> None:
    """A JPEG DICOM of 20,000 frames."""
    buffer = io.BytesIO()
    Image.fromarray(picture(1)).save(buffer, "JPEG")
    write_dicom(path, picture(1))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.NumberOfFrames = 20_000
    dataset.PixelData = pydicom.encaps.encapsulate([buffer.getvalue()] * 20_000, has_bot=False)
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)


def _deflated(path: Path) -> None:
    """A valid deflated DICOM file of an odd number of bytes, with the pad byte of PS3.5 A.5."""
    write_dicom(path, picture(2))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=True)
    path.write_bytes(path.read_bytes() + b"\0")


def _short(kind: str) -> Maker:
    """Compressed voxels that end too early, with one byte behind them."""

    def write(path: Path) -> None:
        packed = zlib.compressobj(wbits=31 if kind == "nrrd" else 15)
        data = packed.compress(bytes(1000)) + packed.flush() + b"\0"
        nrrd = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 26 26 26\nendian: little\nencoding: gzip\n\n"
        meta = b"ObjectType = Image\nNDims = 3\nDimSize = 26 26 26\nElementType = MET_SHORT\nCompressedData = True\n"
        path.write_bytes((nrrd if kind == "nrrd" else meta + b"ElementDataFile = LOCAL\n") + data)

    return write


def _zip(path: Path) -> None:
    """60 entries of the directory that share one local header."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0000.png", bytes(200 << 20))
    data = buffer.getvalue()
    at = data.rfind(b"PK\1\2")
    end = data.rfind(b"PK\5\6")
    entry = data[at:end]
    entries = b"".join(entry.replace(b"0000.png", b"%04d.png" % number) for number in range(60))
    tail = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 60, 60, len(entries), at, 0)
    path.write_bytes(data[:at] + entries + tail)


HOSTILE: dict[str, Maker] = {
    "rgb16_tile_16384.tif": _tiff_with_tile(16384, "u2", 3),
    "tile_60000.tif": _tiff_with_tile(60000, "u1", 1),
    "double_tile_32768.tif": _tiff_with_tile(32768, "f8", 1),
    "one_by_89_million.png": _png(1, 89_000_000),
    "89_million_by_one.png": _png(89_000_000, 1),
    "canvas_9400_frames_300.gif": _gif,
    "animated_5600.webp": _webp,
    "chunk.h5": _hdf5_chunk("x"),
    "chunk.mat": _hdf5_chunk("image"),
    "link.mat": _hdf5_link,
    "link.h5": _hdf5_link,
    "rows.h5": _hdf5_rows,
    "elements.mat": _mat5,
    "scans.jpg": _jpeg_scans,
    "frames_20000.dcm": _jpeg_frames,
    "padded_deflated.dcm": _deflated,
    "short.nrrd": _short("nrrd"),
    "short.mha": _short("mha"),
    "overlapping.zip": _zip,
}
