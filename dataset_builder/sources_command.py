"""The `biovfm sources` command: describes the 61 sources, how to obtain them, and which are on this disk."""

import json
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from biovfm_hf.decoding.dicom import DICOM_SUFFIXES
from biovfm_hf.errors import UserError
from biovfm_hf.options import CommandParser, argument, check_options, option, parse_options, required

from .catalog.downloading import download_source
from .catalog.load import load_catalog
from .catalog.records import load_source
from .catalog.source import NOT_ESTABLISHED, Source, TableRule
from .item import Item
from .plan.listing import list_items
from .plan.status import on_disk, sources_status

EXAMPLES = """examples:
  biovfm sources list                              every source, and whether it is in ./raw
  biovfm sources show rossa                        everything known of one source, and how to obtain it
  biovfm sources show my_hospital.yaml             the same for a record of your own
  biovfm sources status --raw /data/raw            what of each source is there, files counted
  biovfm sources download hrf --raw /data/raw      fetch an open source (its terms are shown first)

A source lies in RAW/ID as it was released: archives (ZIP, TAR) may stay packed.
"""
_WAYS = {
    "registration": "Register on the homepage and accept its agreement; the files can be fetched after that.",
    "request": "Ask the authors for access on the homepage (a signed form or agreement); they answer with a link.",
    "credentialed": "Become a credentialed user of PhysioNet (identity check, training course, signed agreement).",
    "kaggle": "With a Kaggle account that has accepted the rules: kaggle competitions download -c NAME, or "
    "kaggle datasets download NAME.",
}


_RECORD = "id of a source, or path of a record (YAML)"
_RAW = "folder of the raw sources"
_JSON = "print JSON instead of text"


@dataclass(frozen=True)
class _Options:
    """Options of one action; a wrong one raises UserError."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class ListOptions(_Options):
    """Options of `list`."""

    raw: Path = option(Path("raw"), _RAW, metavar="DIR")
    json: bool = option(False, _JSON)


@dataclass(frozen=True)
class ShowOptions(_Options):
    """Options of `show`."""

    id: str = argument(_RECORD)
    raw: Path = option(Path("raw"), _RAW, metavar="DIR")
    json: bool = option(False, _JSON)


@dataclass(frozen=True)
class StatusOptions(_Options):
    """Options of `status`; if `sources` is None, the whole catalogue."""

    raw: Path = required(_RAW, metavar="DIR")
    sources: tuple[str, ...] | None = option(
        None, "only these: ids or record paths (default: the whole catalogue)", metavar="A,B", commas=True
    )
    json: bool = option(False, _JSON)


@dataclass(frozen=True)
class DownloadOptions(_Options):
    """Options of `download`."""

    id: str = argument(_RECORD)
    raw: Path = required(_RAW, metavar="DIR")
    accept_terms: bool = option(False, "you have read and accept the source's terms")


def main(argv: list[str]) -> int:
    """Run `biovfm sources`; returns the exit status."""
    parser = CommandParser(
        prog="biovfm sources",
        description="The catalogue of the 61 public sources of BioVFM-21M, how to obtain them, and which are here.",
        epilog=EXAMPLES,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (_, _, summary) in _ACTIONS.items():
        actions.add_parser(name, help=summary, add_help=False)  # each action has a parser of its own
    name = parser.parse_args(argv[:1]).action
    kind, act, summary = _ACTIONS[name]
    act(parse_options(CommandParser(prog=f"biovfm sources {name}", description=summary), kind, argv[1:]))
    return 0


def list_sources(raw: str | Path = "raw") -> list[dict[str, Any]]:
    """The catalogue: id, modality, images in the paper (None: not established), access, whether it is in `raw`."""
    return [
        {
            "id": source.id,
            "modality": list(source.modalities),
            "images": source.images_in_paper,
            "access": source.access,
            "on_disk": on_disk(source, Path(raw)),
            "in_paper": source.in_paper,
        }
        for source in load_catalog()
    ]


def show_source(id: str | Path) -> dict[str, Any]:
    """All fields of the record of a catalogue id, or of a YAML file; and the steps to obtain the source.

    Raises:
        UserError: there is no such record, or it is wrong.
    """
    source = load_source(id)
    return {**asdict(source), "how_to_obtain": _steps(source)}


def download(id: str | Path, raw: str | Path, accept_terms: bool = False) -> list[Path]:
    """Fetch a source that has open direct links into `raw`; called again, it resumes.

    Returns:
        The files.

    Raises:
        UserError: it has no open link, its terms are not accepted, or the transfer fails.
    """
    source = load_source(id)
    if not source.files:
        raise UserError(f"{source.id} has no open direct link; for the steps see: biovfm sources show {id}")
    if not accept_terms:
        raise UserError(f"the terms of {source.id} are not accepted; read them, then add --accept-terms")
    return list(download_source(source, Path(raw)))


def _list(options: ListOptions) -> None:
    rows = list_sources(options.raw)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    _table(
        ("source", "modality", "images", "access", "on disk"),
        [
            (
                str(row["id"]) + ("" if row["in_paper"] else " (outside the paper)"),
                _modalities(source),
                NOT_ESTABLISHED if source.images_in_paper is None else f"{source.images_in_paper:,}",
                source.access or NOT_ESTABLISHED,
                "yes" if row["on_disk"] else "no",
            )
            for row, source in zip(rows, load_catalog(), strict=True)
        ],
        right=(2,),
    )
    paper = [source for source in load_catalog() if source.in_paper]
    total = sum(source.images_in_paper or 0 for source in paper)
    present = Counter(row["in_paper"] for row in rows if row["on_disk"])
    print(
        f"\n{len(paper)} sources of the paper, {total:,} images; {present[True]} of them on disk in {options.raw}"
        + (f", and {present[False]} outside the paper" if present[False] else "")
    )


def _modalities(source: Source) -> str:
    return source.modality or f"{source.modalities[0]} and {len(source.modalities) - 1} more"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]], right: tuple[int, ...] = ()) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    for row in (head, tuple("-" * width for width in widths), *rows):
        cells = [
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _show(options: ShowOptions) -> None:
    if options.json:
        print(json.dumps(show_source(options.id), indent=1, ensure_ascii=False))
        return
    source = load_source(options.id)
    print(source.name)
    own = Path(options.id).is_file()
    if not own:
        print("one of the 61 sources of BioVFM-21M" if source.in_paper else "outside the 61 sources of BioVFM-21M")
    print()
    for label, value in _own_facts(source) if own else _facts(source):
        _field(label, value)
    if own:
        print(f"\nIn {options.raw / source.folder}")
        for line in _matches(source, options.raw):
            print(f"  {line}")
        return
    for overlap in source.overlaps:
        doubt = "" if overlap.verified else " (unverified)"
        part = f"; paths matching {overlap.part}" if overlap.part else ""
        _field("overlap", f"{overlap.relation} {overlap.benchmark or overlap.source}{doubt}: {overlap.note}{part}")
    _field("overlaps, in words", source.overlap_note)
    _field("evidence", "\n".join(source.evidence) or None)
    _field("notes", source.notes or "none")
    print("\nHow to obtain it")
    _print_steps(source)


def _matches(source: Source, raw: Path) -> list[str]:
    """For a user's own record: how many files it selects, why others are left out, and an example of each kind."""
    if not on_disk(source, raw):
        return [f"nothing is there; name the folder that holds {source.folder}/ with --raw"]
    items = list(list_items(source, raw))
    taken = [item for item in items if item.excluded is None]
    reasons = Counter(item.excluded for item in items if item.excluded is not None)
    lines = [f"{len(taken):,} files are selected for training, {len(items) - len(taken):,} are left out"]
    lines += [f"left out: {count:,} {reason}" for reason, count in reasons.most_common()]
    for kind, count in Counter(item.kind for item in taken).items():
        lines += [f"{count:,} of kind {kind}", f"  sample: {_sample(next(i for i in taken if i.kind == kind))}"]
    return [*lines, *_subjects(taken), *_lone_slices(taken)]


