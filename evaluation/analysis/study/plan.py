"""Reads the file of a scaling study, and checks it before anything runs, because pretraining takes days."""

import re
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError
from biovfm_hf.front_door import check_data, counted_objectives
from biovfm_hf.reading.documents import read_yaml

from ...commands.probe_options import options_class
from ...statistics.metrics import find_metric
from ...tasks import resolve_names
from ..layers.command import AnalyseOptions
from ..scaling.model_size import AXES
from ..scaling.tables import read_properties
from .paths import resolve, resolve_config, resolve_tasks
from .pretraining import ONE_PROCESS, PretrainingRun
from .probing import probe_options, probe_values

NOT_OURS = ("model", "out", "list_tasks", "help", "h")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
KEYS = ("families", "sizes", "subsets", "overrides", "launch", "probe", "metric", "properties", "layers", "axis")
REMEDY = "see: biovfm scaling study --help"


@dataclass(frozen=True, kw_only=True)
class StudyRun(PretrainingRun):
    """A pretraining run, with the combination that it belongs to."""

    family: str
    size: str
    subset: str  # "" if the study has only one

    @property
    def series(self) -> str:
        """The family, together with its data if the study varies the data."""
        return f"{self.family} on {self.subset}" if self.subset else self.family


@dataclass(frozen=True)
class StudyPlan:
    """A checked study file: its runs, and the settings for launching, probing and analysing them."""

    runs: list[StudyRun]
    launch: list[str]
    probe: dict[str, Any]
    properties: Path | None
    axis: str
    metric: str = ""
    layers: dict[str, Any] = field(default_factory=dict)


def read_study_plan(path: str | Path) -> StudyPlan:
    """Read and check a whole study file.

    Raises:
        UserError: the YAML cannot be read, keys are missing or unknown, values have the wrong type, the axis or a task
            is unknown, `biovfm probe` refuses its options, or the properties file cannot be used.
    """
    path = Path(path)
    content = read_yaml(path, remedy=REMEDY)
    if unknown := [str(key) for key in content if key not in KEYS]:
        raise UserError(f"{path}: unknown key {', '.join(unknown)}; known are: {', '.join(KEYS)}")
    runs = _runs(path, content)
    probe = content.get("probe")
    if not isinstance(probe, dict) or "tasks" not in probe:
        raise UserError(f"{path}: probe must be a mapping that names tasks; {REMEDY}")
    launch = content.get("launch", ONE_PROCESS)
    if not isinstance(launch, list):
        raise UserError(f"{path}: launch must be a list of arguments for accelerate launch")
    described = content.get("properties")
    plan = StudyPlan(
        runs, [str(word) for word in launch], probe_values(path, probe),
        Path(resolve(path, str(described))) if described else None, str(content.get("axis", "given")),
        str(content.get("metric") or ""), _layers(path, content.get("layers") or {}, probe),
    )  # fmt: skip
    _check_data(path, plan)
    _check_axis(path, plan)
    _check_probe(path, plan)
    if plan.properties:
        read_properties(plan.properties)
    return plan


def _runs(path: Path, content: dict[str, Any]) -> list[StudyRun]:
    """A run for every combination of families, sizes and subsets."""
    families, sizes, subsets = (_named(path, content, key) for key in ("families", "sizes", "subsets"))
    shared = _mapping(path, "overrides", content.get("overrides") or {})
    return [
        _run(path, family, size, subset, shared, len(subsets) > 1)
        for family, size, subset in product(families.items(), sizes.items(), subsets.items())
    ]


def _named(path: Path, content: dict[str, Any], key: str) -> dict[str, Any]:
    entries = content.get(key)
    if not isinstance(entries, dict) or not entries:
        raise UserError(f"{path}: {key} must be a mapping with names as keys; {REMEDY}")
    for name in entries:
        if not NAME.fullmatch(str(name)):
            raise UserError(f"{path}: {key}: {name!r} cannot name a folder; use letters, digits, . _ + -")
    return {str(name): value for name, value in entries.items()}


