"""The points of a study: each model's size and its score on each task."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError
from biovfm_hf.flops import encoder_parameters
from biovfm_hf.results.record import Record

from ...results.table import metric_title
from ...statistics.kinds import DETECTION, SEGMENTATION
from ..scaling.model_size import known_sizes, sizes_of
from ..scaling.tables import Point
from .plan import StudyRun
from .pretraining import PretrainingRun, run_files


def points(runs: Sequence[StudyRun], records: list[Record], out: Path, metric: str = "") -> list[dict[str, Any]]:
    """Rows of the points file: a score with its interval, encoder parameters, images seen.

    A score of 0 has no logarithm and is left out.

    Args:
        runs: the study's runs, in the order of the study file.
        records: records of one method, with one seed or joined over seeds (`seeds.over_seeds`).
        out: the study's folder.
        metric: the metric of the score; by default the AUC in percent, or for tasks of masks or boxes Dice or AP from
            0 to 1.
    """
    rows = []
    for run in runs:
        parameters, images = model_facts(out, run)
        for record in records:
            score = _score(record, metric)
            if record.model != run.name or not score:
                continue
            row = {"family": run.family, "params_millions": parameters, "task": record.task, **score,
                   "images_millions": images}  # fmt: skip
            columns = {"subset": run.subset, "objective": run.objective}
            rows.append(row | {name: value for name, value in columns.items() if value})
    return rows


def _score(record: Record, metric: str) -> dict[str, Any]:
    """The columns of a point that come from a record; empty if the metric is missing or 0."""
    name = metric or {SEGMENTATION: "dice", DETECTION: "AP"}.get(record.kind, "auc")
    entry = record.metrics.get(name) or {}
    if not entry.get("value") or entry["value"] < 0:
        return {}
    whole = 100 if name == "auc" else 1
    ends = {end: None if entry.get(end) is None else max(whole * entry[end], 0.0) for end in ("low", "high")}
    value = whole * entry["value"]
    return {"auc": value, **ends} if name == "auc" else {"metric": metric_title(name), "score": value, **ends}


def model_facts(out: Path, run: PretrainingRun) -> tuple[float, float | None]:
    """Encoder parameters of a trained run and images it saw, both in millions."""
    from biovfm_hf.configuration_biovfm import BioVFMConfig

    files = run_files(out, run)
    parameters = encoder_parameters(BioVFMConfig.from_pretrained(files.model)) / 1e6
    lines = (files.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    seen = [json.loads(line).get("images") for line in lines if line.strip()]
    known = [images for images in seen if isinstance(images, (int, float))]
    return parameters, max(known) / 1e6 if known else None


def check_size(axis: str, out: Path, run: StudyRun) -> None:
    """Raise a UserError if a trained run's size has no place on the axis."""
    if axis == "given":
        return
    try:
        sizes_of(Point(run.family, model_facts(out, run)[0], "", math.nan), known_sizes())
    except UserError as error:
        raise UserError(f"{run.name}: axis {axis} counts named sizes only ({error}); set axis: given in the "
                        "study file and run the same command again") from error  # fmt: skip
