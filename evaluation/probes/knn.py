"""Nearest neighbours by cosine similarity: weighted votes, and ML-kNN for several labels at once."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from biovfm_hf.errors import UserError

from ..metrics import MULTILABEL
from .linear import Scores, one_hot

if TYPE_CHECKING:
    from torch import Tensor

NEIGHBOURS = (5, 10, 20, 50, 100, 200)
TEMPERATURE = 0.07
BLOCK = 1024


def probe_knn(
    kind: str,
    outputs: int,
    features: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
    neighbours: int | None = None,
    temperature: float = TEMPERATURE,
) -> Scores:
    """Score cases by their nearest training cases.

    Single-label tasks: votes weighted by exp(cosine / temperature), as DINO does (Caron et al. 2021). Multi-label
    tasks: ML-kNN (Zhang and Zhou 2007) with smoothing 1, which has no temperature.

    Args:
        kind: the task's kind.
        outputs: classes, or labels.
        features: (N, D) of `train`, `val`, `test`.
        labels: of `train` and `val`.
        neighbours: how many; None chooses among `NEIGHBOURS` by validation loss.
        temperature: of the votes.

    Raises:
        UserError: `neighbours` below 1, or a temperature that is not positive.
    """
    if neighbours is not None and neighbours < 1:
        raise UserError(f"{neighbours} neighbours cannot vote; give --neighbours 1 or more")
    if not temperature > 0:
        raise UserError(f"temperature {temperature} must be above 0")
    targets = one_hot(labels["train"], outputs)
    limit = len(targets) - 1 if kind == MULTILABEL else len(targets)
    asked = (neighbours,) if neighbours else NEIGHBOURS
    counts = sorted({min(k, max(limit, 1)) for k in asked})
    unit = {name: _unit(part) for name, part in features.items()}
    if kind == MULTILABEL:
        scored = _ml_knn(unit, targets, counts)
    else:
        scored = {k: (v, t) for k, v, t in _votes(unit, targets, counts, temperature)}
    truth = one_hot(labels["val"], outputs)
    losses = {k: _log_loss(val, truth, kind == MULTILABEL) for k, (val, _) in scored.items()}
    best = min(losses, key=lambda k: losses[k])
    return Scores(*scored[best], {"neighbours": best, "temperature": None if kind == MULTILABEL else temperature})


def _unit(features: np.ndarray) -> "Tensor":
    import torch
    from torch.nn import functional

    return functional.normalize(torch.from_numpy(np.ascontiguousarray(features, np.float32)), dim=1)


def nearest(queries: "Tensor", support: "Tensor", count: int, skip_self: bool = False) -> Iterator[tuple]:
    """Yield (similarities (B, count), support rows (B, count)) for blocks of unit queries (B, D), most similar first.

    `skip_self`: the queries are the support, and no case is its own neighbour.
    """
    for start in range(0, len(queries), BLOCK):
        similarity = queries[start : start + BLOCK] @ support.T
        if skip_self:
            similarity[range(len(similarity)), range(start, start + len(similarity))] = -2.0
        yield similarity.topk(count, dim=1)


def _votes(
    unit: dict[str, "Tensor"], targets: np.ndarray, counts: list[int], temperature: float
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    import torch

    labels = torch.from_numpy(targets)
    scored: dict[str, dict[int, list]] = {"val": {k: [] for k in counts}, "test": {k: [] for k in counts}}
    for name, parts in scored.items():
        for similarity, rows in nearest(unit[name], unit["train"], counts[-1]):
            weight = ((similarity - similarity[:, :1]) / temperature).exp_()
            for k in counts:
                vote = torch.einsum("bk,bkc->bc", weight[:, :k], labels[rows[:, :k]])
                parts[k].append(vote / vote.sum(1, keepdim=True))
    for k in counts:
        yield k, torch.cat(scored["val"][k]).numpy(), torch.cat(scored["test"][k]).numpy()


def _ml_knn(
    unit: dict[str, "Tensor"], targets: np.ndarray, counts: list[int], smooth: float = 1.0
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """ML-kNN: the posterior of a label given how many of the neighbours have it, counted on the training set."""
    labels = targets.astype(np.int64)
    within = {
        name: _neighbour_counts(unit[name], unit["train"], labels, counts, skip_self=name == "train") for name in unit
    }
    prior = (smooth + labels.sum(0)) / (2 * smooth + len(labels))
    scored = {}
    for k in counts:
        likely = [_likelihood(within["train"][k], labels == value, k, smooth) for value in (1, 0)]
        pair = []
        for name in ("val", "test"):
            seen = within[name][k]
            has = prior * np.take_along_axis(likely[0], seen, axis=0)
            lacks = (1 - prior) * np.take_along_axis(likely[1], seen, axis=0)
            pair.append(has / (has + lacks))
        scored[k] = (pair[0], pair[1])
    return scored


def _neighbour_counts(
    queries: "Tensor", support: "Tensor", labels: np.ndarray, counts: list[int], skip_self: bool
) -> dict[int, np.ndarray]:
    """How many of the k nearest have each label: {k: (N, L) int}."""
    found: dict[int, list[np.ndarray]] = {k: [] for k in counts}
    for _, rows in nearest(queries, support, counts[-1], skip_self):
        running = labels[rows.numpy()].cumsum(axis=1)
        for k in counts:
            found[k].append(running[:, k - 1])
    return {k: np.concatenate(parts) for k, parts in found.items()}


def _likelihood(seen: np.ndarray, mask: np.ndarray, k: int, smooth: float) -> np.ndarray:
    """P(j of k neighbours have the label | the case has it, or not): (k + 1, L), column sums 1."""
    labels = seen.shape[1]
    cells = (seen + np.arange(labels) * (k + 1))[mask]
    counts = np.bincount(cells, minlength=labels * (k + 1)).reshape(labels, k + 1).T
    return (smooth + counts) / (smooth * (k + 1) + counts.sum(0))


def _log_loss(found: np.ndarray, truth: np.ndarray, independent: bool) -> float:
    found = np.clip(found.astype(np.float64), 1e-6, 1 - 1e-6)
    losses = -truth * np.log(found)
    if independent:
        losses -= (1 - truth) * np.log(1 - found)
    return float(losses.sum(1).mean())
