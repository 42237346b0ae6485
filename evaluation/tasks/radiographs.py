"""Radiograph sets in their official layouts: NIH ChestX-ray14, CheXpert, Montgomery County."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.reading.masks import read_mask

from .folder import image_files
from .images import FileImages, combined_digest, file_digest
from .layouts import layout
from .splitting import hold_out, systematic_split
from .task import SPLITS, Split, TaskRecord


def read_rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a source's CSV file.

    Raises:
        UserError: the file is missing, empty or not CSV, or lacks one of the columns `needed`.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}); get the set again") from error
    missing = [name for name in needed if not rows or name not in rows[0]]
    if missing:
        raise UserError(f"{path} lacks the column {missing[0]!r} or has no rows; get the set again")
    return rows


@layout("nih_chestxray14")
def read_nih(record: TaskRecord, root: Path) -> dict[str, Split]:
    """`Data_Entry_2017*.csv`, `test_list.txt`, `train_val_list.txt`, images in `images/` or `images_*/images/`.

    The test list is the official one. Every ninth patient of the other list is for validation. Images that are not on
    disk are left out (the set comes in twelve archives), but no split may be empty.
    """
    table = next(iter(sorted(root.glob("Data_Entry_2017*.csv"))), root / "Data_Entry_2017.csv")
    rows = {row["Image Index"]: row for row in read_rows(table, ("Image Index", "Finding Labels", "Patient ID"))}
    folders = [root / "images", *sorted(root.glob("images_*/images")), *sorted(root.glob("images_*"))]
    places = {file.name: file for folder in folders if folder.is_dir() for file in image_files(folder)}
    lists = {name: _listed_names(root / f"{name}_list.txt") for name in ("train_val", "test")}
    known = {name: [word for word in names if word in rows and word in places] for name, names in lists.items()}
    train, val = hold_out(known["train_val"], [rows[word]["Patient ID"] for word in known["train_val"]], 0.116)
    return {
        split: Split(
            FileImages([places[word] for word in names]),
            labels=_findings([rows[word]["Finding Labels"].split("|") for word in names], record.classes),
            subjects=np.array([rows[word]["Patient ID"] for word in names]),
            columns=_columns([rows[word] for word in names], {"sex": "Patient Gender", "age": "Patient Age"}),
        )
        for split, names in (("train", train), ("val", val), ("test", known["test"]))
    }


def _columns(rows: list[dict[str, str]], names: dict[str, str]) -> dict[str, np.ndarray]:
    """The source's columns that exist, under our names, with one value per case."""
    return {own: np.array([row[name] for row in rows]) for own, name in names.items() if rows and name in rows[0]}


def _listed_names(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError as error:
        raise UserError(f"{path} is missing; it comes with the set") from error


def _findings(findings: list[list[str]], classes: tuple[str, ...]) -> np.ndarray:
    return np.array([[int(name in names) for name in classes] for names in findings], np.int64).reshape(
        -1, len(classes)
    )


@layout("chexpert")
def read_chexpert(record: TaskRecord, root: Path) -> dict[str, Split]:
    """`train.csv`, `valid.csv` and, if it has labels, `test.csv` or `test_labels.csv`; frontal views only.

    With the test list, the official validation list is for validation. Without it, that list is for testing, and every
    tenth training patient is for validation. Uncertain findings (-1) and empty ones count as absent.
    """
    lists = {name: _chexpert_rows(root / f"{name}.csv", record.classes) for name in ("train", "valid")}
    tested = next((path for path in (root / "test.csv", root / "test_labels.csv") if path.is_file()), None)
    if tested is not None:
        chosen = {"train": lists["train"], "val": lists["valid"], "test": _chexpert_rows(tested, record.classes)}
    else:
        train, val = hold_out(lists["train"], [_chexpert_patient(row["Path"]) for row in lists["train"]], 0.1)
        chosen = {"train": train, "val": val, "test": lists["valid"]}
    return {split: _chexpert_split(root, rows, record.classes) for split, rows in chosen.items()}


def _chexpert_rows(path: Path, classes: tuple[str, ...]) -> list[dict[str, str]]:
    rows = read_rows(path, ("Path", *classes))
    return [row for row in rows if row.get("Frontal/Lateral", "Frontal") == "Frontal" and "lateral" not in row["Path"]]


def _chexpert_patient(path: str) -> str:
    return next((part for part in path.split("/") if part.startswith("patient")), path)


def _chexpert_split(root: Path, rows: list[dict[str, str]], classes: tuple[str, ...]) -> Split:
    labels = [[int(row[name] not in ("", None) and float(row[name]) == 1.0) for name in classes] for row in rows]
    paths = []
    for row in rows:
        inside = row["Path"].split("/")
        if ".." in inside:
            raise UserError(f"{row['Path']} in a list of {root} leaves the folder; get the set again")
        # Lists name files from the set's own top folder, which may have another name on this disk.
        start = next((i for i, part in enumerate(inside) if part in ("train", "valid", "test")), 0)
        paths.append(root.joinpath(*inside[start:]))
    return Split(
        FileImages(paths),
        labels=np.array(labels, np.int64).reshape(-1, len(classes)),
        subjects=np.array([_chexpert_patient(row["Path"]) for row in rows]),
        columns=_columns(rows, {"sex": "Sex", "age": "Age"}),
    )


@dataclass(frozen=True)
class SideMasks:
    """Masks combined from one file per class: class i + 1 where `parts[i]` of an image is not 0."""

    parts: Sequence[tuple[Path, ...]]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> np.ndarray:
        masks = [read_mask(path) > 0 for path in self.parts[index]]
        if len({mask.shape for mask in masks}) > 1:
            raise UserError(f"{self.parts[index][0]}: the masks of one image differ in size; get the set again")
        whole = np.zeros(masks[0].shape, np.uint8)
        for number, mask in enumerate(masks, start=1):
            whole[mask] = number
        return whole

    def fingerprint(self) -> str:
        """A digest of every file."""
        return combined_digest([file_digest(path) for part in self.parts for path in part])


@layout("montgomery")
def read_montgomery(record: TaskRecord, root: Path) -> dict[str, Split]:
    """`CXR_png/NAME.png` with `ManualMask/leftMask` and `ManualMask/rightMask`; each image is a patient."""
    images = image_files(root / "CXR_png")
    parts = [tuple(root / "ManualMask" / f"{side}Mask" / image.name for side in ("left", "right")) for image in images]
    for image, masks in zip(images, parts, strict=True):
        if not all(mask.is_file() for mask in masks):
            raise UserError(f"{image} has no left and right mask in {root / 'ManualMask'}; get the set again")
    split = systematic_split(np.array([image.stem for image in images]), test=1 / 3, val=1 / 6)
    rows = {name: np.flatnonzero(split == name) for name in SPLITS}
    return {
        name: Split(
            FileImages([images[i] for i in at]),
            masks=SideMasks([parts[i] for i in at]),
            subjects=np.array([images[i].stem for i in at]),
        )
        for name, at in rows.items()
    }