def _sample(item: Item) -> str:
    member = f", member {item.member}" if item.member else ""
    about = ", ".join(word or NOT_ESTABLISHED for word in (item.modality, item.anatomy))
    subject = "not stated, so each file counts as its own" if item.subject is None else item.subject
    return f"{item.path}{member}: {about}, split train, subject {subject}"


def _subjects(taken: list[Item]) -> list[str]:
    """How many subjects there are, and which files the record's rule gives none."""
    subjects = {item.subject for item in taken} - {None}
    without = [item.path for item in taken if item.subject is None]
    if not subjects:
        return []
    lines = [f"{len(subjects):,} subjects"]
    if without:
        lines.append(f"no subject: {len(without):,} files, such as {without[0]}; each counts as its own")
    return lines


def _lone_slices(taken: list[Item]) -> list[str]:
    """Advice for DICOM files that are taken one by one, several to a folder."""
    folders = Counter(
        str(PurePosixPath(item.path).parent)
        for item in taken
        if item.kind == "image" and PurePosixPath(item.path).suffix.lower() in ("", *DICOM_SUFFIXES)
    )
    if max(folders.values(), default=0) < 2:
        return []
    return [
        f"{folders.total():,} DICOM files are pictures of their own; with kind: dicom_series the slices of a series "
        "are one volume"
    ]


def _own_facts(source: Source) -> list[tuple[str, Any]]:
    """What a user's own record states; the rules as they are written there."""
    facts = [fact for fact in _facts(source) if fact[0] not in ("raw layout", "training part", "subject")]
    return [
        *(fact for fact in facts if fact[1]),
        ("training part", _rule(source.train) or f"{NOT_ESTABLISHED}: no file of this source is selected"),
        ("subject", _rule(source.subject) or "not stated"),
    ]


