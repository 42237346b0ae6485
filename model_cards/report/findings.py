"""The opening of a report: which differences are real, and what to do next, in sentences and one picture."""

from typing import Any

from .. import formats
from ..inputs.results import Comparison, is_main, leaks_of, warnings_of
from . import charts
from .evaluation import shortened
from .material import Material

MAX_SENTENCES = 6
MAX_BARS = 14


def findings_section(material: Material) -> dict[str, Any] | None:
    """Sentences on real differences and on the next step, and a picture of the differences."""
    if not material.records:
        return None
    models = list(dict.fromkeys(record.model for record in material.records))
    names = dict(zip(models, shortened(models), strict=True))
    leaks = leaks_of(material.records)
    rows = [row for row in material.comparisons if is_main(row, material.records) and row.p_holm is not None]
    rows.sort(key=lambda row: (not row.is_real, -abs(row.difference)))
    return {
        "leaks": [_leak(text, tasks) for text, tasks in warnings_of(material.records).items() if text in leaks],
        "sentences": _sentences(rows, names),
        "next_steps": _next_steps(material, rows),
        "picture": charts.difference_chart([_bar(row, names) for row in rows[:MAX_BARS]]) if rows else "",
        "not_drawn": max(0, len(rows) - MAX_BARS),
    }


def _leak(text: str, tasks: list[str]) -> str:
    others = len(tasks) - MAX_SENTENCES
    names = ", ".join(tasks[:MAX_SENTENCES]) + (f" and {others} more" if others > 0 else "")
    return f"Do not trust the scores on {names} yet: {text}."


def _sentences(rows: list[Comparison], names: dict[str, str]) -> list[str]:
    real = [row for row in rows if row.is_real]
    sentences = [_real(row, names) for row in real[:MAX_SENTENCES]]
    if len(real) > MAX_SENTENCES:
        sentences.append(f"{len(real) - MAX_SENTENCES} more differences are real; the tables below have them.")
    unclear = len(rows) - len(real)
    if unclear and not real:
        sentences.append(f"No difference between the models is shown: {_comparisons(unclear)} could be chance.")
    elif unclear:
        others = "The other comparison shows" if unclear == 1 else f"The other {unclear} comparisons show"
        sentences.append(f"{others} no difference.")
    return sentences


def _comparisons(count: int) -> str:
    return "1 comparison" if count == 1 else f"{count} comparisons"


def _real(row: Comparison, names: dict[str, str]) -> str:
    a, b = names.get(row.model_a, row.model_a), names.get(row.model_b, row.model_b)
    better, worse = (a, b) if row.favours_a else (b, a)
    bounds = [abs(bound) for bound in (row.low, row.high) if bound is not None]
    span = f" (95% interval {min(bounds):.3f} to {max(bounds):.3f})" if len(bounds) == 2 else ""
    p = formats.p_value(row.p_holm)
    significance = f"p\u00a0{p}" if p.startswith("<") else f"p\u00a0=\u00a0{p}"
    return (
        f"{better} is better than {worse} on {row.task} by {abs(row.difference):.3f} {row.title}{span}"
        f", {row.method}, {significance} after adjustment."
    )


def _next_steps(material: Material, rows: list[Comparison]) -> list[str]:
    steps = []
    models = {record.model for record in material.records}
    if len(models) == 1:
        steps.append("Only one model was scored. To judge it, probe another one into the same folder.")
    elif not rows:
        steps.append("The models were not compared on the same test cases. Probe them in one run of biovfm probe.")
    unclear = [row for row in rows if not row.is_real and row.low is not None and row.high is not None]
    if unclear:
        steps.append(_telling_apart(unclear, "the models" if len(unclear) == len(rows) else "the others"))
    if len({seed for record in material.records for seed in record.joined or (record.seed,) if seed is not None}) == 1:
        steps.append("All scores are of one seed. Others (biovfm probe --seed 0,1,2) show how much of them is luck.")
    return steps


def _telling_apart(unclear: list[Comparison], models: str) -> str:
    widest = max(unclear, key=_width)
    if not _width(widest):
        return f"On {widest.task} {models} score the same on every resample. A harder task would tell them apart."
    return (
        f"To tell {models} apart takes more test cases: on {widest.task} the interval of the difference is "
        f"{_width(widest):.3f} wide."
    )


def _width(row: Comparison) -> float:
    return float(row.high or 0) - float(row.low or 0)


def _bar(row: Comparison, names: dict[str, str]) -> charts.Difference:
    """The better model minus the other, so that all differences of a metric lie on one side."""
    a, b = names.get(row.model_a, row.model_a), names.get(row.model_b, row.model_b)
    value, low, high = row.difference, row.low, row.high
    if not row.favours_a:
        a, b, value = b, a, -value
        low, high = (None if bound is None else -bound for bound in (high, low))
    label = f"{a} − {b}, {row.task}, {row.method}, {row.title}"
    return charts.Difference(label, value, low, high, row.is_real)
