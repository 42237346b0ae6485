"""The report's section on training runs: their curves laid over each other, and what the models were shown."""

from typing import Any

from ..inputs.run import RunSummary, group_of
from . import charts
from .material import Material
from .pictures import Picture

MAX_CHARTS = 24
GROUPS = {
    "loss": (
        "Losses",
        "What the optimiser lowers, over optimisation steps. A line is the mean of neighbours, a band their range.",
    ),
    "watch": ("Collapse diagnostics", "Quantities that show whether features still tell images apart."),
    "schedule": ("Schedules and gradients", "What was set for each step, and how large the gradient was."),
    "speed": ("Speed", "How fast the run went."),
}
NOTES = {
    "rankme": "Effective rank of the features (RankMe). Collapse shows as a fall towards 1.",
    "teacher_entropy": "Mean entropy of the teacher's targets. Near 0, every image gets a hard, perhaps the same, "
    "prototype; near the logarithm of the number of prototypes, targets say nothing.",
    "knn": "Balanced accuracy of nearest neighbours on a small labelled task, held-out images.",
    "grad_norm": "Norm of the gradient before clipping.",
    "koleo_loss": "Spread of the class tokens on the sphere; rises when they crowd together.",
}
GAP = "How far the cross-entropy is below uniform guessing, in nats; at 0 the student learns nothing."


def training_section(material: Material) -> dict[str, Any] | None:
    """Charts by group, runs laid over each other, with the final values as a table, and each run's crop sheet."""
    runs = material.runs
    if not runs:
        return None
    names: list[str] = []
    for run in runs:
        names += [name for name in run.series if name not in names]
    groups = []
    for group, (title, text) in GROUPS.items():
        members = [name for name in names if group_of(name) == group][:MAX_CHARTS]
        members.sort(key=lambda name: (name != "loss", name != "rankme"))
        if members:
            groups.append({"title": title, "text": text, "charts": [_chart(name, runs) for name in members]})
    crops = [(run, _crops(run, material)) for run in runs if run.crops is not None]
    return {
        "runs": runs,
        "key": [(run.name, charts.style_of(index)) for index, run in enumerate(runs)] if len(runs) > 1 else [],
        "groups": groups,
        "crops": [(run.name, picture) for run, picture in crops if picture],
    }


def _chart(name: str, runs: list[RunSummary]) -> dict[str, Any]:
    lines = [
        charts.Line(run.name, run.series[name].steps, run.series[name].values)
        if name in run.series
        else charts.Line(run.name, [], [])
        for run in runs
    ]
    finals = [(run.name, run.series[name].last[1]) for run in runs if name in run.series]
    note = NOTES.get(name, GAP if name.endswith("_gap") else "")
    return {"name": name, "svg": charts.line_chart(name, lines), "finals": finals, "note": note}


def _crops(run: RunSummary, material: Material) -> Picture | None:
    if run.crops is None or material.withholds(run.provenance.private_sources, f"crops of {run.name}"):
        return None
    return material.store.add(run.crops, f"Sheet of augmented crops that the run {run.name} saw at its start", 1400)
