"""Writes an analysis to a folder: tables, figures and summary.json."""

import json
from pathlib import Path

from biovfm_hf.writing.files import write_text

from . import figures, rows, tables
from .analysis import ScalingAnalysis


def write_study(results: ScalingAnalysis, out: Path, with_published: bool = False) -> None:
    """Write the tables and figures of an analysis to the folder `out`, which is created if needed.

    `with_published` draws the paper's results beside the study's where axis and tasks agree, and adds notes on what
    was left out.
    """
    results.notes += results.published.notes if with_published else []
    out.mkdir(parents=True, exist_ok=True)
    tables.write_rows(out / "slopes.csv", rows.SLOPE_COLUMNS, rows.slope_rows(results))
    tables.write_rows(out / "correlations.csv", rows.CORRELATION_COLUMNS, rows.correlation_rows(results))
    columns = ("family", "task", "slope", "predicted", "mean_of_others")
    tables.write_rows(out / "predictions.csv", columns, rows.prediction_rows(results))
    tables.write_rows(out / "gaps.csv", ("family_a", "family_b", "x", "task", "gap"), [vars(g) for g in results.gaps])
    summary = {**rows.summary(results), "seed": results.seed}
    write_text(out / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    figures.write_figures(results, out, with_published)
