"""The record of one result: a line of a results file, written by evaluation, read by cards and reports."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..errors import UserError
from ..reading.documents import finite

RUN_AGAIN = "run biovfm probe again"
MEANS_FILE = "seeds.json"  # of a results folder: the means over seeds of its records
SHARED = ("model", "revision", "task", "data", "method", "protocol", "settings")  # fields that all seeds share
LISTS = ("columns", "warnings", "leaks")  # of text
LEFT_OUT = ("kind", "primary", "few_shot", "modality", "scores", "joined")  # not in the file where they are empty


@dataclass(frozen=True)
class Interval:
    """A metric's value and the bounds of its 95% interval (None if the results file has none)."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Record:
    """One model, one task, one method with its settings; the fields stand in the order of the results file.

    `revision` and `data` are digests of the weights and of the task's images and labels. An entry of `metrics` is a
    mapping with `value`, `low` and `high` (some have more), or a number; if it is undefined, it or its value is None.
    `lower_is_better` names the metrics for which the better model has the lower value, `titles` are those of metrics
    for readers, in the order of tables, and `columns` names those that tables have a column for. `hub_names`
    are the Hub's ids of metrics that it calls otherwise. `positive` is the class that F1, recall and the ROC of a
    binary task are about. `few_shot` states whether the intervals cover 95% of
    the draws of training subjects; the setting `shots` has their number. `warnings` state what may make the task's
    scores wrong; those among them by which patients may be in both train and test are `leaks`, too. `further` holds a
    probe's own fields. A field that is None is not in the file, nor is one of `LEFT_OUT` if it is empty.

    Of a mean over several seeds `joined` has all of them, and `seed` is the first; `seeds.json` has such records.
    """

    model: str
    revision: str
    task: str
    data: str | None = None
    method: str = ""
    protocol: str = ""
    seed: int | None = None
    settings: Mapping[str, Any] | str = field(default_factory=dict)
    resamples: int | None = None
    kind: str = ""
    primary: str = ""
    lower_is_better: list[str] | None = None
    titles: Mapping[str, str] | None = None
    columns: list[str] | None = None
    hub_names: Mapping[str, str] | None = None
    classes: list[str] | None = None
    positive: str | None = None
    few_shot: bool = False
    metrics: Mapping[str, Any] = field(default_factory=dict)
    undefined: Mapping[str, str] | None = None
    thresholds: list[float] | None = None
    chosen: Mapping[str, Any] | None = None
    notes: list[str] | None = None
    warnings: list[str] | None = None
    leaks: list[str] | None = None
    n_train: int | None = None
    n_test: int | None = None
    seconds: float | None = None
    costs: Mapping[str, Any] | None = None
    licence: str | None = None
    modality: str = ""
    software: Mapping[str, str] | None = None
    further: Mapping[str, Any] = field(default_factory=dict)
    scores: str = ""
    joined: tuple[int, ...] = ()

    @classmethod
    def read(cls, row: Any, where: str, remedy: str = RUN_AGAIN) -> "Record":
        """Read a record from a JSON value.

        Args:
            row: of a results file, or of a record's own file.
            where: the file and the record's number in it, to begin error messages.
            remedy: advice that ends error messages.

        Raises:
            UserError: not an object, without model, task or method, or a metric is neither undefined nor finite.
        """
        if not isinstance(row, dict):
            raise UserError(f"{where} is not an object; {remedy}")
        for name in ("model", "task", "method"):
            if not isinstance(row.get(name), str) or not row[name]:
                raise UserError(f"{where} has no {name!r}; {remedy}")
        metrics = row.get("metrics", {})
        if not isinstance(metrics, dict):
            raise UserError(f"{where} has no metrics; {remedy}")
        for name, entry in metrics.items():
            if not _undefined(entry) and finite(_entry(entry).get("value")) is None:
                raise UserError(f"{where}, metric {name!r} has no finite value; {remedy}")
        names = {each.name for each in fields(cls)} - {"further"}
        known = {name: value for name, value in row.items() if name in names and value is not None}
        for name in ("seed", "n_train", "n_test", "resamples"):
            known[name] = _whole(row.get(name))
        known |= {name: str(row.get(name) or "") for name in ("revision", "protocol", "modality")}
        known["seconds"] = finite(row.get("seconds"))
        known["few_shot"] = row.get("few_shot") is True
        known["joined"] = _seeds(row.get("joined"))
        known |= {name: _texts(known[name]) for name in ("titles", "hub_names") if name in known}
        known |= {name: list(map(str, row[name])) for name in LISTS if row.get(name) is not None}
        return cls(**known, further={name: value for name, value in row.items() if name not in names})

    def to_json(self) -> dict[str, Any]:
        """The record as a results file holds it; `read` reads it back."""
        row: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "further":
                row |= value
            elif value is not None and (value or each.name not in LEFT_OUT):
                row[each.name] = value
        return row

    @property
    def seeds(self) -> int | list[int] | None:
        """The seed, or of a mean over several the list of them, as comparisons.json states it."""
        return list(self.joined) or self.seed

    @property
    def likeness(self) -> str:
        """A text of all that names and measures it but the seed: alike for the records of several seeds."""
        return json.dumps([getattr(self, name) for name in SHARED], sort_keys=True)

    @property
    def intervals(self) -> dict[str, Interval]:
        """Each metric that is defined, with its interval."""
        return {
            name: Interval(float(entry["value"]), finite(entry.get("low")), finite(entry.get("high")))
            for name, entry in ((name, _entry(value)) for name, value in self.metrics.items() if not _undefined(value))
        }

    def setting(self, name: str) -> Any:
        """The value of a setting, None if the record has none of that name."""
        return self.settings.get(name) if isinstance(self.settings, Mapping) else None

    def without(self, setting: str) -> "Record":
        """The record with one setting less, to set beside others that differ in it alone."""
        if not isinstance(self.settings, Mapping):
            return self
        return replace(self, settings={name: value for name, value in self.settings.items() if name != setting})

    @property
    def settings_text(self) -> str:
        """The settings in words, such as `features both, precision fp32`."""
        return settings_text(self.settings)


def settings_text(settings: Any) -> str:
    """Settings in words, by name; text, as in the results file beside a card, stays as it is.

    >>> settings_text({"precision": "fp32", "features": "both"})
    'features both, precision fp32'
    """
    if not isinstance(settings, Mapping):
        return str(settings or "")
    return ", ".join(f"{name} {value}" for name, value in sorted(settings.items()))


def _entry(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {"value": value}


def _undefined(value: Any) -> bool:
    """Whether a metric is marked as undefined on its test split, for instance AUC where one class has no case."""
    return (value["value"] if isinstance(value, Mapping) and "value" in value else value) is None


def _texts(value: Any) -> dict[str, str]:
    entries = value.items() if isinstance(value, dict) else ()
    return {name: text for name, text in entries if isinstance(text, str) and text}


def _seeds(value: Any) -> tuple[int, ...]:
    numbers = map(_whole, value if isinstance(value, list | tuple) else ())
    return tuple(number for number in numbers if number is not None)


def _whole(value: Any) -> int | None:
    number = finite(value)
    return None if number is None else int(number)
