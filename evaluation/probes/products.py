"""Finds the largest products of vectors with many others, in tiles that stay in memory."""

from functools import lru_cache
from pathlib import Path
from threading import local
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1024  # queries of a product; 256 at a time would take a fifth longer
TILE = 25_600  # support rows at a time, a multiple of GROUP: a board of 105 MB, and few selections per query
GROUP = 8  # columns of which the maximum is looked at first


def largest_products(
    queries: "Tensor", support: "Tensor", count: int, own: "Tensor", boards: local
) -> tuple["Tensor", "Tensor"]:
    """The largest products of queries (B, D), B up to `BLOCK`, with the rows of support (N, D).

    Args:
        queries: float32 or bfloat16.
        support: of the same type.
        count: products to find, at most N.
        own: the row (B,) of the support that a query is itself, which is left out, or -1.
        boards: keeps each thread's memory for the products of a tile; fresh memory would take as long as the product.

    Returns:
        The products (B, count) and their rows (B, count), in no order.
    """
    import torch

    board = vars(boards).setdefault(str(queries.dtype), torch.empty(BLOCK, TILE, dtype=queries.dtype))
    tiles = []
    for first in range(0, len(support), TILE):
        tile = support[first : first + TILE]
        values = board[: len(queries), : -(-len(tile) // GROUP) * GROUP]
        _multiply(queries, tile, values[:, : len(tile)])
        values[:, len(tile) :] = -torch.inf
        inside = ((own >= first) & (own < first + len(tile))).nonzero().squeeze(1)
        values[inside, own[inside] - first] = -torch.inf
        largest, rows = _largest(values, min(count, len(tile)))
        tiles.append((largest, rows + first))
    largest, rows = (torch.cat(parts, 1) for parts in zip(*tiles, strict=True))
    places = _places(largest, count)
    return largest.gather(1, places), rows.gather(1, places)


def best_first(values: "Tensor", rows: "Tensor", count: int) -> tuple["Tensor", "Tensor"]:
    """The `count` largest of values (B, n), descending, and their rows."""
    values, places = values.topk(count, dim=1)
    return values, rows.gather(1, places)


def _multiply(queries: "Tensor", support: "Tensor", out: "Tensor") -> None:
    import torch

    if queries.dtype == torch.bfloat16 or _is_intel():
        torch.mm(queries, support.T, out=out)
    else:
        np.matmul(queries.numpy(), support.numpy().T, out=out.numpy())


@lru_cache
def _is_intel() -> bool:
    """Whether Linux names an Intel processor: there torch's product takes 0.9 of NumPy's time, on AMD more than 1."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def _largest(values: "Tensor", count: int) -> tuple["Tensor", "Tensor"]:
    """The `count` largest values of each row and their columns, in no order.

    They are looked for only in the groups of `GROUP` columns with the best maxima, in a third of the time of `topk`.
    """
    groups = values.unflatten(1, (GROUP, -1))
    if groups.shape[2] < 2 * count:
        places = _places(values, count)
        return values.gather(1, places), places
    best = _places(groups.amax(1), count)
    values = groups.gather(2, best[:, None].expand(-1, GROUP, -1)).flatten(1)
    places = _places(values, count)
    return values.gather(1, places), places // count * groups.shape[2] + best.gather(1, places % count)


def _places(values: "Tensor", count: int) -> "Tensor":
    """The columns of the `count` largest values of each row, by NumPy, which takes a third of torch's time."""
    import torch

    return torch.from_numpy(np.argpartition(values.float().numpy(), -count, axis=1)[:, -count:])
