"""Pictures of test images with true and predicted masks, one below the other."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .figure import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def mask_figure(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predicted: Mapping[str, Sequence[np.ndarray] | np.ndarray],
    outputs: int,
    title: str,
) -> "Figure":
    """A figure with one column per image: the image, its true mask, and the mask of each method in `predicted`.

    Args:
        images: images, each uint8 (H, W, 3).
        truths: class indices (H, W) of each image, 0 is background.
        predicted: {name: predicted masks of each image, of any size}.
        outputs: number of classes with the background.
        title: title above the figure.
    """
    rows: list[tuple[str, Any]] = [("image", [None] * len(images)), ("truth", truths), *predicted.items()]
    figure = new_figure(1.9 * len(images), 0.2 + 1.9 * len(rows))
    classes = max(outputs - 1, 1)
    look: dict[str, Any] = {"cmap": "autumn" if classes == 1 else "tab20", "vmin": 1, "vmax": max(classes, 2)}
    for line, (name, masks) in enumerate(rows):
        for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
            axes = figure.add_subplot(len(rows), len(images), line * len(images) + number + 1)
            axes.imshow(image, extent=(0, 1, 0, 1))
            if mask is not None:
                shown: Any = np.ma.masked_equal(mask, 0)
                axes.imshow(shown, alpha=0.7, interpolation="nearest", extent=(0, 1, 0, 1), **look)
            axes.set(xticks=[], yticks=[], frame_on=False)
            if number == 0 and len(predicted) > 1:
                axes.set_ylabel(name, fontsize=8)
    figure.suptitle(title, fontsize=8)
    return figure
