"""A user's own task: a folder of class sub-folders, a CSV list, or a folder of images with masks."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from biovfm_hf.decoding.files import PICTURE_SUFFIXES
from biovfm_hf.errors import UserError
from biovfm_hf.reading.masks import read_mask

from ..statistics.kinds import BINARY, MULTICLASS, MULTILABEL, SEGMENTATION
from .classes import check_learned, many_numbers, numbered, ordinal_kind
from .images import FileImages, FileMasks, Images, raster_size
from .layouts import Place, find_root, opener
from .listed_images import ListedImages, Unread, readable_cases, volumes_of, warnings_of
from .listing import ORDINAL_TARGET, SPLIT_WORDS, Case, Listing, read_listing
from .shared_patients import warnings_of_subjects, warnings_without_subjects
from .splitting import hold_out, systematic_split
from .task import SPLITS, Split, Task, TaskRecord
from .volume_cases import CaseSlices, Slicing, VolumeCase, is_volume

NO_VOLUMES: Mapping[Path, VolumeCase] = MappingProxyType({})
MAX_MASK_CLASSES = 256
LAYOUT_HELP = (
    "expected {train,val,test}/{class}/IMAGE, {class}/IMAGE, {train,val,test}/{images,masks}/NAME, "
    "or a CSV with the columns image,label[,split][,subject]"
)


def open_folder_task(path: Path, listing: Listing | None = None) -> Task:
    """Open a user's own task, named after its folder or CSV file; `listing` says how to read it.

    Raises:
        UserError: the layout is not known, or its content does not make a task.
    """
    if path.is_file() and path.suffix.lower() == ".csv":
        return _csv_task(path, listing or Listing())
    if not path.is_dir():
        raise UserError(f"{path} is neither a known task nor a folder nor a CSV file; {LAYOUT_HELP}")
    if (path / "train" / "images").is_dir() and (path / "train" / "masks").is_dir():
        return _segmentation_task(path)
    if (path / "train").is_dir():
        cases = [case for name in SPLITS for case in _class_files(split_folder(path, name), name)]
    else:
        cases = _class_files(path)
    if not cases:
        raise UserError(f"{path}: no image found; {LAYOUT_HELP}")
    return _classification(path.name, cases, listing.positive if listing else None)


@opener("folder")
def open_recorded_folder(record: TaskRecord, place: Place) -> Task:
    """Open a folder of one of these layouts (or its CSV file that `options: list` names) under its own record.

    Raises:
        UserError: as `open_folder_task`, or the content does not match the record's kind and classes.
    """
    root = find_root(record, place.data)
    listing = record.options.get("list")
    columns = {field.name: record.options[field.name] for field in fields(Listing) if field.name in record.options}
    columns["positive"] = record.positive
    task = open_folder_task(root / listing if listing else root, Listing(**columns))
    if task.record.kind != record.kind or len(task.record.classes) != len(record.classes):
        raise UserError(
            f"task {record.name}: {root} holds a {task.record.kind} task of {', '.join(task.record.classes)}; the "
            f"record says {record.kind} of {', '.join(record.classes)}"
        )
    if record.kind != SEGMENTATION and task.record.classes != record.classes:
        raise UserError(
            f"task {record.name}: the classes of {root} are in the order {', '.join(task.record.classes)}; "
            "give the record's in that order"
        )
    return replace(task, record=record)


def split_folder(path: Path, split: str) -> Path:
    """The folder of a split below `path`, by our name for the split or by another usual one, such as `validation`."""
    there = (path / word for word, meant in SPLIT_WORDS.items() if meant == split and (path / word).is_dir())
    return next(there, path / split)


def _class_files(folder: Path, split: str = "") -> list[Case]:
    if not folder.is_dir():
        return []
    classes = sorted(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))
    return [Case(file, item.name, split, None, {}, str(file)) for item in classes for file in image_files(item)]


def image_files(folder: Path) -> list[Path]:
    """The image files directly in `folder`, sorted by name."""
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in PICTURE_SUFFIXES and not f.name.startswith("."))


def _csv_task(path: Path, listing: Listing) -> Task:
    cases, left_out = read_listing(path, listing)
    total, what = len(cases) + len(left_out), "images"
    volumes: dict[Path, VolumeCase] = {}
    if any(is_volume(case.file) for case in cases):
        cases, volumes, lost = volumes_of(cases, listing)
        left_out, what = [*left_out, *lost], "volumes"
    elif listing.skip_unreadable:
        cases, lost = readable_cases(cases)
        left_out = [*left_out, *lost]
    task = _classification(path.stem, cases, listing.positive, listing, volumes)
    warnings = warnings_of(left_out, total, what)
    return replace(task, warnings=warnings | task.warnings, left_out=tuple(left_out))


def _classification(
    name: str,
    cases: list[Case],
    positive: str | None,
    listing: Listing | None = None,
    volumes: Mapping[Path, VolumeCase] = NO_VOLUMES,
) -> Task:
    """The task of labelled images or `volumes`; `listing` says how those of a list were read."""
    subjects = None if cases[0].subject is None else np.array([case.subject for case in cases])
    classes, numbers = numbered(name, [case.label for case in cases], positive, subjects)
    assigned, notes = _assign(name, np.array([case.split for case in cases]), numbers, subjects)
    kind = MULTILABEL if numbers.ndim == 2 else BINARY if len(classes) == 2 else MULTICLASS
    if listing is not None and listing.target == ORDINAL_TARGET:
        kind = ordinal_kind(name, kind)
    splits, unread = {}, None if listing is None else Unread(cases)
    for split in SPLITS:
        rows = np.flatnonzero(assigned == split)
        images, case_of_image = _images([cases[i] for i in rows], volumes, unread)
        people = None if subjects is None else subjects[rows]
        columns = {column: np.array([cases[i].row[column] for i in rows]) for column in cases[0].row}
        splits[split] = Split(images, numbers[rows], None, case_of_image, people, columns)
    if volumes and listing is not None:
        notes += (f"each volume is {Slicing(listing.axes, listing.slices)}",)
    files = [case.file for case in cases]
    if subjects is None:
        leaks = warnings_without_subjects(files, assigned, listing is not None)
    else:
        leaks = warnings_of_subjects(subjects, assigned)
    others = {text: "" for text in [many_numbers(classes)] if text and numbers.ndim == 1}
    task = Task(_record(name, kind, "auc", tuple(classes), notes), splits, notes, leaks | others, tuple(leaks))
    if numbers.ndim == 1:
        check_learned(name, classes, numbers, assigned)
    return task


def _images(
    cases: list[Case], volumes: Mapping[Path, VolumeCase], unread: Unread | None
) -> tuple[Images, np.ndarray | None]:
    """The images of cases and, for volumes, the case index of each slice."""
    if not volumes:
        files, names = [case.file for case in cases], [case.where for case in cases]
        return ListedImages(files, names=names, square=True, unread=unread), None
    slices = CaseSlices([volumes[case.file] for case in cases])
    return slices, slices.case_of_image


def _assign(
    name: str, splits: np.ndarray, labels: np.ndarray, subjects: np.ndarray | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Fill in missing splits: all of them, or a validation split taken from train."""
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
    pairs = {split: _mask_pairs(folder) for split in SPLITS if (folder := split_folder(path, split)).is_dir()}
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
        if None not in sizes and str(sizes[0]) != str(sizes[1]):
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
