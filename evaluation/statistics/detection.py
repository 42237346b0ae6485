"""COCO's average precision and recall of boxes, and their bootstrap intervals over images.

Follows Lin et al. 2014 (arXiv 1405.0312) and the rules of pycocotools' COCOeval: detections of a class are matched
greedily by score, at ten IoU thresholds, over all areas and in three ranges of area; precision is read from its
envelope at 101 recalls. Boxes stay in float64: rounding to float32 moves some over the edge of an area or a threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .bootstrap import Resampler, bounds

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # IoU
RECALLS = np.linspace(0, 1, 101)
AREAS = np.array(
    [[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]]
)  # all, small, medium, large; the ends belong to both ranges
MOST = 100  # detections of a class per image
TINY = np.spacing(1.0)

# Name: area, number of detections per image that count, threshold (None is the mean over all)
PRECISIONS: dict[str, tuple[int, int | None]] = {
    "AP": (0, None), "AP50": (0, 0), "AP75": (0, 5), "APs": (1, None), "APm": (2, None), "APl": (3, None),
}  # fmt: skip
RECALLED: dict[str, tuple[int, int]] = {
    "AR1": (0, 1), "AR10": (0, 10), "AR100": (0, MOST), "ARs": (1, MOST), "ARm": (2, MOST), "ARl": (3, MOST),
}  # fmt: skip
NAMES = (*PRECISIONS, *RECALLED)


@dataclass(frozen=True)
class Boxes:
    """The boxes of one class in one image, as x, y, width, height in pixels.

    Attributes:
        truth: (g, 4) true boxes.
        areas: (g,) areas of the annotations, which can be smaller than their boxes.
        crowd: (g,) marks boxes around many things; any number of detections may match one without being right or
            wrong.
        detected: (d, 4) detected boxes.
        scores: (d,) scores of the detections.
    """

    truth: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    detected: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Matches:
    """Matched detections of one class, best score first; after joining, those of several images.

    Attributes:
        scores, ranks, images: (d,) score of each detection, its rank within the image, and the index of the image.
        right, wrong: (areas, thresholds, d) bool, both False if a detection does not count.
        things: (areas, images) number of things to detect.
    """

    scores: np.ndarray
    ranks: np.ndarray
    images: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    things: np.ndarray

    @cached_property
    def counted(self) -> list[tuple[int, np.ndarray]]:
        """Each limit on the detections per image, with the detections that are within it."""
        return [(limit, self.ranks < limit) for limit in sorted({limit for _, limit in RECALLED.values()})]


def overlaps(detected: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Intersection over union (d, g); for a crowd, intersection over the detection's own area."""
    starts = np.maximum(detected[:, None, :2], truth[None, :, :2])
    ends = np.minimum((detected[:, :2] + detected[:, 2:])[:, None], (truth[:, :2] + truth[:, 2:])[None])
    shared = np.clip(ends - starts, 0, None).prod(-1)
    own = detected[:, 2:].prod(-1)[:, None]
    whole = np.where(crowd[None], own, own + truth[:, 2:].prod(-1)[None] - shared)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0)


def match_boxes(boxes: Boxes) -> Matches:
    """Match up to 100 best detections of one image: each takes the free box that it overlaps most.

    Boxes that do not count (crowds, areas outside the range) are matched only if no other box reaches the threshold.
    """
    order = np.argsort(-boxes.scores, kind="stable")[:MOST]
    detected = boxes.detected[order]
    uncounted = boxes.crowd | _outside(boxes.areas)
    right, ignored = _assign(overlaps(detected, boxes.truth, boxes.crowd), boxes.crowd, uncounted)
    unmatched = ~right & ~ignored
    wrong = unmatched & ~_outside(detected[:, 2:].prod(-1))[:, None]
    things = (~uncounted).sum(-1, keepdims=True)
    return Matches(boxes.scores[order], np.arange(len(order)), np.zeros(len(order), int), right, wrong, things)


