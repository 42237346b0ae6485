"""Sets of scan slices in their official layouts: SARS-CoV-2 CT by patient, and the brain tumours of Cheng et al."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.decoding.bounds import check_hdf5
from biovfm_hf.errors import UserError, require
from biovfm_hf.reading.limited import LIMITED

from .folder import image_files
from .images import MAX_PIXELS, FileImages, combined_digest, file_digest, stretch, to_rgb
from .layouts import layout
from .splitting import systematic_split
from .task import SPLITS, Split, TaskRecord


@layout("sars_cov2_ct")
def read_sars_cov2(record: TaskRecord, root: Path) -> dict[str, Split]:
    """`Covid|Healthy|Others/Patient (n)/SLICE.png`: a patient is a case; the features of its slices are averaged."""
    people: list[tuple[str, int, list[Path]]] = []
    for group in ("Covid", "Healthy", "Others"):
        if not (root / group).is_dir():
            raise UserError(f"task {record.name}: {root / group} is missing; get the set again from {record.url}")
        for folder in sorted(item for item in (root / group).iterdir() if item.is_dir()):
            files = image_files(folder)
            if files:
                people.append((f"{group}/{folder.name}", int(group == "Covid"), files))
    labels = np.array([label for _, label, _ in people], np.int64)
    split = systematic_split(np.array([name for name, _, _ in people]), labels, test=1 / 3, val=50 / 210)
    splits = {}
    for name in SPLITS:
        rows = np.flatnonzero(split == name)
        files_of = [people[i][2] for i in rows]
        splits[name] = Split(
            FileImages([file for files in files_of for file in files]),
            labels=labels[rows],
            case_of_image=np.repeat(np.arange(len(rows)), [len(files) for files in files_of]),
            subjects=np.array([people[i][0] for i in rows]),
        )
    return splits


@dataclass(frozen=True)
class MatImages:
    """The image in each MATLAB v7.3 (HDF5) file, scaled from its own range."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        path = self.paths[index]
        array = LIMITED.call(str(path), read_mat, path)[0]
        return to_rgb(stretch(array, path), path)

    def fingerprint(self) -> str:
        """A digest of every file."""
        return combined_digest([file_digest(path) for path in self.paths])


def read_mat(path: Path) -> tuple[np.ndarray, int, str]:
    """The image (H, W), the label 1..3 and the patient's id in a `cjdata` file.

    Raises:
        UserError: it is not such a file, or it declares more than `MAX_PIXELS` pixels.
    """
    h5py = require("h5py", "data")
    try:
        with h5py.File(path, "r") as file:
            if not isinstance(file.get("cjdata", getlink=True), h5py.HardLink):  # other links lead elsewhere
                raise UserError(f"{path}: holds no cjdata of its own; get the set again")
            data = file["cjdata"]
            if not isinstance(data.get("image", getlink=True), h5py.HardLink):
                raise UserError(f"{path}: holds no image of its own; get the set again")
            image: Any = data["image"]
            check_hdf5(image, str(path))
            if len(image.shape) != 2 or image.size > MAX_PIXELS or data["PID"].size > 256:
                raise UserError(
                    f"{path}: image of shape {image.shape}; expected (H, W) of at most {MAX_PIXELS} pixels"
                )
            # MATLAB stores arrays column by column.
            person = "".join(chr(int(code)) for code in np.ravel(data["PID"][()]))
            return np.asarray(image[()]).T, int(np.ravel(data["label"][()])[0]), person
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a readable cjdata file ({error}); get the set again") from error


@layout("brain_tumor")
def read_brain_tumor(record: TaskRecord, root: Path) -> dict[str, Split]:
    """Numbered .mat files in any sub-folder; labels 1 meningioma, 2 glioma, 3 pituitary tumour; split by patient."""
    paths = sorted(root.rglob("*.mat"), key=lambda path: (len(path.stem), path.stem))
    scans = [(path, *LIMITED.call(str(path), read_mat, path)[1:]) for path in paths if path.stem.isdigit()]
    if not scans:
        raise UserError(f"task {record.name}: no numbered .mat file in {root}; unpack the four archives there")
    labels = np.array([label - 1 for _, label, _ in scans], np.int64)
    people = np.array([hashlib.blake2b(person.encode(), digest_size=6).hexdigest() for _, _, person in scans])
    split = systematic_split(people, labels, test=70 / 233, val=50 / 233)
    rows = {name: np.flatnonzero(split == name) for name in SPLITS}
    return {
        name: Split(MatImages([scans[i][0] for i in at]), labels=labels[at], subjects=people[at])
        for name, at in rows.items()
    }
