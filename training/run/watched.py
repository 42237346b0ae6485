"""Finds the labelled images and masks that a run watches itself with, before any is read or torch imported."""

from pathlib import Path

from biovfm_hf.decoding.files import PICTURE_SUFFIXES
from biovfm_hf.errors import UserError

from ..data.images import FolderImages

PARTS = ("train", "test")
Labelled = list[tuple[str, int]]  # image file, number of its class
Masked = list[tuple[Path, Path]]  # image file, mask file


def task_files(folder: Path) -> tuple[list[str], list[Labelled]]:
    """The classes of a classification folder, and its images for training and test.

    Args:
        folder: `{train,test}/CLASS/*`, or `CLASS/*`, where every second image of a class is for test.

    Raises:
        UserError: the folder does not exist, has fewer than two classes, a class only in the test split, or a split
            without images.
    """
    key, split = f"watch.task {folder}", _is_split(folder, "task")
    places = [folder / name for name in PARTS] if split else [folder, folder]
    classes = _folders(places[0])
    if len(classes) < 2:
        raise UserError(f"{key} needs one folder of images per class, at least two, or train/ and test/ of them")
    if unknown := [name for name in _folders(places[1]) if name not in classes]:
        raise UserError(f"watch.task {places[1]} has classes that {places[0]} lacks: {', '.join(unknown[:4])}")
    parts: list[Labelled] = []
    for number, place in enumerate(places):
        start, step = (0, 1) if split else (number, 2)
        named = [(FolderImages(place / name).paths, label) for label, name in enumerate(classes)]
        parts.append([(path, label) for paths, label in named for path in paths[start::step]])
        if not parts[-1]:
            raise UserError(f"watch.task {place} holds no images")
    return classes, parts


def mask_files(folder: Path) -> list[Masked]:
    """The images of a segmentation folder with their masks, for training and test.

    Args:
        folder: `{train,test}/{images,masks}/NAME`, or `{images,masks}/NAME`, where every second image is for test.

    Raises:
        UserError: the folder does not exist, an image has no mask, or there are too few.
    """
    if _is_split(folder, "masks"):
        parts = [_pairs(folder / name) for name in PARTS]
    else:
        pairs = _pairs(folder)
        parts = [pairs[::2], pairs[1::2]]
    if not all(parts):
        raise UserError(f"watch.masks {folder}: too few images; at least one each for training and test is needed")
    return parts


def _is_split(folder: Path, key: str) -> bool:
    if not folder.is_dir():
        raise UserError(f"watch.{key} {folder}: no such folder; check the path")
    return all((folder / name).is_dir() for name in PARTS)


def _folders(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.is_dir())


def _pairs(folder: Path) -> Masked:
    """Images and their masks, by their names without suffix."""
    images, masks = (_files(folder / name) for name in ("images", "masks"))
    lacking = [name for name in images if name not in masks]
    if not images or lacking:
        what = f"{lacking[0]} has no mask" if lacking else "no images"
        raise UserError(
            f"watch.masks {folder}: {what}; it needs images/NAME and masks/NAME, or train/ and test/ of them"
        )
    return [(images[name], masks[name]) for name in sorted(images)]


def _files(folder: Path) -> dict[str, Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return {path.stem: path for path in paths if path.suffix.lower() in PICTURE_SUFFIXES and path.name[0] != "."}
