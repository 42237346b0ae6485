"""A user's own task: a folder of class sub-folders, a CSV list, or a folder of images with masks."""

import csv
from pathlib import Path

import numpy as np

from biovfm_hf.errors import UserError

from ..statistics.kinds import BINARY, MULTICLASS, MULTILABEL, SEGMENTATION
from .images import RASTER_SUFFIXES, FileImages, FileMasks, raster_size, read_mask
from .splitting import hold_out, systematic_split
from .task import SPLITS, Split, Task, TaskRecord

MAX_MASK_CLASSES = 256
LAYOUT_HELP = (
    "expected {train,val,test}/{class}/IMAGE, {class}/IMAGE, {train,val,test}/{images,masks}/NAME, "
    "or a CSV with the columns image,label[,split][,subject]"
)


def open_folder_task(path: Path) -> Task:
    """Open a task that a user wrote, named after its folder or CSV file.

    Raises:
        UserError: the layout is none of the known ones, or its content does not make a task.
    """
    if path.is_file() and path.suffix.lower() == ".csv":
        return _csv_task(path)
    if not path.is_dir():
        raise UserError(f"{path} is neither a known task nor a folder nor a CSV file; {LAYOUT_HELP}")
    if (path / "train" / "images").is_dir() and (path / "train" / "masks").is_dir():
        return _segmentation_task(path)
    if (path / "train").is_dir():
        cases = [(file, label, name) for name in SPLITS for file, label in _class_files(path / name)]
    else:
        cases = [(file, label, "") for file, label in _class_files(path)]
    if not cases:
        raise UserError(f"{path}: no image found; {LAYOUT_HELP}")
    files, labels, splits = (list(column) for column in zip(*cases, strict=True))
    return _classification(path.name, files, labels, splits, None)


def open_recorded_folder(record: TaskRecord, root: Path) -> Task:
    """Open a folder of one of these layouts (or the CSV file in it that `options: list` names) under its own record.

    Raises:
        UserError: as `open_folder_task`, or what is there does not fit the record's kind and classes.
    """
    listing = record.options.get("list")
    found = open_folder_task(root / listing if listing else root)
    if found.record.kind != record.kind or len(found.record.classes) != len(record.classes):
        raise UserError(
            f"task {record.name}: {root} holds a {found.record.kind} task of {', '.join(found.record.classes)}; the "
            f"record says {record.kind} of {', '.join(record.classes)}"
        )
    if record.kind != SEGMENTATION and found.record.classes != record.classes:
        raise UserError(
            f"task {record.name}: the classes of {root} are in the order {', '.join(found.record.classes)}; "
            "give the record's in that order"
        )
    return Task(record, found.splits, found.notes)


def _class_files(folder: Path) -> list[tuple[Path, str]]:
    if not folder.is_dir():
        return []
    classes = sorted(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))
    return [(file, item.name) for item in classes for file in image_files(item)]


def image_files(folder: Path) -> list[Path]:
    """The image files of `folder` itself, sorted by name."""
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in RASTER_SUFFIXES and not f.name.startswith("."))


def _csv_task(path: Path) -> Task:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a UTF-8 CSV file ({error})") from error
    if not rows or not {"image", "label"} <= set(rows[0]):
        raise UserError(f"{path}: the first line must name the columns image,label[,split][,subject], and rows follow")
    for number, row in enumerate(rows, start=2):
        if None in row or not row["image"] or row["label"] in (None, ""):
            raise UserError(f"{path}, line {number}: an image and a label are needed, and no more fields than columns")
        if row.get("split") not in (None, "", *SPLITS):
            raise UserError(f"{path}, line {number}: split {row['split']!r} is none of {', '.join(SPLITS)}")
        if "subject" in row and not row["subject"]:
            raise UserError(f"{path}, line {number}: no subject; give every image one, or leave the column out")
    _check_repeats(path, rows)
    files = [path.parent / row["image"] for row in rows]
    subjects = np.array([row["subject"] for row in rows]) if "subject" in rows[0] else None
    return _classification(
        path.stem, files, [row["label"] for row in rows], [row.get("split") or "" for row in rows], subjects
    )


def _check_repeats(path: Path, rows: list[dict[str, str]]) -> None:
    """Raise a UserError where an image has two lines: it would count as two cases, be it with two different labels."""
    seen: dict[Path, int] = {}
    for number, row in enumerate(rows, start=2):
        if (first := seen.setdefault(Path(row["image"]), number)) != number:
            raise UserError(
                f"{path}, line {number}: {row['image']} is in line {first} already; give each image one line and one "
                "split (several labels as a|b)"
            )


