"""What distilling lost: a student's paired differences from its teacher on each task, and the speed of both."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from biovfm_hf.front_door import check_encoder
from biovfm_hf.results.record import Record

from ..inputs.results import Comparison, is_main, load_comparisons
from ..inputs.speed import Speed, measure_speed
from .base import TEACHER, BaseModel
from .options import CardOptions
from .records import matching_records


@dataclass(frozen=True)
class Distillation:
    """A student's teacher by name. `differences` are student minus teacher; `speed` is None if it was not measured."""

    teacher: str
    differences: tuple[Comparison, ...] = ()
    speed: Speed | None = None


def find_distillation(
    options: CardOptions, bases: Sequence[BaseModel], student_records: list[Record], records: list[Record]
) -> Distillation | None:
    """The facts of a distillation; None for a model that was not distilled.

    Args:
        options: of the card; without `teacher` nothing is measured.
        bases: the models that it was made from.
        student_records: the student's records.
        records: all of the results folder.

    Raises:
        UserError: the teacher cannot be loaded, or the results have no record of it.
    """
    taught = " and ".join(base.name for base in bases if base.role == TEACHER)
    if options.teacher is None:
        return Distillation(taught) if taught else None
    label, equals, model = options.teacher.partition("=")
    known_as, source = (label, model) if equals else (None, options.teacher)
    check_encoder(source)
    differences: tuple[Comparison, ...] = ()
    if options.results:
        teacher_records = matching_records(records, Path(source), known_as, "--teacher NAME=MODEL")
        differences = _differences(student_records, teacher_records, load_comparisons(options.results))
    return Distillation(taught or Path(source).name, differences, measure_speed((str(options.model_dir), source)))


def _differences(
    student_records: list[Record], teacher_records: list[Record], rows: list[Comparison]
) -> tuple[Comparison, ...]:
    """The comparisons of both models in their tasks' main metrics, turned to student minus teacher."""
    student, teacher = student_records[0].model, teacher_records[0].model
    pairs = {(student, teacher), (teacher, student)}
    chosen = [row for row in rows if (row.model_a, row.model_b) in pairs and is_main(row, student_records)]
    return tuple(row if row.model_a == student else _turned(row) for row in chosen)


def _turned(row: Comparison) -> Comparison:
    low, high = (None if bound is None else -bound for bound in (row.high, row.low))
    return replace(row, model_a=row.model_b, model_b=row.model_a, difference=-row.difference, low=low, high=high)
