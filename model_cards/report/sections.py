"""The sections of a report: one entry each, with a template of its name in `templates/report/`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .dataset import dataset_section
from .evaluation import evaluation_section
from .findings import findings_section
from .material import Material
from .scaling import scaling_section
from .training import training_section


@dataclass(frozen=True)
class ReportSection:
    """A section of the page: the name of its template, its heading, and the template's variables.

    If `variables` returns None, the material has nothing for the section, which is left out. `folds`: a phone shows
    only the heading until it is touched.
    """

    name: str
    title: str
    variables: Callable[[Material], dict[str, Any] | None]
    folds: bool = True


def model_section(material: Material) -> dict[str, Any] | None:
    """Facts of each model folder."""
    if not material.models:
        return None
    return {"models": [{"summary": model, "compute": lines} for model, lines in material.models]}


SECTIONS = [
    ReportSection("findings", "Findings", findings_section, folds=False),
    ReportSection("evaluation", "Evaluation", evaluation_section),
    ReportSection("training", "Training", training_section),
    ReportSection("dataset", "Dataset", dataset_section),
    ReportSection("model", "Model", model_section),
    ReportSection("scaling", "Scaling", scaling_section),
]
