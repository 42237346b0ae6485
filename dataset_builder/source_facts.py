"""What there is to tell of a source: its facts, the files that its record selects, and the steps to obtain it."""

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from biovfm_hf.decoding.dicom import DICOM_SUFFIXES

from .catalog.source import NOT_ESTABLISHED, Source, TableRule
from .item import Item
from .plan.listing import list_items
from .plan.status import on_disk

_WAYS = {
    "registration": "Register on the homepage and accept its agreement; the files can be fetched after that.",
    "request": "Ask the authors for access on the homepage (a signed form or agreement); they answer with a link.",
    "credentialed": "Become a credentialed user of PhysioNet (identity check, training course, signed agreement).",
    "kaggle": "With a Kaggle account that has accepted the rules: kaggle competitions download -c NAME, or "
    "kaggle datasets download NAME.",
}


def selection_lines(source: Source, raw: Path) -> list[str]:
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


def own_facts(source: Source) -> list[tuple[str, Any]]:
    """What a user's own record states; the rules as they are written there."""
    facts = [fact for fact in facts_of(source) if fact[0] not in ("raw layout", "training part", "subject")]
    return [
        *(fact for fact in facts if fact[1]),
        ("training part", _rule(source.train) or f"{NOT_ESTABLISHED}: no file of this source is selected"),
        ("subject", _rule(source.subject) or "not stated"),
    ]


def _rule(rule: str | TableRule | None) -> str | None:
    if isinstance(rule, TableRule):
        return f"by the list {rule.table}"
    return "all" if rule == "all" else rule and f"by the path: {rule.removeprefix('path:')}"


def facts_of(source: Source) -> list[tuple[str, Any]]:
    """The facts of a source by their titles; None where the catalogue has not established one."""
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


def steps_to_obtain(source: Source) -> list[str]:
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
