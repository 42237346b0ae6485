"""Detection tasks in COCO's format: one JSON file of images, annotations and categories for each split."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.reading.documents import read_json

from ..statistics.kinds import DETECTION
from .boxes import ImageBoxes, checked_size, image_boxes
from .images import FileImages
from .layouts import layout
from .listing import SPLIT_WORDS
from .splitting import systematic_split
from .task import SPLITS, Split, Task, TaskRecord

ROBOFLOW = "_annotations.coco.json"
WHOLE = ("annotations.json", "instances.json", ROBOFLOW)  # names of a single file without splits
REMEDY = "write it in COCO's form, with images, annotations and categories"
VAL_SHARE = 0.2


def annotation_files(root: Path) -> dict[str, Path]:
    """The annotation file of each split that has one, or the file for all images under "".

    Known names are `{split}/_annotations.coco.json` (Roboflow), `annotations/instances_{split}YEAR.json` (COCO),
    `annotations/{split}.json`, `{split}.json`, and for all images `annotations.json` or `instances.json`.
    """
    files: dict[str, Path] = {}
    for word, split in SPLIT_WORDS.items():
        choices = [root / word / ROBOFLOW, root / "annotations" / f"{word}.json", root / f"{word}.json",
                   *sorted((root / "annotations").glob(f"instances_{word}[0-9]*.json")),
                   root / "annotations" / f"instances_{word}.json"]  # fmt: skip
        for path in choices:
            if path.is_file():
                files.setdefault(split, path)
    whole = next((root / name for name in WHOLE if (root / name).is_file()), None)
    return files or ({"": whole} if whole else {})


def open_coco_task(root: Path) -> Task:
    """The task of a folder in COCO's format; its classes are in the order of the categories' ids.

    Raises:
        UserError: a file is not in COCO's format, files name different categories, or an image is missing or has
            another size than its annotations state.
    """
    stored = {split: read_json(path, REMEDY) for split, path in annotation_files(root).items()}
    first = next(iter(annotation_files(root).values()))
    classes = _names(next(iter(stored.values())), first)
    record = TaskRecord(
        root.resolve().name, root.resolve().name, DETECTION, "AP", "coco", classes, "as given", "of your own data", ""
    )
    splits, notes = read_coco_folder(record, root)
    return Task(record, splits, notes)


@layout("coco")
def read_coco(record: TaskRecord, root: Path) -> dict[str, Split]:
    """The splits of a folder in COCO's format whose categories are the record's classes."""
    return read_coco_folder(record, root)[0]


def read_coco_folder(record: TaskRecord, root: Path) -> tuple[dict[str, Split], tuple[str, ...]]:
    """The splits of a folder in COCO's format, and notes on where they come from.

    Raises:
        UserError: as `open_coco_task`.
    """
    read = {split: _read_split(record, root, split, path) for split, path in annotation_files(root).items()}
    splits, notes = {split: entry for split, (entry, _) in read.items()}, []
    if dropped := sum(count for _, count in read.values()):
        notes.append(f"{dropped} boxes without an area inside their image are left out")
    if "" in splits:
        splits = dict(zip(SPLITS, _parts(splits[""], 0.2), strict=True))
        notes.append("no splits were given: every fifth image tests and every fifth validates")
    if "test" not in splits and "val" in splits:
        splits["test"] = splits.pop("val")
        notes.append("no test split was given: the validation split tests")
    if "val" not in splits and "train" in splits:
        splits["train"], splits["val"], _ = _parts(splits["train"], 0.0)
        notes.append("no validation split was given: every fifth training image validates")
    return splits, tuple(notes)


def _names(stored: Any, path: Path) -> tuple[str, ...]:
    """Names of the categories that annotations use, by id; Roboflow also writes a parent category that none uses."""
    try:
        used = {entry["category_id"] for entry in stored["annotations"]}
        rows = sorted((entry["id"], str(entry["name"])) for entry in stored["categories"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not in COCO's form ({error!r}); {REMEDY}") from error
    names = tuple(name for number, name in rows if number in used)
    if not names or len(set(names)) < len(names):
        raise UserError(f"{path}: no annotated category, or two of one name; {REMEDY}")
    return names


def _read_split(record: TaskRecord, root: Path, split: str, path: Path) -> tuple[Split, int]:
    """One split, and the number of boxes without an area inside their image, which were left out."""
    stored = read_json(path, REMEDY)
    try:
        images = {entry["id"]: entry for entry in stored["images"]}
        numbers = {entry["id"]: record.classes.index(str(entry["name"])) for entry in stored["categories"]
                   if str(entry["name"]) in record.classes}  # fmt: skip
        stated = [_stated_size(entry) for entry in images.values()]
        rows: dict[Any, list[Any]] = {number: [] for number in images}
        for entry in stored["annotations"]:
            box = [float(value) for value in entry["bbox"]]
            if len(box) != 4 or not np.isfinite(box).all():
                raise ValueError(f"bbox {entry['bbox']}")
            area = entry.get("area")
            rows[entry["image_id"]].append((box, numbers[entry["category_id"]], area, bool(entry.get("iscrowd", 0))))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not in COCO's form, or of other categories ({error!r}); {REMEDY}") from error
    places = _image_folders(root, split, path)
    paths = [_find(places, str(entry.get("file_name", "")), path) for entry in images.values()]
    sizes = [checked_size(image, size, path) for image, size in zip(paths, stated, strict=True)]
    boxes = [image_boxes(rows[number]).inside(size) for number, size in zip(images, sizes, strict=True)]
    lost = sum(map(len, rows.values())) - sum(len(each.labels) for each in boxes)
    people = [entry.get("subject") for entry in images.values()]
    subjects = np.array([str(person) for person in people]) if people and None not in people else None
    return Split(FileImages(paths), boxes=boxes, subjects=subjects), lost


def _stated_size(entry: dict[str, Any]) -> tuple[float, float] | None:
    """Width and height of an image by its annotations, None if they do not state both."""
    width, height = float(entry.get("width") or 0), float(entry.get("height") or 0)
    return (width, height) if width and height else None


def _image_folders(root: Path, split: str, path: Path) -> list[Path]:
    """Folders that may contain the images of a split; the folder of its annotations comes first."""
    names = [word for word, meant in SPLIT_WORDS.items() if meant == split] if split else []
    below = [base / word for base in (root / "images", root) for word in names]
    years = [
        folder for base in (root / "images", root) for word in names for folder in sorted(base.glob(f"{word}20*"))
    ]
    return [path.parent, *below, *years, root / "images", root]


def _find(places: list[Path], name: str, source: Path) -> Path:
    """An image file, by its name in the annotations.

    Raises:
        UserError: the file does not exist, or its name leads out of the folder.
    """
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise UserError(f"{source}: file_name {name!r} is no path within the folder; {REMEDY}")
    for place in places:
        if (place / name).is_file():
            return place / name
    raise UserError(f"{source}: image {name} is in none of {', '.join(str(place) for place in dict.fromkeys(places))}")


def _parts(split: Split, test: float) -> list[Split]:
    """A split divided into train, val and test, by subjects if they are known."""
    assert split.boxes is not None and isinstance(split.images, FileImages)
    people = split.subjects if split.subjects is not None else np.array([str(p) for p in split.images.paths])
    assigned = systematic_split(people, test=test, val=VAL_SHARE)
    return [_rows(split, split.images, split.boxes, np.flatnonzero(assigned == name)) for name in SPLITS]


def _rows(split: Split, images: FileImages, boxes: list[ImageBoxes], rows: np.ndarray) -> Split:
    subjects = None if split.subjects is None else split.subjects[rows]
    kept = FileImages([images.paths[row] for row in rows])
    return replace(split, images=kept, boxes=[boxes[row] for row in rows], subjects=subjects)
