"""The plan of `biovfm scaling mixture run`: the groups with their bounds, the mixtures of the design, the probe."""

import csv
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError, one_line, require
from biovfm_hf.front_door import resolved_settings
from biovfm_hf.reading.documents import read_yaml
from biovfm_hf.reading.groups import column_values
from biovfm_hf.reading.rows import kept_rows

from ..study.paths import resolve, resolve_config
from ..study.pretraining import ONE_PROCESS, PretrainingRun
from ..study.probing import probe_values
from .designs import MAX_EPOCHS, dirichlet, distinct, held_out_draws, lattice, limits_of, within_limits

REMEDY = "see: biovfm scaling mixture run --help"
KEYS = ("data", "by", "groups", "config", "objective", "overrides", "launch", "design", "epochs", "held_out",
        "replicates", "confirm", "seed", "probe", "metric")  # fmt: skip


@dataclass(frozen=True)
class Mixture:
    """A run of the design: its name, its shares (groups,), its seed, and whether it is held out from the fit."""

    name: str
    shares: np.ndarray
    seed: int
    held_out: bool = False


@dataclass(frozen=True)
class MixturePlan:
    """A checked MIXTURE.yaml.

    Attributes:
        groups: names of the groups.
        images: (groups,) number of images of each group, without those that filters or the selection leave out.
        others: values of the group column that belong to no group; their images are left out.
        limits: (groups,) highest share of each group.
        mixtures: runs of the design.
        seen: number of images that each run sees.
        content: the parsed file.
        path: path of the file.
    """

    groups: list[str]
    images: np.ndarray
    others: list[str]
    limits: np.ndarray
    mixtures: list[Mixture]
    seen: int
    content: dict[str, Any]
    path: Path

    @property
    def seed(self) -> int:
        """The random seed of the design and of the runs."""
        return int(self.content.get("seed", 0))

    @property
    def uniform(self) -> np.ndarray:
        """Equal shares (groups,), within the limits."""
        return within_limits(np.full((1, len(self.groups)), 1 / len(self.groups)), self.limits)[0]

    @property
    def natural(self) -> np.ndarray:
        """The shares (groups,) of the groups in the data."""
        return self.images / self.images.sum()

    @property
    def natural_within_limits(self) -> np.ndarray:
        """The natural shares (groups,), within the limits."""
        return within_limits(self.natural[None], self.limits)[0]

    @property
    def launch(self) -> list[str]:
        """Arguments of `accelerate launch`."""
        return [str(word) for word in self.content.get("launch", ONE_PROCESS)]

    @property
    def probe(self) -> dict[str, Any]:
        """The options of `biovfm probe`."""
        return probe_values(self.path, self.content["probe"])

    def runs(self, mixtures: list[Mixture]) -> list[PretrainingRun]:
        """The pretraining run of each mixture."""
        return [self._run(mixture) for mixture in mixtures]

    def _run(self, mixture: Mixture) -> PretrainingRun:
        weights = dict.fromkeys(self.others, 0.0)
        weights |= {name: round(float(share), 6) for name, share in zip(self.groups, mixture.shares, strict=True)}
        drawn = {"data.weight_by": self.content["by"], "data.weights": weights, "seed": mixture.seed}
        return PretrainingRun(
            name=mixture.name,
            objective=self.content.get("objective", ""),
            config=self.content["config"],
            data=self.content["data"],
            overrides={**self.content["overrides"], **drawn},
            plan=self.path,
        )


def read_mixture_plan(path: Path) -> MixturePlan:
    """Read and check a MIXTURE.yaml, count the images of each group, and make the design.

    Raises:
        UserError: a key is missing, unknown or wrong; the data lacks a group; the config is refused; or the design
            does not fit the limits.
    """
    content = _read_content(path)
    settings = pretraining_settings(content)
    counts = count_groups(content["data"], str(content["by"]), settings["data"])
    groups = [str(name) for name in content.get("groups") or sorted(counts)]
    if unknown := [name for name in groups if name not in counts]:
        raise UserError(f"{path}: no image has {content['by']} {unknown[0]!r}; there are {', '.join(sorted(counts))}")
    if len(groups) < 2 or len(set(groups)) < len(groups):
        raise UserError(f"{path}: groups: give two or more different ones; the data has {', '.join(sorted(counts))}")
    images = np.array([counts[name] for name in groups], np.float64)
    seen = int(settings["steps"]) * int(settings["batch"]["size"])
    limits = limits_of(images, seen, float(content.get("epochs", MAX_EPOCHS)))
    plan = MixturePlan(groups, images, sorted(set(counts) - set(groups)), limits, [], seen, content, path)
    return replace(plan, mixtures=_design(plan))