def _rule(rule: str | TableRule | None) -> str | None:
    if isinstance(rule, TableRule):
        return f"by the list {rule.table}"
    return "all" if rule == "all" else rule and f"by the path: {rule.removeprefix('path:')}"


def _facts(source: Source) -> list[tuple[str, Any]]:
    train = source.training_part
    if source.train is None:
        train = f"{NOT_ESTABLISHED}: no file of this source is selected" + (f" ({train})" if train else "")
    return [
        ("id", source.id),
        ("modality", ", ".join(source.modalities)),
        ("anatomy", ", ".join(source.anatomies)),
        ("dimensionality", source.dimensionality),
        ("year", source.year),
        ("images in the paper", source.images_in_paper),
        ("files selected", source.expected_items),
        ("homepage", source.homepage),
        ("access", source.access),
        ("licence", source.licence),
        ("terms", source.terms),
        ("file formats", ", ".join(source.file_formats) if source.file_formats else None),
        ("raw layout", source.layout if source.layout_established else f"{NOT_ESTABLISHED}\n{source.layout or ''}"),
        ("patterns read", "\n".join(f"{rule.pattern} ({rule.kind})" for rule in source.items) or None),
        ("splits", source.splits),
        ("training part", train),
        ("subject", source.subject_note),
        ("citation", source.citation),
    ]


def _field(label: str, value: Any) -> None:
    text = (
        NOT_ESTABLISHED
        if value is None
        else f"{value:,}"
        if isinstance(value, int) and label != "year"
        else str(value)
    )
    lines = [
        piece
        for line in text.rstrip().split("\n")
        for piece in (textwrap.wrap(line, 88, break_long_words=False) if "  " not in line else [line]) or [""]
    ]
    for number, line in enumerate(lines):
        print(f"{label if number == 0 else '':<20} {line}".rstrip())


def _steps(source: Source) -> list[str]:
    """The steps that bring the source into the raw folder."""
    licence = source.licence or f"{NOT_ESTABLISHED}; read them on the homepage"
    steps = [f"Read the terms: {licence}. Homepage: {source.homepage or NOT_ESTABLISHED}."]
    if source.access in _WAYS:
        steps.append(_WAYS[source.access])
    if source.files:
        steps.append(f"Run: biovfm sources download {source.id} --raw RAW")
    steps.append(f"By hand: {source.obtain or NOT_ESTABLISHED}.")
    steps.append(
        f"Put the release into RAW/{source.folder}; ZIP and TAR archives may stay packed, RAR and split ones may not."
    )
    if not source.layout_established:
        steps.append("The raw layout is not established, so the build skips this source and says so.")
    else:
        steps.append(f"Check: biovfm sources status --raw RAW --sources {source.id}")
    return steps


def _print_steps(source: Source) -> None:
    for number, step in enumerate(_steps(source), 1):
        print(textwrap.fill(step, 110, initial_indent=f"  {number}. ", subsequent_indent="     "))


def _status(options: StatusOptions) -> None:
    rows = sources_status(options.raw, options.sources)
    if options.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    _table(
        ("source", "state", "selected", "expected", "excluded", "most frequent reason"),
        [
            (
                row["id"],
                row["state"],
                f"{row['selected']:,}",
                "?" if row["expected"] is None else f"{row['expected']:,}",
                f"{sum(row['excluded'].values()):,}",
                max(row["excluded"], key=row["excluded"].get, default=""),
            )
            for row in rows
        ],
        right=(2, 3, 4),
    )
    for row in rows:
        for table in row["lists_missing"]:
            print(f"{row['id']}: the list {table} is missing")
    counts = Counter(row["state"] for row in rows)
    print("\n" + ", ".join(f"{count} {state}" for state, count in counts.items()))


def _download(options: DownloadOptions) -> None:
    source = load_source(options.id)
    if not source.files:
        _print_steps(source)
        raise UserError(f"{source.id} has no open direct link; follow the steps above")
    print(f"{source.name}\n")
    _field("licence", source.licence)
    _field("terms", source.terms)
    _field("homepage", source.homepage)
    _field("citation", source.citation)
    for entry in source.files:
        _field("file", f"{entry.name} from {entry.url}")
    for file in download(options.id, options.raw, options.accept_terms or _accepts_terms()):
        print(file)
    print(f"next: biovfm sources status --raw {options.raw} --sources {source.id}")


def _accepts_terms() -> bool:
    if not sys.stdin.isatty():
        return False
    return input("\nDo you accept the terms of this source? [y/N] ").strip().lower() in ("y", "yes")


_ACTIONS: dict[str, tuple[type[Any], Callable[[Any], None], str]] = {
    "list": (ListOptions, _list, "a table of all sources"),
    "show": (ShowOptions, _show, "everything about one source, and how to obtain it"),
    "status": (StatusOptions, _status, "what of each source is on disk, files counted"),
    "download": (DownloadOptions, _download, "fetch a source that has open direct links; run again to resume"),
}