def _classification(
    name: str, files: list[Path], labels: list[str], splits: list[str], subjects: np.ndarray | None
) -> Task:
    multi = any("|" in label for label in labels)
    parts = [[part for part in label.split("|") if part] for label in labels]
    classes = sorted({part for label in parts for part in label}, key=_class_order)
    _check_classes(name, classes)
    index = {label: number for number, label in enumerate(classes)}
    if multi:
        numbers = np.zeros((len(files), len(classes)), np.int64)
        for row, label in enumerate(parts):
            numbers[row, [index[part] for part in label]] = 1
    else:
        numbers = np.array([index[label] for label in labels], np.int64)
    assigned, notes = _assign(name, np.array(splits), numbers, subjects)
    kind = MULTILABEL if multi else BINARY if len(classes) == 2 else MULTICLASS
    record = _record(name, kind, "auc", tuple(classes), notes)
    chosen = {split: np.flatnonzero(assigned == split) for split in SPLITS}
    return Task(
        record,
        {
            split: Split(
                FileImages([files[i] for i in rows]),
                labels=numbers[rows],
                subjects=None if subjects is None else subjects[rows],
            )
            for split, rows in chosen.items()
        },
        notes,
    )


def _check_classes(name: str, classes: list[str]) -> None:
    """Raise a UserError where the labels are measurements: numbers, some of them not whole."""
    numbers = [_class_order(label) for label in classes]
    if all(kind == 0 for kind, _, _ in numbers) and any(value % 1 != 0 for _, value, _ in numbers):
        raise UserError(f"task {name}: labels such as {classes[0]} and {classes[-1]} are measurements; give classes")


def _class_order(label: str) -> tuple[int, float, str]:
    try:
        return (0, float(label), label)
    except ValueError:
        return (1, 0.0, label)


def _assign(
    name: str, splits: np.ndarray, labels: np.ndarray, subjects: np.ndarray | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Fill in splits that are not given: all of them, or a validation set out of train."""
    people = np.array([f"{i:09d}" for i in range(len(splits))]) if subjects is None else subjects
    strata = labels if labels.ndim == 1 else None
    if (splits == "").all():
        unit = "image" if subjects is None else "subject"
        return systematic_split(people, strata), (f"split by systematic sampling, 60/20/20 by {unit}",)
    if (splits == "").any():
        raise UserError(f"task {name}: some images have a split and some have none; give all of them one, or none")
    if (splits == "val").any() or not (splits == "train").any():
        return splits, ()
    rows = np.flatnonzero(splits == "train")
    filled = splits.copy()
    filled[rows] = systematic_split(people[rows], None if strata is None else strata[rows], test=0.0, val=0.2)
    return filled, ("no validation split given: every fifth training case is held out",)


def _segmentation_task(path: Path) -> Task:
    pairs = {split: _mask_pairs(path / split) for split in SPLITS if (path / split).is_dir()}
    notes: tuple[str, ...] = ()
    if "val" not in pairs and pairs.get("train"):
        names = [image.name for image, _ in pairs["train"]]
        pairs["train"], pairs["val"] = hold_out(pairs["train"], names, 0.2)
        notes = ("no validation split given: every fifth training image is held out",)
    values = _mask_values([mask for split in pairs.values() for _, mask in split])
    mapping = {0: 0, 255: 1} if set(values) <= {0, 255} else None
    num_classes = 2 if mapping else max(values) + 1
    if num_classes > MAX_MASK_CLASSES:
        raise UserError(f"{path}: mask value {max(values)}; class numbers go from 0 to {MAX_MASK_CLASSES - 1}")
    classes = ("background", *(f"class {i}" for i in range(1, num_classes)))
    record = _record(path.name, SEGMENTATION, "dice", classes, notes)
    splits = {
        split: Split(FileImages([i for i, _ in rows]), masks=FileMasks([m for _, m in rows], values=mapping))
        for split, rows in pairs.items()
    }
    return Task(record, splits, notes)


def _mask_pairs(folder: Path) -> list[tuple[Path, Path]]:
    if not (folder / "images").is_dir() or not (folder / "masks").is_dir():
        raise UserError(f"{folder}: images/ and masks/ are needed side by side")
    masks = {file.stem: file for file in image_files(folder / "masks")}
    images = image_files(folder / "images")
    for image in images:
        if image.stem not in masks:
            raise UserError(f"{image} has no mask of the same name in {folder / 'masks'}")
        sizes = [raster_size(path) for path in (image, masks[image.stem])]
        if None not in sizes and sizes[0] != sizes[1]:
            raise UserError(f"{image} is {sizes[0]} pixels and its mask {sizes[1]}; they must be of one size")
    return [(image, masks[image.stem]) for image in images]


def _mask_values(paths: list[Path]) -> list[int]:
    seen: set[int] = set()
    for path in paths:
        seen |= set(np.unique(read_mask(path)).tolist())
    if not seen - {0}:
        raise UserError(f"{paths[0].parent if paths else 'masks'}: every mask is empty; nothing to segment")
    return sorted(seen)


def _record(name: str, kind: str, metric: str, classes: tuple[str, ...], notes: tuple[str, ...]) -> TaskRecord:
    return TaskRecord(
        name=name,
        title=name,
        kind=kind,
        metric=metric,
        layout="folder",
        classes=classes,
        splits="; ".join(notes) or "as given by the folder or list",
        licence="the user's own data",
        citation="",
    )