def _mapping(path: Path, what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{path}: {what} must map config keys to values")
    return {str(key): item for key, item in value.items()}


def _run(path: Path, family, size, subset, shared: dict[str, Any], named_subset: bool) -> StudyRun:
    (family_name, recipe), (size_name, change), (subset_name, data) = family, size, subset
    recipe = _mapping(path, f"families: {family_name}", recipe)
    objective, config = recipe.pop("objective", ""), recipe.pop("config", None)
    if not isinstance(objective, str) or not isinstance(config, str):
        raise UserError(f"{path}: families: {family_name} needs a config (a file or a shipped name), and may name its "
                        "objective")  # fmt: skip
    if not isinstance(data, str):
        raise UserError(f"{path}: subsets: {subset_name} must be a dataset folder, Hub id or folder of images")
    return StudyRun(
        name="_".join([family_name, size_name] + ([subset_name] if named_subset else [])),
        objective=objective,
        config=resolve_config(path, config),
        data=resolve(path, data),
        overrides={**shared, **recipe, **_mapping(path, f"sizes: {size_name}", change or {})},
        plan=path,
        family=family_name,
        size=size_name,
        subset=subset_name if named_subset else "",
    )


def _layers(path: Path, layers: Any, probe: dict[str, Any]) -> dict[str, Any]:
    """The options of `biovfm analyse` for the study's models, checked."""
    if not layers:
        return {}
    if not isinstance(layers, dict) or "task" not in layers:
        raise UserError(f"{path}: layers must be a mapping that names a task; {REMEDY}")
    places = {"task": resolve_tasks(path, layers["task"])[0], "data": resolve(path, str(probe.get("data", ".")))}
    given = {**layers, **places}
    known = [item.name for item in fields(AnalyseOptions) if item.name not in ("models", "out", "images")]
    if unknown := [key for key in given if key not in known]:
        raise UserError(f"{path}: layers: unknown option {unknown[0]}; known are: {', '.join(known)}")
    try:
        AnalyseOptions(models=("any",), out=Path("OUT"), **given)
    except UserError as error:
        raise UserError(f"{path}: layers: {error}") from error
    return given


def _check_data(path: Path, plan: StudyPlan) -> None:
    for data in dict.fromkeys(run.data for run in plan.runs):
        try:
            check_data(data)
        except UserError as error:
            raise UserError(f"{path}: subsets: {error}") from error


def _check_axis(path: Path, plan: StudyPlan) -> None:
    if plan.axis not in AXES:
        raise UserError(f"{path}: unknown axis {plan.axis!r}; choose one of: {', '.join(AXES)}")
    counted = counted_objectives() if plan.axis == "compute" else []
    for run in plan.runs if plan.axis == "compute" else ():
        if run.objective not in counted:
            what = f"the objective {run.objective!r}" if run.objective else "no named objective"
            raise UserError(f"{path}: families: {run.family} has {what}, but axis compute counts only "
                            f"{' and '.join(counted)}; give one of these, or another axis")  # fmt: skip


def _check_probe(path: Path, plan: StudyPlan) -> None:
    for key in plan.probe:
        if key in NOT_OURS:
            raise UserError(f"{path}: probe: {key} is set by the study itself; remove it")
    known = [item.name for item in fields(options_class()) if item.name not in NOT_OURS]
    if unknown := [key for key in plan.probe if key not in known]:
        raise UserError(f"{path}: probe: unknown option {unknown[0]}; known are: {', '.join(known)}")
    try:
        options = probe_options(plan.runs, plan.probe, Path("OUT"))
        resolve_names(options.tasks)
    except UserError as error:
        raise UserError(f"{path}: probe: {error}") from error
    if plan.metric and find_metric(plan.metric) is None:
        raise UserError(
            f"{path}: metric: no metric is called {plan.metric}; table.md of a results folder has the names"
        )