def _outside(areas: np.ndarray) -> np.ndarray:
    """For each range, which of `areas` (n,) lie outside it: (ranges, n)."""
    return (areas < AREAS[:, :1]) | (areas > AREAS[:, 1:])


def _assign(iou: np.ndarray, crowd: np.ndarray, uncounted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which detections match a box that counts, and which match one that does not: (areas, thresholds, d) each."""
    shape = (len(AREAS), len(THRESHOLDS))
    right, ignored = np.zeros((2, *shape, len(iou)), bool)
    if not iou.size:
        return right, ignored
    taken = np.zeros((*shape, iou.shape[1]), bool)
    for number, row in enumerate(iou):
        free = (row >= THRESHOLDS[:, None]) & (~taken | crowd)
        counting = free & ~uncounted[:, None]
        candidates = np.where(counting.any(-1, keepdims=True), counting, free)
        best = row.size - 1 - np.where(candidates, row, -1)[..., ::-1].argmax(-1)  # the last of equal overlaps
        chosen = (np.arange(row.size) == best[..., None]) & candidates
        taken |= chosen
        right[..., number] = counting.any(-1)
        ignored[..., number] = free.any(-1) & ~right[..., number]
    return right, ignored


def join(images: Sequence[Matches]) -> Matches:
    """The matches of one class over several images, best score first; equal scores keep the order of the images."""
    scores = np.concatenate([each.scores for each in images])
    order = np.argsort(-scores, kind="stable")
    return Matches(
        scores[order],
        np.concatenate([each.ranks for each in images])[order],
        np.repeat(np.arange(len(images)), [len(each.scores) for each in images])[order],
        np.concatenate([each.right for each in images], -1)[..., order],
        np.concatenate([each.wrong for each in images], -1)[..., order],
        np.concatenate([each.things for each in images], -1),
    )


def match_all(images: Sequence[Boxes]) -> Matches:
    """The matches of one class over all images."""
    return join([match_boxes(each) for each in images])


def group_boxes(truth: np.ndarray, detected: np.ndarray, images: int, classes: int) -> list[list[Boxes]]:
    """The boxes of each class and image from tables.

    Args:
        truth: (g, 8) image, class, x, y, width, height, area, crowd.
        detected: (d, 7) image, class, x, y, width, height, score.
        images: number of images.
        classes: number of classes.
    """
    groups = []
    for label in range(classes):
        own_truth, own_detections = truth[truth[:, 1] == label], detected[detected[:, 1] == label]
        there, hits = (
            np.split(rows[np.argsort(rows[:, 0], kind="stable")], _ends(rows, images))
            for rows in (own_truth, own_detections)
        )
        groups.append([Boxes(t[:, 2:6], t[:, 6], t[:, 7] > 0, d[:, 2:6], d[:, 6])
                      for t, d in zip(there, hits, strict=True)])  # fmt: skip
    return groups


def _ends(rows: np.ndarray, images: int) -> np.ndarray:
    """Where the rows of each image except the last end, in rows sorted by image."""
    return np.cumsum(np.bincount(rows[:, 0].astype(int), minlength=images))[:-1]


def class_figures(matches: Matches, weights: np.ndarray | None = None) -> dict[str, float]:
    """The twelve figures of one class in [0, 1], by COCO's names; NaN if there was nothing to detect.

    Args:
        matches: matches of all images, from `join`.
        weights: (images,) how often a resample draws each image; None counts each once.
    """
    weights = np.ones(matches.things.shape[1]) if weights is None else weights
    things = matches.things @ weights
    counts = weights[matches.images]
    precision = np.stack([_precisions(matches, counts, area, n) if n else np.full(len(THRESHOLDS), np.nan)
                          for area, n in enumerate(things)])  # fmt: skip
    figures = {
        name: float(precision[area].mean() if threshold is None else precision[area, threshold])
        for name, (area, threshold) in PRECISIONS.items()
    }
    detected = {limit: (matches.right * (counts * within)).sum(-1).mean(-1) for limit, within in matches.counted}
    for name, (area, limit) in RECALLED.items():
        figures[name] = float(detected[limit][area] / things[area]) if things[area] else float("nan")
    return figures


def _precisions(matches: Matches, counts: np.ndarray, area: int, things: float) -> np.ndarray:
    """Mean precision over the 101 recalls, for each threshold: (thresholds,)."""
    right = np.cumsum(matches.right[area] * counts, -1)
    wrong = np.cumsum(matches.wrong[area] * counts, -1)
    envelope = np.maximum.accumulate((right / (right + wrong + TINY))[:, ::-1], -1)[:, ::-1]
    padded = np.pad(envelope, ((0, 0), (0, 1)))  # a recall that is never reached has precision 0
    reached = [np.searchsorted(recall, RECALLS) for recall in right / things]
    return np.take_along_axis(padded, np.stack(reached), -1).mean(-1)


def mean_figures(classes: Sequence[dict[str, float]]) -> dict[str, float]:
    """Each figure's mean over the classes that define it; NaN if none does."""
    columns = {name: [each[name] for each in classes if not np.isnan(each[name])] for name in NAMES}
    return {name: float(np.mean(values)) if values else float("nan") for name, values in columns.items()}


def resampled_figures(
    classes: Sequence[Matches], resamples: int, seed: int, subjects: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """{name: (resamples,)}: the mean figures in resamples of the images with replacement, NaN if undefined.

    If `subjects` (images,) is given, whole subjects are drawn.
    """
    resampler = Resampler(classes[0].things.shape[1], "fast", seed, subjects)
    draws = [
        mean_figures([class_figures(each, resampler.counts(number).astype(np.float64)) for each in classes])
        for number in range(resamples)
    ]
    return {name: np.array([draw[name] for draw in draws]) for name in NAMES}


def detection_intervals(
    values: dict[str, float], draws: dict[str, np.ndarray]
) -> dict[str, dict[str, float | str | None]]:
    """{name: {"value", "mean", "low", "high"}}; all None, with a "reason", if there was nothing to detect."""
    entries: dict[str, dict[str, float | str | None]] = {}
    for name, value in values.items():
        defined = draws[name][~np.isnan(draws[name])]
        if np.isnan(value) or not len(defined):
            reason = "no box of this area in the truth"
            entries[name] = {"value": None, "mean": None, "low": None, "high": None, "reason": reason}
            continue
        low, high = bounds(defined, "fast")
        entries[name] = {"value": value, "mean": float(defined.mean()), "low": low, "high": high}
    return entries


def judge_boxes(
    boxes: dict[str, list[Boxes]], resamples: int, seed: int, subjects: np.ndarray | None = None
) -> dict[str, Any]:
    """COCO's figures with intervals, for all classes together and for each.

    Args:
        boxes: {class: [boxes of each image]}.
        resamples: number of resamples of the images, or of their `subjects`.
        seed: random seed of the resamples.
        subjects: (images,) subject of each image.

    Returns:
        {"metrics": as `detection_intervals`, "classes": {class: {"AP", "AP50"}, None if it has no box}, "notes"}.
    """
    classes = {name: match_all(images) for name, images in boxes.items()}
    figures = {name: class_figures(matches) for name, matches in classes.items()}
    draws = resampled_figures(list(classes.values()), resamples, seed, subjects)
    lacking = [name for name, each in figures.items() if np.isnan(each["AP"])]
    return {
        "metrics": detection_intervals(mean_figures(list(figures.values())), draws),
        "classes": {name: {key: None if name in lacking else each[key] for key in ("AP", "AP50")}
                    for name, each in figures.items()},
        "notes": [f"no box of {name} in the truth, so the means leave it out" for name in lacking],
    }  # fmt: skip
