"""Votes of the nearest neighbours: weighted by cosine similarity, and ML-kNN for several labels at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.options import option

from .frozen import FrozenProbe
from .neighbours import nearest, unit_centre, unit_offsets
from .probe import Problem, Scores, Trial, features_setting, log_loss, register

NEIGHBOURS = (5, 10, 20, 50, 100, 200)
TEMPERATURE = 0.07
LEAST = 1e-6  # probability in the validation loss, since votes are often exactly 0 or 1


@register
@dataclass(frozen=True)
class NearestNeighbours(FrozenProbe):
    """Votes of the nearest training cases; ML-kNN for several labels at once."""

    name = "knn"
    title = "votes of the nearest training cases"
    features: str = features_setting("class")
    neighbours: int | None = option(
        None, "kNN: number of neighbours (default: chosen on validation)", least=1, metavar="K"
    )
    temperature: float = option(TEMPERATURE, "kNN: temperature of the votes", above=0)

    def score(self, trial: Trial, problem: Problem) -> Scores:
        """Find the neighbours, and choose their number by validation loss."""
        return probe_knn(problem, self.neighbours, self.temperature)


def probe_knn(problem: Problem, neighbours: int | None = None, temperature: float = TEMPERATURE) -> Scores:
    """Score cases by their nearest training cases.

    Single-label tasks: votes weighted by exp(cosine / temperature), as DINO does (Caron et al. 2021). Multi-label
    tasks: ML-kNN (Zhang and Zhou 2007) with smoothing 1, which has no temperature.

    Args:
        problem: features and labels.
        neighbours: number of neighbours; None chooses among `NEIGHBOURS` by validation loss.
        temperature: temperature of the votes.

    Raises:
        UserError: `neighbours` is below 1, the temperature is not above 0, or no case has a training case beside it.
    """
    if neighbours is not None and neighbours < 1:
        raise UserError(f"{neighbours} neighbours cannot vote; give --neighbours 1 or more")
    if not temperature > 0:
        raise UserError(f"temperature {temperature} must be above 0")
    targets = problem.targets("train")
    limit = len(targets) - 1 if problem.independent else len(targets)
    if limit < 1:
        raise UserError(f"the task's training cases are {len(targets)}; kNN needs {len(targets) - limit + 1} or more")
    choices = (neighbours,) if neighbours else NEIGHBOURS
    counts = sorted({min(k, limit) for k in choices})
    centre = unit_centre(problem.features["train"])
    offsets = {name: unit_offsets(part, centre) for name, part in problem.features.items()}
    if problem.independent:
        scored = _ml_knn(offsets, targets, counts)
    else:
        scored = {k: (v, t) for k, v, t in _votes(offsets, targets, counts, temperature)}
    truth = problem.targets("val")
    losses = {k: log_loss(val, truth, problem.independent, LEAST) for k, (val, _) in scored.items()}
    best = min(losses, key=lambda k: losses[k])
    return Scores(*scored[best], {"neighbours": best, "temperature": None if problem.independent else temperature})


def _votes(
    offsets: dict[str, np.ndarray], targets: np.ndarray, counts: list[int], temperature: float
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    import torch

    labels = torch.from_numpy(targets)
    scored: dict[str, dict[int, list]] = {"val": {k: [] for k in counts}, "test": {k: [] for k in counts}}
    for name, parts in scored.items():
        for similarity, rows in nearest(offsets[name], offsets["train"], counts[-1]):
            weight = ((similarity - similarity[:, :1]) / temperature).exp_()
            for k in counts:
                vote = torch.einsum("bk,bkc->bc", weight[:, :k], labels[rows[:, :k]])
                parts[k].append(vote / vote.sum(1, keepdim=True))
    for k in counts:
        yield k, torch.cat(scored["val"][k]).numpy(), torch.cat(scored["test"][k]).numpy()


def _ml_knn(
    offsets: dict[str, np.ndarray], targets: np.ndarray, counts: list[int], smooth: float = 1.0
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """ML-kNN: the posterior of a label given the number of neighbours that have it, counted on the training set."""
    labels = targets.astype(np.int64)
    within = {
        name: _neighbour_counts(part, offsets["train"], labels, counts, skip_self=name == "train")
        for name, part in offsets.items()
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
    queries: np.ndarray, support: np.ndarray, labels: np.ndarray, counts: list[int], skip_self: bool
) -> dict[int, np.ndarray]:
    """Number of the k nearest neighbours with each label: {k: (N, L) int}."""
    blocks: dict[int, list[np.ndarray]] = {k: [] for k in counts}
    for _, rows in nearest(queries, support, counts[-1], skip_self):
        running = labels[rows.numpy()].cumsum(axis=1)
        for k in counts:
            blocks[k].append(running[:, k - 1])
    return {k: np.concatenate(parts) for k, parts in blocks.items()}


def _likelihood(seen: np.ndarray, mask: np.ndarray, k: int, smooth: float) -> np.ndarray:
    """P(j of k neighbours have the label | the case has it, or not): (k + 1, L), each column sums to 1."""
    labels = seen.shape[1]
    cells = (seen + np.arange(labels) * (k + 1))[mask]
    counts = np.bincount(cells, minlength=labels * (k + 1)).reshape(labels, k + 1).T
    return (smooth + counts) / (smooth * (k + 1) + counts.sum(0))
