"""Finds the records of a model in a results folder."""

from pathlib import Path

from biovfm_hf.errors import UserError
from biovfm_hf.results.record import Record


def matching_records(
    records: list[Record], model: Path, known_as: str | None, option: str = "--known-as"
) -> list[Record]:
    """The records that belong to a model, by `known_as`, which `option` gives, or else by its path or name.

    Raises:
        UserError: there are none, or they are of several weights. A card never shows another model's numbers.
    """
    if known_as is not None:
        own_records = [record for record in records if record.model == known_as]
    else:
        own_records = [record for record in records if _same_model(record.model, model)]
    revisions = {record.revision for record in own_records}
    if len(revisions) > 1:
        raise UserError(
            f"{known_as or model}: the results are of several weights under this name "
            f"({', '.join(sorted(revisions))}); probe it again into a folder of its own"
        )
    if own_records:
        return own_records
    names = ", ".join(sorted({record.model for record in records})[:8])
    raise UserError(
        f"{known_as or model}: the results hold no record of this model, only of: {names}; "
        f"probe this model, or name its record with {option}"
    )


def _same_model(name: str, model: Path) -> bool:
    if Path(name).resolve() == model.resolve():
        return True
    ending = model.resolve().parts
    parts = Path(name).parts
    return bool(parts) and not Path(name).is_absolute() and parts == ending[-len(parts) :]
