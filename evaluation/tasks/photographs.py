"""Sets of single images in their official layouts: BUSI, BCCD, and fundus vessels."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from biovfm_hf.errors import UserError

from .boxes import checked_size, image_boxes
from .folder import image_files
from .images import FileImages, FileMasks
from .layouts import layout
from .splitting import hold_out, systematic_split
from .task import SPLITS, Split, TaskRecord


@layout("busi")
def read_busi(record: TaskRecord, root: Path) -> dict[str, Split]:
    """Class folders; `NAME_mask*.png` beside an image is the mask of its lesion. The files do not name patients."""
    files, labels = [], []
    for label, name in enumerate(record.classes):
        images = [f for f in image_files(root / name) if "_mask" not in f.stem]
        files += images
        labels += [label] * len(images)
    numbers = np.array(labels, np.int64)
    split = systematic_split(np.array([str(f.relative_to(root)) for f in files]), numbers)
    rows = {name: np.flatnonzero(split == name) for name in SPLITS}
    return {name: Split(FileImages([files[i] for i in at]), labels=numbers[at]) for name, at in rows.items()}


@layout("bccd")
def read_bccd(record: TaskRecord, root: Path) -> dict[str, Split]:
    """Each annotated box is a case and its smear the subject; the splits are those in `ImageSets/Main`."""
    splits = {}
    for split in SPLITS:
        paths, boxes, labels, subjects = [], [], [], []
        for name in _listed(record, root, split):
            for cell, box in _boxes(root, name):
                paths.append(_smear(root, name))
                boxes.append(box)
                labels.append(record.classes.index(cell))
                subjects.append(name)
        splits[split] = Split(FileImages(paths, boxes), labels=np.array(labels, np.int64), subjects=np.array(subjects))
    return splits


@layout("bccd-boxes")
def read_bccd_boxes(record: TaskRecord, root: Path) -> dict[str, Split]:
    """Each smear is a case, with the boxes of its cells as in the files (from xmin to xmax)."""
    splits = {}
    for split in SPLITS:
        names = _listed(record, root, split)
        boxes = [
            image_boxes([((x, y, right - x, bottom - y), record.classes.index(cell), None, False)
                         for cell, (x, y, right, bottom) in _boxes(root, name)])
            for name in names
        ]  # fmt: skip
        images = FileImages([_smear(root, name) for name in names])
        splits[split] = Split(images, boxes=boxes, subjects=np.array(names))
    return splits


def _listed(record: TaskRecord, root: Path, split: str) -> list[str]:
    """The smears of a split."""
    listing = root / "ImageSets" / "Main" / f"{split}.txt"
    if not listing.is_file():
        raise UserError(f"task {record.name}: {listing} is missing; get the set again from {record.url}")
    return listing.read_text(encoding="utf-8").split()


def _smear(root: Path, name: str) -> Path:
    return root / "JPEGImages" / f"{name}.jpg"


def _boxes(root: Path, name: str) -> list[tuple[str, tuple[int, int, int, int]]]:
    """The boxes of a smear's Pascal VOC file, without empty ones.

    Raises:
        UserError: the file cannot be read, or the smear has another size than it states.
    """
    path = root / "Annotations" / f"{name}.xml"
    try:
        text = path.read_text(encoding="utf-8")
        if "<!ENTITY" in text or "<!DOCTYPE" in text:
            raise UserError(f"{path}: a Pascal VOC file declares no document type; get the set again")
        boxes, tree = [], ElementTree.fromstring(text)
        stated = float(tree.findtext("size/width", "0")), float(tree.findtext("size/height", "0"))
        for item in tree.iter("object"):
            edges = [int(float(item.findtext(f"bndbox/{edge}", ""))) for edge in ("xmin", "ymin", "xmax", "ymax")]
            if edges[2] > edges[0] and edges[3] > edges[1]:
                boxes.append((item.findtext("name", ""), (edges[0], edges[1], edges[2], edges[3])))
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{path} is not a readable Pascal VOC file ({error}); get the set again") from error
    checked_size(_smear(root, name), stated if all(stated) else None, path)
    return boxes


@layout("fundus")
def read_fundus(record: TaskRecord, root: Path) -> dict[str, Split]:
    """`Train|Test/Original/Images|Labels` in each of the record's sets; every fifth training image validates."""
    pairs: dict[str, list[tuple[Path, Path]]] = {"train": [], "test": []}
    for part in record.options["sets"]:
        for split, folder in (("train", "Train"), ("test", "Test")):
            base = root / part / folder / "Original"
            labels = next((f for f in (base / "Labels", base / "labels") if f.is_dir()), None)
            if labels is None or not (base / "Images").is_dir():
                continue
            masks = {file.stem: file for file in image_files(labels)}
            pairs[split] += [(i, masks[i.stem]) for i in image_files(base / "Images") if i.stem in masks]
    pairs["train"], pairs["val"] = hold_out(pairs["train"], [str(image) for image, _ in pairs["train"]], 0.2)
    return {
        split: Split(FileImages([i for i, _ in rows]), masks=FileMasks([m for _, m in rows], threshold=127))
        for split, rows in pairs.items()
    }