def _read_content(path: Path) -> dict[str, Any]:
    content = read_yaml(path, REMEDY)
    if unknown := [str(key) for key in content if key not in KEYS]:
        raise UserError(f"{path}: unknown key {', '.join(unknown)}; known are: {', '.join(KEYS)}")
    if lacking := [key for key in ("data", "by", "config", "design", "probe") if key not in content]:
        raise UserError(f"{path}: lacks {', '.join(lacking)}; {REMEDY}")
    for key, kind in (("design", dict), ("probe", dict), ("overrides", dict), ("groups", list), ("launch", list)):
        if key in content and not isinstance(content[key], kind):
            raise UserError(f"{path}: {key} must be a {'mapping' if kind is dict else 'list'}; {REMEDY}")
    for key, least in (("held_out", 3), ("replicates", 1), ("confirm", 0), ("seed", 0)):
        if key in content and (not isinstance(content[key], int) or content[key] < least):
            raise UserError(f"{path}: {key} must be a whole number of {least} or more, not {content[key]!r}")
    if "tasks" not in content["probe"] or not isinstance(content["config"], str):
        raise UserError(f"{path}: probe must name tasks, and config be a file or a shipped name; {REMEDY}")
    config, data = resolve_config(path, content["config"]), resolve(path, str(content["data"]))
    overrides = {str(key): value for key, value in (content.get("overrides") or {}).items()}
    return {**content, "data": data, "config": config, "overrides": overrides}


def count_groups(path: str, column: str, data: dict[str, Any]) -> Counter[str]:
    """Number of images for each value of the group column, among those that pretraining uses.

    Args:
        path: dataset folder or Hub id.
        column: the group column.
        data: `data` of the resolved pretraining configuration, with its config, split, filters and selection.

    Raises:
        UserError: the data cannot be opened, has no such column, or does not fit the filters or the selection.
    """
    datasets = require("datasets", "eval")
    try:
        table = datasets.load_dataset(path, data["config"], split=data["split"], revision=data["revision"])
    except (FileNotFoundError, ValueError, OSError) as error:
        raise UserError(f"{path}: no dataset that can be opened ({one_line(error)})") from error
    values = column_values(table, column)
    filters = {name: data[name] for name in ("modality", "source") if data[name]}
    rows = kept_rows(table, filters, data["selection"])
    return Counter((values if rows is None else values[rows]).tolist())


def pretraining_settings(content: dict[str, Any]) -> dict[str, Any]:
    """The resolved pretraining configuration of the plan.

    Raises:
        UserError: the configuration is refused, or it counts epochs, whose length differs between mixtures.
    """
    changed = {"method": content["objective"]} if content.get("objective") else {}
    settings = resolved_settings(content["config"], changed | content["overrides"])
    if settings.get("epochs"):
        raise UserError("overrides: give steps and not epochs, so that every mixture sees equally many images")
    return settings


def _design(plan: MixturePlan) -> list[Mixture]:
    """All runs: the design within the limits, the uniform and natural mixtures, replicates and held-out runs."""
    shares = within_limits(_designed(plan), plan.limits)
    fixed = np.stack([plan.uniform, plan.natural_within_limits])
    shares = distinct(np.round(np.concatenate([fixed, shares]), 6), apart=1e-3)
    runs = [Mixture(f"m{number:03d}", row / row.sum(), plan.seed) for number, row in enumerate(shares)]
    again = range(1, plan.content.get("replicates", 3))
    runs += [Mixture(f"uniform-{seed}", runs[0].shares, plan.seed + seed) for seed in again]
    held_out = held_out_draws(shares, plan.limits, plan.content.get("held_out", 5), plan.seed)
    return runs + [Mixture(f"h{number:03d}", row, plan.seed, True) for number, row in enumerate(held_out)]


def _designed(plan: MixturePlan) -> np.ndarray:
    """The mixtures (n, groups) of the design before the limits are applied."""
    (kind, value), *others = plan.content["design"].items() or [("", None)]
    if others or kind not in ("lattice", "draws", "list"):
        raise UserError(f"{plan.path}: design must be one of lattice, draws and list; {REMEDY}")
    if kind == "list":
        return _listed(Path(resolve(plan.path, str(value))), plan.groups)
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{plan.path}: design: {kind} must be a whole number of 1 or more, not {value!r}")
    return lattice(len(plan.groups), value) if kind == "lattice" else dirichlet(plan.images, value, plan.seed)


def _listed(path: Path, groups: list[str]) -> np.ndarray:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            shares = np.array([[float(row[name]) for name in groups] for row in csv.DictReader(stream)])
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: no list of mixtures with the columns {', '.join(groups)} ({error!r})") from error
    if not len(shares) or (shares < 0).any() or (np.abs(shares.sum(axis=1) - 1) > 1e-3).any():
        raise UserError(f"{path}: shares must be 0 or more, with the sum 1 in each row")
    return shares
