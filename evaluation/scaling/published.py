"""The BioVFM paper's own numbers (`published/README.md` tells where each is from), to be shown beside a user's."""

import csv
from pathlib import Path

FOLDER = Path(__file__).parent / "published"
SOURCE = "BioVFM-21M, arXiv 2505.09329"


def rows(name: str) -> list[dict[str, str]]:
    """Rows of `published/NAME.csv` as they stand."""
    with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def slopes() -> dict[str, dict[str, float]]:
    """Published exponents: {family: {task: a}}."""
    found: dict[str, dict[str, float]] = {}
    for row in rows("slopes"):
        found.setdefault(row["family"], {})[row["task"]] = float(row["slope"])
    return found


def mean_slopes() -> dict[str, float]:
    """Published exponents of the mean curves: {family: a}."""
    return {row["family"]: float(row["slope"]) for row in rows("mean_slopes")}


def mean_curves() -> dict[str, list[tuple[float, float]]]:
    """Mean AUC by model size: {family: [(millions of parameters on the authors' axis, AUC in percent)]}."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows("mean_auc"):
        found.setdefault(row["family"], []).append((float(row["params_millions"]), float(row["auc"])))
    return found
