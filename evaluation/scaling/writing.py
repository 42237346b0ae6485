"""What an analysis leaves: tables, figures and summary.json in a folder, and lines for the screen."""

import json
import sys
from pathlib import Path

from biovfm_hf.files import write_text

from . import analysis, figures, tables
from .analysis import Analysis
from .tables import Study


def write_study(
    study: Study,
    properties: dict[str, dict[str, float]],
    out: Path,
    axis: str = "given",
    with_published: bool = False,
    seed: int = 0,
) -> list[str]:
    """Analyse a study and write its tables and figures to `out`. Returns the lines for the screen.

    Args:
        study: from `tables.read_points`.
        properties: from `tables.read_properties`, may be empty.
        out: folder, made if needed.
        axis: one of `model_size.AXES`.
        with_published: draw the paper's results beside the study's, as far as axis and tasks agree.
        seed: of bootstrap and permutations.

    Raises:
        UserError: the points allow no fit.
    """
    found = analysis.analyse(study, properties, axis, seed)
    found.notes += found.published.notes if with_published else []
    out.mkdir(parents=True, exist_ok=True)
    tables.write_rows(out / "slopes.csv", analysis.SLOPE_COLUMNS, analysis.slope_rows(found))
    tables.write_rows(out / "correlations.csv", analysis.CORRELATION_COLUMNS, analysis.correlation_rows(found))
    columns = ("family", "task", "slope", "predicted", "mean_of_others")
    tables.write_rows(out / "predictions.csv", columns, analysis.prediction_rows(found))
    tables.write_rows(out / "gaps.csv", ("family_a", "family_b", "x", "task", "gap"), [vars(g) for g in found.gaps])
    summary = {**analysis.summary(found), "seed": seed}
    write_text(out / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    drawn = figures.write_figures(found, out, with_published)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    return [*_lines(found), "", f"tables and {len(drawn)} figures are in {out}"]


def _lines(found: Analysis) -> list[str]:
    first = 2 + max(20, *map(len, found.slopes))
    second = 2 + max(16, *map(len, found.tasks))
    lines = [f"x: {found.axis_label}", "", f"{'family':<{first}}{'task':<{second}}{'slope a':>9}   95 % interval"]
    for series, slopes in found.slopes.items():
        for task, a in slopes.items():
            fit = found.fits.get(series, {}).get(task)
            interval = _interval(fit.law.a_low, fit.law.a_high) if fit else ""
            lines.append(f"{series:<{first}}{task:<{second}}{a:>9.4f}   {interval}")
        if series in found.means:
            law = found.means[series].law
            lines.append(
                f"{series:<{first}}{'mean curve':<{second}}{law.a:>9.4f}   {_interval(law.a_low, law.a_high)}"
            )
    for series, held in found.correlations.items():
        lines += ["", f"{series}: Pearson correlation of slope with"]
        lines += [f"  {n:<14}{c.pearson:>6.2f}  {_interval(c.low, c.high, 2)}  p {c.p:.3f}" for n, c in held.items()]
    lines += [f"{series}: {prediction.statement}" for series, prediction in found.predictions.items()]
    return lines


def _interval(low: float, high: float, digits: int = 4) -> str:
    return f"{low:.{digits}f} to {high:.{digits}f}" if low == low else "unknown"
