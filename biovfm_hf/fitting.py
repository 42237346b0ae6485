"""Resizes an image onto a canvas with its aspect ratio kept, and maps scores on the canvas back onto the image."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

Mode = Literal["pad", "crop"]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Placement:
    """Where a part of an image lies on a canvas.

    Attributes:
        box: left, top, right and bottom edge of the part, in the image's pixels, fractions included.
        rows: of the canvas.
        columns: of the canvas.
    """

    box: Box
    rows: slice
    columns: slice


def placement(shape: tuple[int, int], canvas: tuple[int, int], mode: Mode, aspect: float = 1.0) -> Placement:
    """Place an image of (rows, columns) on a canvas of (rows, columns).

    Args:
        shape: of the image.
        canvas: its shape.
        mode: "pad" fits the whole image and centres it; "crop" takes the largest centred part of the canvas' shape.
        aspect: height of the image's pixels over their width; the canvas has square pixels.
    """
    height, width = canvas
    ratios = height / (shape[0] * aspect), width / shape[1]
    if mode == "pad":
        rows = min(height, max(1, round(shape[0] * aspect * min(ratios))))
        columns = min(width, max(1, round(shape[1] * min(ratios))))
        top, left = (height - rows) // 2, (width - columns) // 2
        box = (0.0, 0.0, float(shape[1]), float(shape[0]))
        return Placement(box, slice(top, top + rows), slice(left, left + columns))
    # rounding must not reach past the image's edge
    high, wide = min(height / max(ratios) / aspect, shape[0]), min(width / max(ratios), shape[1])
    up, across = (shape[0] - high) / 2, (shape[1] - wide) / 2
    return Placement((across, up, across + wide, up + high), slice(0, height), slice(0, width))


def fit(
    image: np.ndarray, canvas: tuple[int, int], mode: Mode, resample: int, aspect: float = 1.0, fill: int = 0
) -> np.ndarray:
    """Scale (H, W) or (H, W, 3) onto a canvas (rows, columns) that is `fill` elsewhere.

    Numbers are uint8, float32, or int32 (class numbers). Floats within [0, 1] are clipped to that range, since bicubic
    resizing overshoots.
    """
    place = placement(image.shape[:2], canvas, mode, aspect)
    shape = (place.rows.stop - place.rows.start, place.columns.stop - place.columns.start)
    if image.shape[:2] != shape or mode == "crop":
        image = _resized(image, shape, resample, place.box)
    return centred(image, canvas, fill)


def centred(image: np.ndarray, canvas: tuple[int, int], fill: int = 0) -> np.ndarray:
    """Centre (h, w) or (h, w, 3) on a canvas (rows, columns) of `fill`; an odd line is added below or at the right.

    An image of the canvas' shape is returned as it is.
    """
    rows, columns = image.shape[:2]
    if (rows, columns) == canvas:
        return image
    top, left = (canvas[0] - rows) // 2, (canvas[1] - columns) // 2
    board = np.full((*canvas, *image.shape[2:]), fill, image.dtype)
    board[top : top + rows, left : left + columns] = image
    return board


def scaled_shape(height: float, width: float, size: int, side: str = "longest") -> tuple[int, int]:
    """Rows and columns of an image with square pixels whose longest (or shortest) side is `size`.

    `height` and `width` are physical: rows times their spacing, columns times theirs, in one unit.
    """
    scale = size / (max(height, width) if side == "longest" else min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def with_square_pixels(image: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """A uint8 image, enlarged along its coarser axis until its pixels are square.

    Args:
        image: (H, W) or (H, W, 3).
        spacing: distance of rows and of columns, in one unit.
    """
    aspect = spacing[0] / spacing[1]
    shape = round(image.shape[0] * max(aspect, 1.0)), round(image.shape[1] * max(1 / aspect, 1.0))
    if shape == image.shape[:2]:
        return image
    return np.asarray(Image.fromarray(image).resize(shape[::-1], Image.Resampling.BICUBIC))


def _resized(image: np.ndarray, shape: tuple[int, int], resample: int, box: Box) -> np.ndarray:
    if image.ndim == 3 and image.dtype != np.uint8:  # Pillow has colours of 8 bits alone
        return np.stack([_resized(plane, shape, resample, box) for plane in np.moveaxis(image, 2, 0)], axis=2)
    resized = np.asarray(Image.fromarray(image).resize(shape[::-1], resample, box=box))
    return resized.clip(min(0.0, image.min()), max(1.0, image.max())) if image.dtype == np.float32 else resized


def labels_on_image(scores: Any, shape: tuple[int, int], mode: Mode) -> Any:
    """The best class of every pixel of an image that `fit` put on the canvas; 0 for pixels that a crop cut away.

    Args:
        scores: tensor (classes, rows, columns) on the canvas.
        shape: of the image.
        mode: the mode of `fit`.

    Returns:
        int64 tensor of `shape`.
    """
    from torch.nn.functional import interpolate

    place = placement(shape, tuple(scores.shape[1:]), mode)
    left, top, right, bottom = (round(edge) for edge in place.box)
    size = (max(1, bottom - top), max(1, right - left))
    part = scores[None, :, place.rows, place.columns].float()
    best = interpolate(part, size=size, mode="bilinear", align_corners=False)[0].max(dim=0).indices
    labels = best.new_zeros(shape)
    labels[top : top + size[0], left : left + size[1]] = best
    return labels
