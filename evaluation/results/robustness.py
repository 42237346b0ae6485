"""The section of a table on errors on corrupted images, from the `robustness` of records."""

from operator import attrgetter
from typing import Any

from biovfm_hf.results.record import Record

from .records import grouped

HEAD = {"clean_error": "error, clean", "error": "error, corrupted", "added_error": "added", "be": "BE", "rbe": "rBE"}


def robustness_lines(records: list[Record]) -> list[str]:
    """The part of table.md: for each task and method, the errors of all models, then the error by corruption."""
    measured = [record for record in records if "robustness" in record.further]
    lines = ["## Corrupted images", "", "Errors are 1 - balanced accuracy, in percent, with 95 % intervals; lower is "
             "better. What corruption adds is a paired difference, in points. BE and rBE are percent of AlexNet's "
             "error, and of its rise (MedMNIST-C).", ""]  # fmt: skip
    for group in grouped(measured, attrgetter("task", "method", "protocol", "settings")):
        first = group[0]
        settings = first.without("corrupt").settings_text
        what = f"{first.task}, {first.method}, protocol {first.protocol}"
        lines += [f"### {what}{f' ({settings})' if settings else ''}", "", *_models(group), "", *_corruptions(group)]
        notes = dict.fromkeys(note for record in group for note in record.further["robustness"]["notes"])
        lines += ["", *(f"- {note}" for note in notes), *([""] if notes else [])]
    return lines if measured else []


def robustness_entries(record: Record) -> dict[str, dict[str, Any]]:
    """All figures of a record's robustness by their names in table.csv; empty if it has none."""
    part = record.further.get("robustness")
    if part is None:
        return {}
    entries = {"clean_error": part["clean_error"], "corrupted_error": part["error"]}
    entries |= {name: part[name] for name in ("added_error", "be", "rbe") if name in part}
    for corruption, row in part["corruptions"].items():
        entries |= {f"{what}_{corruption}": row[what] for what in ("error", "added_error", "be", "rbe") if what in row}
        entries |= {f"error_{corruption}_{k}": {"value": value} for k, value in enumerate(row["errors"], 1)}
    return entries


def _models(group: list[Record]) -> list[str]:
    shown = [name for name in HEAD if name in group[0].further["robustness"]]
    lines = ["| model | " + " | ".join(HEAD[name] for name in shown) + " | worst |", "|---" * (len(shown) + 2) + "|"]
    for record in group:
        part = record.further["robustness"]
        cells = " | ".join(_cell(part.get(name)) for name in shown)
        lines.append(f"| {_name(record, group)} | {cells} | {part['worst']} |")
    return lines


def _corruptions(group: list[Record]) -> list[str]:
    heads = " | ".join(_name(record, group) for record in group)
    lines = [f"| error, corrupted; added | {heads} |", "|---" * (len(group) + 1) + "|"]
    for corruption in group[0].further["robustness"]["corruptions"]:
        rows = [record.further["robustness"]["corruptions"].get(corruption) for record in group]
        lines.append(f"| {corruption} | " + " | ".join(map(_both, rows)) + " |")
    return lines


def _both(row: dict[str, Any] | None) -> str:
    """A corruption's error and what it adds to the clean error."""
    return "; ".join(filter(None, (_cell(row.get(what)) for what in ("error", "added_error")))) if row else ""


def _name(record: Record, group: list[Record]) -> str:
    """The model's name, with its seed if there are several."""
    seeds = {each.seed for each in group}
    return f"{record.model}, seed {record.seed}" if len(seeds) > 1 else record.model


def _cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    text = f"{100 * entry['value']:.2f}"
    if entry.get("low") is None or entry.get("high") is None:
        return text
    return f"{text} ({100 * entry['low']:.2f}, {100 * entry['high']:.2f})"
