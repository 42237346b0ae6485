"""Writes miniatures of the sources' raw layouts (miniatures.yaml): tiny files of the right formats and names."""

import gzip
import io
import tarfile
import zipfile
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

LAYOUTS: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("miniatures.yaml").read_text("utf-8"))
PIL_FORMATS = {"jpg": "JPEG", "jpeg": "JPEG", "tif": "TIFF", "pgm": "PPM", "ppm": "PPM"}
DEEP = {"padchest", "uw-madison-gi"}  # 16-bit PNG


def write_miniature(name: str, raw: Path) -> None:
    """Write the miniature of source `name` into raw/name."""
    layout, folder = LAYOUTS[name], raw / name
    archives, hdf5 = defaultdict(dict), defaultdict(list)
    for path in [*layout.get("take", {}), *layout.get("leave", []), *layout.get("ignore", [])]:
        if "#" in path:
            file, _, inside = path.partition("#")
            if file not in layout.get("series", {}):
                hdf5[file].append(inside)
        elif "!" in path:
            archive, _, member = path.partition("!")
            archives[archive][member] = content(path, name)
        else:
            _write(folder / path, content(path, name))
    for path, text in layout.get("text", {}).items():
        _write(folder / path, gzip.compress(text.encode()) if path.endswith(".gz") else text.encode())
    for archive, members in archives.items():
        _write_archive(folder / archive, members)
    for file, inside in hdf5.items():
        _write_hdf5(folder / file, inside)
    for path, series in layout.get("series", {}).items():
        for number, slices in enumerate(series):
            for at in range(slices):
                # Names do not follow the order of the slices: positions do.
                _write(folder / path / f"{number}{slices - at:03}", dicom(f"{path}{number}{at}", number, at))


def content(path: str, source: str = "") -> bytes:
    """Bytes of a small valid file; its pixels depend on its name, so that no two are alike."""
    lower = path.lower()
    suffix = lower.rsplit(".", 1)[-1]
    pixels = picture(path)
    if lower.endswith(".nii.gz"):
        return nifti(path)
    if suffix in ("dcm", "dicom"):
        return dicom(path)
    if suffix in ("png", "jpg", "jpeg", "tif", "bmp", "gif", "ppm", "pgm"):
        image = Image.fromarray(pixels.astype(np.uint16) * 16 if source in DEEP else pixels)
        buffer = io.BytesIO()
        (image.convert("RGB") if suffix == "ppm" else image).save(buffer, PIL_FORMATS.get(suffix, suffix.upper()))
        return buffer.getvalue()
    if suffix == "nrrd":
        head = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 8 48 40\nencoding: raw\n"
        return (
            head
            + b"space directions: (1,0,0) (0,1,0) (0,0,1)\nspace: left-posterior-superior\n\n"
            + 8 * pixels.tobytes()
        )
    if suffix in ("mp4", "avi"):
        return video(pixels, suffix)
    if lower.endswith(".ppm.gz"):
        return gzip.compress(b"P5 1 1 255\n\0")
    return b"not an image"


def picture(name: str, side: tuple[int, int] = (40, 48)) -> np.ndarray:
    """A smooth random picture (height, width), uint8, seeded by `name`."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    coarse = Image.fromarray(random.integers(0, 256, (6, 6), dtype=np.uint8))
    return np.asarray(coarse.resize(side[::-1], Image.Resampling.BICUBIC))


def nifti(name: str) -> bytes:
    import nibabel

    volume = np.stack([picture(f"{name}{at}") for at in range(6)], axis=-1).astype(np.int16) * 8 - 1000
    return gzip.compress(nibabel.Nifti1Image(volume, np.eye(4)).to_bytes())


def dicom(name: str, series: int = 0, position: int = 0) -> bytes:
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    pixels = picture(name).astype(np.uint16) * 16
    file = pydicom.Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    file.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{series}.{position}.{zlib.crc32(name.encode())}"
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID
    file.SeriesInstanceUID, file.InstanceNumber = f"1.2.3.{series}", 100 - position
    file.ImagePositionPatient, file.ImageOrientationPatient = [0, 0, position * 3], [1, 0, 0, 0, 1, 0]
    file.PatientName, file.PixelSpacing, file.SliceThickness = "DOE^JANE", [1, 1], 3
    file.Rows, file.Columns, file.SamplesPerPixel = *pixels.shape, 1
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 12, 11, 0
    file.PhotometricInterpretation, file.PixelData = "MONOCHROME2", pixels.tobytes()
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def video(pixels: np.ndarray, container: str) -> bytes:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as written:
        stream = written.add_stream("mpeg4", rate=5)
        stream.height, stream.width, stream.pix_fmt = *pixels.shape, "yuv420p"
        for at in range(6):
            frame = av.VideoFrame.from_ndarray(np.stack([np.roll(pixels, 7 * at, 1)] * 3, -1), format="rgb24")
            written.mux(stream.encode(frame))
        written.mux(stream.encode())
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _write_archive(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def _write_hdf5(path: Path, inside: list[str]) -> None:
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        if inside[0].isdigit():
            rows = [
                np.stack([picture(f"{path.name}{row}{band}", (96, 96)) for band in range(3)], -1) for row in inside
            ]
            file["x"] = np.stack(rows)
        for name in inside:
            if name.startswith("reconstruction"):
                file[name] = np.stack([picture(f"{path.name}{at}").astype(np.float32) for at in range(3)])
            elif not name.isdigit():
                file[name] = np.frombuffer(content(name + ".jpg"), np.uint8)
