"""Boxes of a detection task: the things to detect in each image."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from biovfm_hf.errors import UserError

from .images import ImageSize, raster_size, read_image


@dataclass(frozen=True)
class ImageBoxes:
    """The boxes of one image.

    Attributes:
        boxes: (n, 4) float64: x and y of the upper left corner, width, height, in pixels of the image as read.
        labels: (n,) class indices.
        areas: (n,) areas of the things in square pixels, which can be smaller than their boxes.
        crowd: (n,) bool, marks boxes around many things, which are neither trained on nor counted as missed.
    """

    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray

    @property
    def things(self) -> "ImageBoxes":
        """The boxes that are not a crowd."""
        return self.only(~self.crowd)

    def inside(self, size: ImageSize) -> "ImageBoxes":
        """The boxes that have an area inside an image of this size."""
        ends = np.minimum(self.boxes[:, :2] + self.boxes[:, 2:], size[:2])
        return self.only((ends > np.maximum(self.boxes[:, :2], 0)).all(axis=1))

    def only(self, kept: np.ndarray) -> "ImageBoxes":
        """The boxes marked by `kept` (n,) bool."""
        return ImageBoxes(self.boxes[kept], self.labels[kept], self.areas[kept], self.crowd[kept])


def image_boxes(rows: Sequence[tuple[Sequence[float], int, float | None, bool]]) -> ImageBoxes:
    """Boxes from (x, y, width, height), class, area (None: the box's) and crowd; boxes without area are left out."""
    boxes = np.array([box for box, *_ in rows], np.float64).reshape(len(rows), 4)
    known = [float(area) if area is not None else float(box[2]) * float(box[3]) for box, _, area, _ in rows]
    kept = (boxes[:, 2:] > 0).all(axis=1)
    return ImageBoxes(
        boxes[kept], np.array([label for _, label, _, _ in rows], np.int64)[kept], np.array(known)[kept],
        np.array([crowd for *_, crowd in rows], bool)[kept],
    )  # fmt: skip


def checked_size(image: Path, stated: tuple[float, float] | None, source: Path) -> ImageSize:
    """The size of an image as read, from its header if Pillow can read that.

    Args:
        image: file of the image.
        stated: width and height in pixels to which the annotations refer; None if they state none.
        source: file of the annotations.

    Raises:
        UserError: the image has another size than `stated`, so that its boxes would lie in wrong places.
    """
    size = raster_size(image)
    if size is None:
        height, width = read_image(image).shape[:2]
        size = ImageSize(width, height)
    if stated is None or stated == size[:2]:
        return size
    reason = "give the image that was annotated, or scale its boxes and size in the annotations"
    if size.turned and stated == (size.height, size.width):
        reason = ("its EXIF orientation turns it by 90 degrees, which the annotations ignore: remove the orientation "
                  "from the file, or turn the boxes and the size in the annotations")  # fmt: skip
    raise UserError(f"{image} is {size} pixels, but {source} states {stated[0]:g} x {stated[1]:g}; {reason}")


def boxes_digest(boxes: Sequence[ImageBoxes]) -> str:
    """A hex digest of all boxes of a split."""
    digest = hashlib.blake2b(digest_size=16)
    for image in boxes:
        for part in (image.boxes, image.labels, image.areas, image.crowd):
            digest.update(len(part).to_bytes(8, "little") + np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def truth_rows(boxes: Sequence[ImageBoxes]) -> np.ndarray:
    """All boxes of a split in one table (n, 8): image, class, x, y, width, height, area, crowd."""
    parts = [
        np.column_stack([np.full(len(each.labels), number), each.labels, each.boxes, each.areas, each.crowd])
        for number, each in enumerate(boxes)
    ]
    return np.concatenate([np.zeros((0, 8)), *parts])
