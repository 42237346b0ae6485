"""Finds candidates for the nearest neighbours by products in bfloat16, and tells whether they include the nearest."""

from threading import local
from typing import TYPE_CHECKING

import numpy as np

from biovfm_hf.threads import in_lanes

from .products import best_first, largest_products

if TYPE_CHECKING:
    from torch import Tensor

PART = 4096  # vectors that a thread rounds, `AT_ONCE` of them at a time
AT_ONCE = 64
ROUNDING = 2**-8  # relative error of a number in bfloat16, at most


class Candidates:
    """Candidates for the nearest of a support, by products in bfloat16.

    Attributes:
        offsets: the support's offsets (N, D + 1) float32.
        number: candidates of a query.
        rounded: the offsets (N, D + 2) bfloat16. The last two columns add up to the half squares minus `middle`.
        length: the greatest length of an offset.
        error: the greatest length of an offset's rounding error.
        half: the greatest half square minus `middle`.
        half_error: its greatest rounding error.
    """

    def __init__(self, support: np.ndarray, number: int) -> None:
        import torch

        self.offsets = support
        self.number = number
        self.middle = float(support[:, -1].mean())
        half = torch.from_numpy(support[:, -1]) - self.middle
        coarse = half.bfloat16()
        fine = (half - coarse).bfloat16()
        self.rounded, lengths, errors = _rounded(torch.from_numpy(support), torch.stack([coarse, fine], 1))
        self.length, self.error = float(lengths.max()), float(errors.max())
        self.half, self.half_error = float(half.abs().max()), float((half - coarse - fine).abs().max())

    def nearest(
        self, queries: "Tensor", count: int, own: "Tensor", boards: local
    ) -> tuple["Tensor", "Tensor", "Tensor"]:
        """Similarities (B, count), rows (B, count), and whether they are sure to be the nearest (B,)."""
        import torch

        rounded, lengths, errors = _rounded(queries, queries.new_full((len(queries), 2), -1))
        found = largest_products(rounded, self.rounded, self.number, own, boards)
        products, rows = best_first(*found, self.number)
        upper = products.float() - self.middle
        upper += ROUNDING * products.float().abs() + self._bound(lengths, errors)[:, None]
        each = zip(queries.numpy(), rows.numpy(), upper.numpy(), strict=True)
        exact = np.stack([self._exact(query, some, most, count) for query, some, most in each])
        similarity, rows = best_first(torch.from_numpy(exact), rows, count)
        return similarity, rows, similarity[:, -1] >= upper[:, -1]

    def _exact(self, query: np.ndarray, rows: np.ndarray, upper: np.ndarray, count: int) -> np.ndarray:
        """Similarities (C,) of a query with candidates, -inf for those that cannot be among the `count` nearest.

        `upper` (C,), descending, is the most that a similarity can be.
        """
        exact = np.full(len(rows), -np.inf, np.float32)
        exact[:count] = self.offsets[rows[:count]] @ query
        end = np.searchsorted(-upper, -exact[:count].min(), "right")
        exact[count:end] = self.offsets[rows[count:end]] @ query
        return exact

    def _bound(self, lengths: "Tensor", errors: "Tensor") -> "Tensor":
        """The most (B,) by which products of queries with these lengths and errors (B,) differ from the exact ones.

        By Cauchy and Schwarz, |ab - a'b'| <= |a - a'| |b| + |a'| |b - b'|, with a' and b' the rounded a and b. Sums in
        float32 of n products x err by at most n 2^-24 sum |x|; twice that is allowed.
        """
        rounded = lengths + errors
        sums = self.rounded.shape[1] * 2.0**-23 * (rounded * (self.length + self.error) + self.half)
        return errors * self.length + rounded * self.error + self.half_error + sums


def _rounded(offsets: "Tensor", last: "Tensor") -> tuple["Tensor", "Tensor", "Tensor"]:
    """Offsets (N, D + 1) in bfloat16, `last` (N, 2) as last columns; the lengths (N,) of offsets and of errors."""
    import torch

    rounded = torch.empty(len(offsets), offsets.shape[1] + 1, dtype=torch.bfloat16)
    rounded[:, -2:] = last
    lengths, errors = torch.empty(2, len(offsets))

    def fill(first: int) -> None:
        for start in range(first, min(first + PART, len(offsets)), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            exact = offsets[rows, :-1]
            rounded[rows, :-2] = exact
            lengths[rows] = exact.norm(dim=1)
            errors[rows] = (exact - rounded[rows, :-2]).norm(dim=1)

    for _ in in_lanes(fill, range(0, len(offsets), PART)):
        pass
    return rounded, lengths, errors
