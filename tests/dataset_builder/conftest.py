"""Tiny raw folders in true formats, written by the tests; small enough that a build takes a fraction of a second."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from dataset_builder.catalog.records import load_source

RECORD = {"id": "mine", "name": "Mine", "modality": "CT", "anatomies": ["lung"], "items": ["**/*.png"], "train": "all"}


def picture(seed: int, height: int = 64, width: int = 64, channels: int = 0) -> np.ndarray:
    """Smooth random structure, uint8: every seed looks different, as anatomy does, and survives resizing."""
    rng = np.random.default_rng(seed)
    shape = (8, 8, channels) if channels else (8, 8)
    coarse = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def volume(seed: int, shape: tuple[int, int, int] = (30, 34, 26)) -> np.ndarray:
    """A noisy ellipsoid in air, int16, with some empty slices at each end of every axis."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1.25, 1.25, n) for n in shape), indexing="ij")
    inside = sum(axis**2 for axis in grid) < 1
    return np.where(inside, rng.normal(400, 90, shape), 0).astype(np.int16)


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def write_png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_dicom(path: Path, array: np.ndarray, **header: object) -> None:
    """A secondary-capture image; `array` (H, W), (H, W, 3) or, with NumberOfFrames in the header, (frames, H, W)."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    frames = "NumberOfFrames" in header
    dataset.Rows, dataset.Columns = array.shape[1:3] if frames else array.shape[:2]
    colour = array.ndim == 3 and not frames
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * array.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(array.dtype.kind == "i")
    dataset.PixelData = array.tobytes()
    for name, value in header.items():
        setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def write_record(folder: Path, name: str, **fields: object) -> Path:
    """A source record of a user's own; by default all PNG files of an ultrasound source."""
    record = {
        "id": name,
        "name": name.upper(),
        "modality": "Ultrasound",
        "anatomies": ["breast"],
        "items": ["**/*.png"],
        "train": "all",
        "access": "open",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**record, **fields}))
    return path


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The writers of this file, for tests of single readers."""
    return SimpleNamespace(
        picture=picture, volume=volume, nifti=write_nifti, png=write_png, dicom=write_dicom, record=write_record
    )


@pytest.fixture
def small_raw(tmp_path: Path) -> tuple[Path, str]:
    """A raw folder with three sources (2D, a split 2D one, volumes) and the --sources that name their records."""
    raw, records = tmp_path / "raw", tmp_path / "records"
    for number in range(12):
        write_png(raw / "scans" / f"p{number // 2:03d}" / f"{number}.png", picture(number, 60, 80))
    write_png(raw / "scans" / "p000" / "0_mask.png", picture(99))
    for number in range(6):
        write_png(
            raw / "eyes" / ("train" if number % 2 else "test") / f"{number}.png", picture(50 + number, channels=3)
        )
    for number in range(2):
        write_nifti(raw / "heads" / f"sub-{number}.nii.gz", volume(number))
    sources = [
        write_record(
            records,
            "scans",
            exclude=[{"pattern": "**/*_mask.png", "reason": "mask"}],
            subject={"path": r"(p\d+)/"},
        ),
        write_record(records, "eyes", modality="Fundus", anatomies=["eye"], train={"path": "/?train/"}),
        write_record(
            records,
            "heads",
            modality="MR",
            anatomies=["brain"],
            items=[{"pattern": "*.nii.gz", "kind": "volume"}],
            subject={"path": r"(sub-\d+)"},
        ),
    ]
    return raw, ",".join(map(str, sources))


@pytest.fixture
def record(tmp_path):
    """Writes RECORD with changes (None removes a key) and loads it."""

    def write(**changes):
        data = {key: value for key, value in {**RECORD, **changes}.items() if value is not None}
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(data), encoding="utf-8")
        return load_source(path)

    return write
