"""One good file of every format that is read, small, made by the reference writers of each."""

import gzip
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import av
import gdcm
import h5py
import imagecodecs
import nibabel
import numpy as np
import pydicom
import scipy.io
import tifffile
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)


def picture(seed: int, height: int = 64, width: int = 64, channels: int = 0) -> np.ndarray:
    """Smooth random structure, uint8."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, channels) if channels else (8, 8), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def voxels() -> np.ndarray:
    """A small volume, int16."""
    grid = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in (22, 24, 20)), indexing="ij")
    inside = sum(axis**2 for axis in grid) < 1
    return np.where(inside, np.random.default_rng(0).normal(400, 90, inside.shape), 0).astype(np.int16)


def seeds(folder: Path) -> dict[str, bytes]:
    """{suffix: file}; the part before the first dot tells files of one suffix apart. `folder` is written to."""
    return {**_raster(), **_tiff(), **_dicom(folder), **_volumes(folder), **_arrays(folder), **_video(folder)}


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def _raster() -> dict[str, bytes]:
    grey, colour = Image.fromarray(picture(1)), Image.fromarray(picture(2, channels=3))
    others = [Image.fromarray(picture(n)) for n in range(3, 6)]
    deep = Image.fromarray(picture(6).astype(np.uint16) * 256)
    return {
        "grey.png": _saved(grey, "PNG"),
        "colour.png": _saved(colour, "PNG"),
        "deep.png": _saved(deep, "PNG"),
        "palette.png": _saved(colour.quantize(16), "PNG"),
        "apng.png": _saved(grey, "PNG", save_all=True, append_images=others),
        "colour.jpg": _saved(colour, "JPEG"),
        "progressive.jpg": _saved(colour, "JPEG", progressive=True),
        "one.gif": _saved(grey, "GIF"),
        "animated.gif": _saved(grey, "GIF", save_all=True, append_images=others),
        "colour.bmp": _saved(colour, "BMP"),
        "colour.ppm": _saved(colour, "PPM"),
        "grey.pgm": _saved(grey, "PPM"),
        "lossy.webp": _saved(colour, "WEBP"),
        "animated.webp": _saved(colour, "WEBP", save_all=True, append_images=others, lossless=True),
        "grey.jp2": _saved(grey, "JPEG2000"),
        "colour.avif": _saved(colour, "AVIF"),
        "animated.avif": _saved(colour, "AVIF", save_all=True, append_images=others),
        "grey.jxl": imagecodecs.jpegxl_encode(picture(1)),
        "deep.jxl": imagecodecs.jpegxl_encode(picture(2, channels=3).astype(np.uint16) * 200, lossless=True),
        "colour.pam": _pam(picture(2, channels=3)),
        "grey.pfm": b"Pf\n64 64\n-1\n" + picture(1).astype("<f4").tobytes(),
    }


def _pam(array: np.ndarray) -> bytes:
    height, width, depth = array.shape
    return f"P7\nWIDTH {width}\nHEIGHT {height}\nDEPTH {depth}\nMAXVAL 255\nENDHDR\n".encode() + array.tobytes()


def _tiff() -> dict[str, bytes]:
    def written(array: np.ndarray, **options: Any) -> bytes:
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer, bigtiff=options.pop("bigtiff", False)) as writer:
            writer.write(array, **options)
        return buffer.getvalue()

    colour, deep = picture(2, channels=3), picture(7, channels=3).astype(np.uint16) * 200
    pages = [Image.fromarray(picture(n)) for n in range(3)]
    return {
        "pages.tiff": _saved(pages[0], "TIFF", save_all=True, append_images=pages[1:], compression="tiff_lzw"),
        "jpeg.tif": _saved(Image.fromarray(colour), "TIFF", compression="jpeg"),
        "deep.tif": written(deep, photometric="rgb", tile=(32, 32), compression="zlib"),
        "double.tif": written(picture(8).astype(np.float64)),
        "big.tif": written(picture(9).astype(np.uint32) << 20, bigtiff=True),
    }


def _dicom(folder: Path) -> dict[str, bytes]:
    from tests.dataset_builder.conftest import write_dicom

    place = folder / "a.dcm"

    def read() -> bytes:
        return place.read_bytes()

    write_dicom(place, picture(3))
    found = {"explicit.dcm": read(), "bare.ima": read()[132:]}
    write_dicom(folder / "cine.dcm", np.stack([picture(n) for n in range(4)]), NumberOfFrames=4)
    found["cine.dcm"] = (folder / "cine.dcm").read_bytes()
    for name, syntax in (("jpeg2000.dcm", JPEG2000Lossless), ("rle.dcm", RLELossless)):
        write_dicom(place, picture(4, channels=3) if name == "rle.dcm" else picture(4))
        dataset = pydicom.dcmread(place)
        dataset.compress(syntax)
        dataset.save_as(place)
        found[name] = read()
    for name, syntax in (("deflated.dcm", DeflatedExplicitVRLittleEndian), ("big.dcm", ExplicitVRBigEndian)):
        write_dicom(place, picture(5))
        dataset = pydicom.dcmread(place)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset["PixelData"].VR = "OW" if name == "big.dcm" else "OB"
        pydicom.dcmwrite(place, dataset, implicit_vr=False, little_endian=name != "big.dcm")
        found[name] = read()
    write_dicom(place, picture(6))
    dataset = pydicom.dcmread(place)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = pydicom.encaps.encapsulate([_saved(Image.fromarray(picture(6)), "JPEG")])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(place)
    found["jpeg.dcm"] = read()
    for name, syntax in (
        ("lossless.dcm", gdcm.TransferSyntax.JPEGLosslessProcess14_1),
        ("jpegls.dcm", gdcm.TransferSyntax.JPEGLSLossless),
    ):
        write_dicom(place, picture(7).astype(np.uint16) * 16)
        found[name] = _transcoded(place, syntax)
    return found


def _transcoded(place: Path, syntax: int) -> bytes:
    reader = gdcm.ImageReader()
    reader.SetFileName(str(place))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(place))
    assert writer.Write()
    return place.read_bytes()


def _volumes(folder: Path) -> dict[str, bytes]:
    array = voxels()
    raw = array.tobytes(order="F")
    sizes = " ".join(map(str, array.shape))
    nrrd = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {sizes}\nendian: little\nencoding: %s\n\n"
    meta = f"ObjectType = Image\nNDims = 3\nDimSize = {sizes}\nElementType = MET_SHORT\n%sElementDataFile = LOCAL\n"
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / "one.nii")
    nibabel.save(nibabel.Nifti2Image(array, np.eye(4)), folder / "two.nii")
    nibabel.save(nibabel.MGHImage(array, np.eye(4)), folder / "a.mgz")
    found = {name: (folder / name).read_bytes() for name in ("one.nii", "two.nii", "a.mgz")}
    text = " ".join(map(str, array.ravel(order="F")))
    return {
        **found,
        "packed.nii.gz": gzip.compress(found["one.nii"]),
        "raw.nrrd": (nrrd % "raw").encode() + raw,
        "packed.nrrd": (nrrd % "gzip").encode() + gzip.compress(raw),
        "text.nrrd": (nrrd % "ascii").encode() + text.encode(),
        "raw.mha": (meta % "").encode() + raw,
        "packed.mha": (meta % "CompressedData = True\n").encode() + zlib.compress(raw),
    }


def _arrays(folder: Path) -> dict[str, bytes]:
    np.save(folder / "flat.npy", picture(4))
    np.save(folder / "stack.npy", voxels())
    scipy.io.savemat(folder / "five.mat", {"image": picture(5)})
    scipy.io.savemat(folder / "packed.mat", {"image": picture(5).astype(float), "b": voxels()}, do_compression=True)
    with h5py.File(folder / "rows.h5", "w") as file:
        file.create_dataset(
            "x", data=np.stack([picture(n, 32, 32) for n in range(3)]), chunks=(1, 32, 32), compression=4
        )
    with h5py.File(folder / "seven.mat", "w", userblock_size=512) as file:
        file["image"] = picture(6).astype(float)
    with (folder / "seven.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + struct.pack("<H2s", 0x0200, b"IM"))
    names = ("flat.npy", "stack.npy", "five.mat", "packed.mat", "rows.h5", "seven.mat")
    return {name: (folder / name).read_bytes() for name in names}


def _video(folder: Path) -> dict[str, bytes]:
    found = {}
    for name, codec in (("a.mp4", "mpeg4"), ("a.avi", "mpeg4"), ("a.mkv", "mpeg4"), ("a.mpg", "mpeg1video")):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width = stream.height = 64
            for n in range(15):
                frame = av.VideoFrame.from_ndarray(picture(n, channels=3), format="rgb24")
                for packet in stream.encode(frame):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
        found[name] = (folder / name).read_bytes()
    return found
