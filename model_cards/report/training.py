"""The report's section on training runs: their curves in common charts, and samples of the models' input."""

from pathlib import Path
from typing import Any

from ..inputs.run import RunSummary
from . import charts
from .material import Material
from .pictures import Picture
from .reconstructions import reconstructions

MAX_CHARTS = 24
MAX_SETTINGS = 400
PLACES = ("data.path", "data.selection", "watch.task")  # folders of the machine, not for readers
GROUPS = {
    "loss": (
        "Losses",
        "The value that the optimiser minimises, by step. A line is the mean of neighbours, a band their range.",
    ),
    "watch": ("Collapse diagnostics", "Quantities that show whether features still distinguish images."),
    "schedule": ("Schedules and gradients", "Scheduled values at each step, and the norm of the gradient."),
    "speed": ("Speed", "How fast the run went."),
}


def training_section(material: Material) -> dict[str, Any] | None:
    """Charts by group with all runs together, the final values as a table, and each run's crop sheet."""
    runs = material.runs
    if not runs:
        return None
    named: dict[str, str] = {}  # series -> group; of runs that disagree, the first decides
    for run in runs:
        named = {name: run.group_of(name) for name in run.series} | named
    groups = []
    for group, (title, text) in GROUPS.items():
        members = [name for name, its_group in named.items() if its_group == group][:MAX_CHARTS]
        members.sort(key=lambda name: (name != "loss", name != "rankme"))
        if members:
            groups.append({"title": title, "text": text, "charts": [_chart(name, runs) for name in members]})
    crops = [(run.name, _crops(run, material)) for run in runs]
    reconstructed = [(run.name, reconstructions(run, material)) for run in runs]
    return {
        "runs": runs,
        "key": [(run.name, charts.style_of(index)) for index, run in enumerate(runs)] if len(runs) > 1 else [],
        "groups": groups,
        "crops": [(name, picture) for name, picture in crops if picture],
        "reconstructions": [(name, picture) for name, picture in reconstructed if picture],
        "settings": settings_rows(runs),
        "all_settings": [(run.name, list(flattened(run.config).items())[:MAX_SETTINGS]) for run in runs if run.config],
    }


def settings_rows(runs: list[RunSummary]) -> list[tuple[str, list[str]]]:
    """The main settings, as the runs state them: (title, its value in each run, "–" if a run has none).

    The objective, which a configuration names by its key, has its title.
    """
    settings = [flattened(run.config) | ({"method": run.objective.title} if run.objective else {}) for run in runs]
    stated = [run.objective.settings for run in runs if run.objective]
    titles = {key: title for one in stated for key, title in one.items()}
    rows = [(label, [one.get(key, "–") for one in settings]) for key, label in titles.items()]
    return [(label, values) for label, values in rows if any(value != "–" for value in values)]


def flattened(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """A run's configuration as one level, `optim.base_lr` and so on, values as text.

    Unset values and folders are left out; of the path of initial weights only the last part is shown.
    """
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= flattened(value, f"{name}.")
        elif name not in PLACES and value is not None and value not in ([], {}):
            flat[name] = _setting(value)
    return flat


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    text = str(value)
    return Path(text).name if "/" in text and Path(text).is_absolute() else text


def _chart(name: str, runs: list[RunSummary]) -> dict[str, Any]:
    lines = [
        charts.Line(run.name, run.series[name].steps, run.series[name].values)
        if name in run.series
        else charts.Line(run.name, [], [])
        for run in runs
    ]
    finals = [(run.name, run.series[name].last[1]) for run in runs if name in run.series]
    stated = (run.logged(name).note for run in runs if name in run.series)
    note = next(filter(None, stated), "")
    return {"name": name, "svg": charts.line_chart(name, lines), "finals": finals, "note": note}


def _crops(run: RunSummary, material: Material) -> Picture | None:
    if run.crops is None or material.withholds(run.provenance.private_sources, f"crops of {run.name}"):
        return None
    return material.store.add(run.crops, f"Sheet of augmented crops that the run {run.name} saw at its start", 1400)
