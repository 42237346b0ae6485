"""Summarises a training run: its configuration and the series that it logged."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from biovfm_hf.cards.objective import Logged, Objective, read_objective
from biovfm_hf.cards.provenance import Provenance, read_provenance
from biovfm_hf.reading.documents import finite, read_yaml

from .files import read_jsonl

MAX_POINTS = 65_536
MAX_SERIES = 200
GROUPS = ("loss", "watch", "schedule", "speed")


@dataclass
class Series:
    """Values of one logged quantity over optimisation steps. Above 65,536 points every second one is kept."""

    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    stride: int = 1
    seen: int = 0
    last: tuple[float, float] = (0.0, 0.0)

    def add(self, step: float, value: float) -> None:
        """Append one point, thinning the series when it is full. The last point is always kept."""
        self.last = (step, value)
        if self.seen % self.stride == 0:
            self.steps.append(step)
            self.values.append(value)
            if len(self.steps) > MAX_POINTS:
                del self.steps[1::2], self.values[1::2]
                self.stride *= 2
        self.seen += 1


@dataclass(frozen=True)
class RunSummary:
    """A training run: resolved configuration, logged series by name, and totals.

    `decoder` is the folder of its weights with a masked autoencoder's decoder, if there is one.
    """

    name: str
    config: dict[str, Any]
    series: dict[str, Series]
    steps: int
    images: int | None
    seconds: float | None
    skipped_values: int
    crops: Path | None
    decoder: Path | None = None
    provenance: Provenance = field(default_factory=Provenance)
    objective: Objective | None = None

    @property
    def final(self) -> dict[str, float]:
        """The last logged value of every series."""
        return {name: series.last[1] for name, series in self.series.items()}

    def logged(self, name: str) -> Logged:
        """What its objective says of a series; nothing if it says nothing, or the run is of an earlier version."""
        return self.objective.logged.get(name, Logged()) if self.objective else Logged()

    def group_of(self, name: str) -> str:
        """The group of charts that a series belongs to: `loss`, `schedule`, `speed`, or `watch` for diagnostics."""
        stated = self.logged(name).group
        return stated if stated in GROUPS else _group_by_name(name)


def summarise_run(folder: Path) -> RunSummary:
    """Read `metrics.jsonl` of a run folder, and if they are there, `config.yaml` and the objective's facts.

    Values that are not finite numbers are counted in `skipped_values`.
    `seconds` is the logged elapsed time, else the sum of images over images per second.

    Raises:
        UserError: a file is unreadable.
    """
    series: dict[str, Series] = {}
    skipped = 0
    steps = images = 0.0
    seconds = 0.0
    for record in read_jsonl(folder / "metrics.jsonl"):
        step = finite(record.get("step"))
        if step is None:
            skipped += 1
            continue
        seen = finite(record.get("images"))
        rate = finite(record.get("images_per_second"))
        if seen is not None and rate is not None and rate > 0 and seen > images:
            seconds += (seen - images) / rate
        steps, images = max(steps, step), max(images, seen or 0.0)
        skipped += _add_values(series, step, record)
    elapsed = next((series[name].last[1] for name in ("seconds", "elapsed") if name in series), None)
    config = folder / "config.yaml"
    crops, decoder = folder / "crops.png", folder / "model_with_decoder"
    return RunSummary(
        name=folder.resolve().name,
        config=read_yaml(config) if config.is_file() else {},
        series=series,
        steps=int(steps),
        images=int(images) or None,
        seconds=elapsed if elapsed is not None else (seconds or None),
        skipped_values=skipped,
        crops=crops if crops.is_file() else None,
        decoder=decoder if (decoder / "config.json").is_file() else None,
        provenance=read_provenance(folder),
        objective=read_objective(folder),
    )


def _add_values(series: dict[str, Series], step: float, record: dict[str, Any]) -> int:
    skipped = 0
    for name, value in record.items():
        if name in ("step", "images") or isinstance(value, str | list | dict):
            continue
        number = finite(value)
        if number is None:
            skipped += value is not None
        elif name in series or len(series) < MAX_SERIES:
            series.setdefault(name, Series()).add(step, number)
    return skipped


def _group_by_name(name: str) -> str:
    """The group of a value that nothing is said of."""
    if name.startswith(("lr", "grad_norm")):  # of the parts of a model
        return "schedule"
    if name.endswith(("_per_second", "seconds")) or name.startswith("memory"):
        return "speed"
    return "loss" if "loss" in name else "watch"
