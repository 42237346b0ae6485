"""Block masks for iBOT: rectangles of patches that are masked for the student, drawn as in DINOv2."""

import math

import numpy as np
import torch

_ATTEMPTS = 10  # failed rectangles in a row, after which a mask stays as it is
_SMALLEST = 4.0  # patches in the smallest rectangle
_LOG_ASPECT = math.log(1 / 0.3)  # height / width lies within exp(+-this), uniform in its logarithm


def block_masks(
    images: int,
    grid: tuple[int, int],
    generator: np.random.Generator,
    probability: float = 0.5,
    ratio: tuple[float, float] = (0.1, 0.5),
) -> dict[str, torch.Tensor]:
    """Masks for `images` global crops of `grid` (rows, columns) patches, as a part of the objective's batch.

    int(images * probability) images, at random places in the batch, are masked. The ratio's range is cut into as
    many equal strata as there are masked images; one target, floor(N * u), comes from each stratum, so a batch
    always has small and large masks. `rectangle_masks` aims at these targets.

    Returns:
        `masks` (images, N) bool, and `mask_indices` (M,) int64, the masked patches in the flattened masks.
    """
    patches = grid[0] * grid[1]
    masked = int(images * probability)
    edges = np.linspace(*ratio, masked + 1)
    targets = np.zeros(images, dtype=np.int64)
    targets[:masked] = patches * generator.uniform(edges[:-1], edges[1:])
    masks = torch.from_numpy(rectangle_masks(generator.permutation(targets), grid, generator)).flatten(1)
    return {"masks": masks, "mask_indices": masks.flatten().nonzero().flatten()}


def rectangle_masks(targets: np.ndarray, grid: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """(n,) target patch counts to (n, rows, columns) bool masks, built from rectangles until the count is reached.

    This is DINOv2's `MaskingGenerator` for all images at once. A rectangle has an area of U(4, patches still missing,
    at most half the grid) and a log-uniform aspect. It is kept if it is smaller than the grid in both directions, adds
    at least one patch, and adds no more than are missing; after ten misses in a row the mask stays as it is. So a mask
    never has more patches than its target, and sometimes a few fewer.
    """
    rows, columns = grid
    largest = max(rows // 2, 1) * columns  # of one rectangle
    masks = np.zeros((len(targets), rows, columns), dtype=bool)
    lacking, misses = targets.astype(np.int64), np.zeros(len(targets), dtype=np.int64)
    row, column = np.arange(rows)[:, None], np.arange(columns)
    while (active := np.flatnonzero((lacking > 0) & (misses < _ATTEMPTS))).size:
        room = np.minimum(lacking[active], largest)
        area = generator.uniform(np.minimum(_SMALLEST, room), np.maximum(_SMALLEST, room))
        aspect = np.exp(generator.uniform(-_LOG_ASPECT, _LOG_ASPECT, active.size))
        height, width = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        fits = (height < rows) & (width < columns)
        top = np.floor(generator.uniform(0, 1, active.size) * (rows - height + 1))[:, None, None]
        left = np.floor(generator.uniform(0, 1, active.size) * (columns - width + 1))[:, None, None]
        inside = (row >= top) & (row < top + height[:, None, None]) & (column >= left)
        inside &= column < left + width[:, None, None]
        added = inside & ~masks[active]
        gain = added.sum((1, 2))
        kept = fits & (gain > 0) & (gain <= room)
        masks[active[kept]] |= added[kept]
        lacking[active[kept]] -= gain[kept]
        misses[active] = np.where(kept, 0, misses[active] + 1)
    return masks
