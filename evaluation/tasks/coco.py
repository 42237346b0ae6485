"""Boxes in COCO's format: the truth with images, annotations and categories, and the detections of a model."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.reading.documents import read_json

from ..statistics.detection import Boxes

REMEDY = "see: biovfm score --help"
Grouped = dict[tuple[Any, Any], list[dict[str, Any]]]  # {(category, image): entries}


def read_boxes(path: Path) -> dict[str, list[Boxes]]:
    """The boxes of every class and image in a JSON file {"gt": COCO's annotations, "detections": COCO's results}.

    Returns:
        {class name: [boxes of each image]}; classes and images are sorted by id.

    Raises:
        UserError: it is not such a file, or an entry lacks a field, names an unknown image or class, or has no box or
            score.
    """
    stored = read_json(path, REMEDY)
    try:
        return _boxes(stored)
    except KeyError as error:
        raise UserError(f"{path}: an entry lacks {error}; {REMEDY}") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: not in COCO's form ({error}); {REMEDY}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}; {REMEDY}") from error


def _boxes(stored: dict[str, Any]) -> dict[str, list[Boxes]]:
    truth = stored["gt"]
    images = sorted({image["id"] for image in truth["images"]})
    classes = {each["id"]: str(each["name"]) for each in truth["categories"]}
    if not images or not classes:
        raise UserError("gt has no images or no categories")
    if len(set(classes.values())) < len(classes):
        raise UserError("two categories of gt have one name")
    annotations = _grouped(truth["annotations"], "annotation", set(images), classes)
    detections = _grouped(stored["detections"], "detection", set(images), classes)
    return {
        classes[number]: [_image_boxes(annotations[number, image], detections[number, image]) for image in images]
        for number in sorted(classes)
    }


def _grouped(entries: list[dict[str, Any]], kind: str, images: set[Any], classes: dict[Any, str]) -> Grouped:
    """The entries by class and image, in their original order."""
    grouped: Grouped = defaultdict(list)
    for row, entry in enumerate(entries):
        if entry["image_id"] not in images:
            raise UserError(f"{kind} {row} names image {entry['image_id']!r}, which gt does not list")
        if entry["category_id"] not in classes:
            raise UserError(f"{kind} {row} names category {entry['category_id']!r}, which gt does not list")
        grouped[entry["category_id"], entry["image_id"]].append(entry)
    return grouped


def _image_boxes(annotations: list[dict[str, Any]], detections: list[dict[str, Any]]) -> Boxes:
    truth, detected = _rectangles(annotations), _rectangles(detections)
    sizes = truth[:, 2:].prod(-1)
    areas = _numbers("area", [each.get("area", size) for each, size in zip(annotations, sizes, strict=True)])
    scores = _numbers("score", [each["score"] for each in detections])
    crowd = np.array([bool(each.get("iscrowd", 0)) for each in annotations], bool)
    return Boxes(truth, areas, crowd, detected, scores)


def _numbers(name: str, values: list[Any]) -> np.ndarray:
    numbers = np.array(values, np.float64)
    if not np.isfinite(numbers).all():
        raise UserError(f"a box's {name} is not a finite number")
    return numbers


def _rectangles(entries: list[dict[str, Any]]) -> np.ndarray:
    """The boxes (n, 4) as x, y, width, height."""
    boxes = np.array([each["bbox"] for each in entries], np.float64).reshape(len(entries), 4)
    if not np.isfinite(boxes).all() or (boxes[:, 2:] < 0).any():
        raise UserError("a bbox is not x, y, width, height in finite numbers, the last two at least 0")
    return boxes
