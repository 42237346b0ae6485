"""The report's section on scaling studies: slopes with intervals, correlations and figures."""

from pathlib import Path
from typing import Any

from biovfm_hf.reading.documents import finite, read_json
from biovfm_hf.results.record import Interval

from ..inputs.files import read_csv
from .figures import figures
from .material import Material


def scaling_section(material: Material) -> dict[str, Any] | None:
    """One part for each study."""
    if not material.scalings:
        return None
    return {"scalings": [scaling_facts(folder, material) for folder in material.scalings]}


def scaling_facts(folder: Path, material: Material) -> dict[str, Any]:
    """Slopes per family and task with their intervals, correlations, remarks, and the study's figures.

    It reads `summary.json`, and `slopes.csv` and `correlations.csv` if they exist.

    Raises:
        UserError: a file is unreadable.
    """
    summary = read_json(folder / "summary.json")
    summary = summary if isinstance(summary, dict) else {}
    means, bounds, forms = (_mapping(summary, name) for name in ("mean_slopes", "mean_slope_intervals", "form"))
    slopes = {family: row for family, row in _mapping(summary, "slopes").items() if isinstance(row, dict)}
    families = list(slopes)[:12]
    tasks = list(dict.fromkeys(str(task) for family in families for task in slopes[family]))[:200]
    spans = {
        (row.get("family"), row.get("task")): (_number(row.get("low")), _number(row.get("high")))
        for row in read_csv(folder / "slopes.csv")
    }
    cells = [(task, [_slope(slopes[f].get(task), spans.get((f, task))) for f in families]) for task in tasks]
    rows = read_csv(folder / "correlations.csv", 400) if (folder / "correlations.csv").is_file() else []
    notes = summary.get("notes")
    return {
        "name": folder.resolve().name,
        "families": families,
        "tasks": cells,
        "means": [_slope(means.get(family), bounds.get(family)) for family in families],
        "notes": [f"{family}: {text}" for family, text in forms.items()][:12]
        + ([str(note) for note in notes][:20] if isinstance(notes, list) else []),
        "correlation_header": list(rows[0])[:9] if rows else [],
        "correlations": [[_rounded(value) for value in list(row.values())[:9]] for row in rows],
        "figures": figures([folder], material),
    }


def _mapping(summary: dict[str, Any], name: str) -> dict[str, Any]:
    value = summary.get(name)
    return {str(key): entry for key, entry in value.items()} if isinstance(value, dict) else {}


def _slope(value: Any, span: Any) -> Interval | None:
    point = finite(value)
    if point is None:
        return None
    low, high = (
        (finite(bound) for bound in span) if isinstance(span, list | tuple) and len(span) == 2 else (None, None)
    )
    return Interval(point, low, high)


def _number(text: str | None) -> float | None:
    try:
        return finite(float(text or ""))
    except ValueError:
        return None


def _rounded(text: str) -> str:
    value = _number(text)
    return text if value is None or value == int(value) else f"{value:.3f}"
