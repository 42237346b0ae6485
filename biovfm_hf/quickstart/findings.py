"""The quickstart's findings in sentences: each pretrained model against its twin with random weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..front_door import objective_title
from ..reading.documents import read_json

MODELS = ("dino", "mae")  # objectives of training
PROBES = {"knn": "nearest neighbours", "linear": "a linear layer", "segment": "segmentation"}
METRICS = {"auc": "AUC", "dice": "Dice"}


@dataclass(frozen=True)
class Gain:
    """A model's score minus its random twin's, in points, with a 95 % interval, by one probe.

    `model` is one of `MODELS`, `probe` one of `PROBES`, `metric` one of `METRICS`.
    """

    model: str
    probe: str
    metric: str
    points: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`better` or `worse` if the interval is on one side of 0, else `no different`."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no different"

    @property
    def figures(self) -> str:
        """The points and their interval, as sentences and pictures show them."""
        return f"{self.points:+.1f} ({self.low:+.1f} to {self.high:+.1f})"


def read_gains(comparisons: Path) -> list[Gain]:
    """The gains of the pretrained models over their twins in a `comparisons.json`, in the order of `PROBES`."""
    gains = [_gain(row) for row in read_json(comparisons) if _is_gain(row)]
    return sorted(gains, key=lambda gain: (MODELS.index(gain.model), list(PROBES).index(gain.probe)))


def _is_gain(row: dict[str, Any]) -> bool:
    twins = row["model_a"] in MODELS and row["model_b"] == f"{row['model_a']}-random"
    return twins and row["method"] in PROBES and row["metric"] in METRICS


def _gain(row: dict[str, Any]) -> Gain:
    points = (100 * row[name] for name in ("difference", "low", "high"))
    return Gain(row["model_a"], row["method"], row["metric"], *points)


def sentences(gains: list[Gain]) -> list[str]:
    """A sentence on each model, and one that explains the figures."""
    lines = [_sentence(model, [gain for gain in gains if gain.model == model]) for model in MODELS]
    note = "Figures are points (hundredths) less a twin with the same architecture and random weights, with their 95 %"
    return [*filter(None, lines), f"{note} intervals over test slices, on a part of the brain that no model had seen."]


def _sentence(model: str, gains: list[Gain]) -> str:
    if not gains:
        return ""
    parts = []
    for verdict in ("better", "no different", "worse"):
        rows = [gain for gain in gains if gain.verdict == verdict]
        if rows:
            listed = "; ".join(f"{PROBES[row.probe]} {row.figures} {METRICS[row.metric]}" for row in rows)
            parts.append(f"{verdict} by {len(rows)} of {len(gains)} probes ({listed})")
    listed = ", and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
    return f"{objective_title(model)}'s pretraining made features {listed}."
