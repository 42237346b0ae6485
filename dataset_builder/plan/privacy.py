"""Privacy of private sources: rows, manifest and logs have keyed hashes in place of paths, unless a source keeps them.

By default an input of a private source is named by a keyed hash and its suffix. The key is the build's, so names stay
the same when a build is continued (`biovfm embed` draws a new key for each features file). `paths: keep` in a source's
record publishes the paths, except folder and file names that repeat a captured subject or a word of the DICOM header,
or that look like a DICOM name, a date or a record number. A patient's name that occurs only in a folder name is not
recognised, because no pattern distinguishes it from other words. So the path below the source's folder is hidden for
files that are not pictures, and if a DICOM header could not be read.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biovfm_hf.decoding.files import IMAGE_SUFFIXES
from biovfm_hf.decoding.identity_words import contains_word, header_words, separate_words
from biovfm_hf.keyed_names import keyed_hash, longest_suffix
from biovfm_hf.reading.image_files import has_no_suffix

from ..item import Item
from ..limits import ARCHIVES

_IDENTIFYING = re.compile(
    r"\w\^\w"  # Doe^Jane
    r"|(?:mrn|pid|patient|dob|birth)[ _.-]*(?:id)?[ _.-]*\d{4}"
    r"|(?<!\d)(?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12]\d|3[01])(?!\d)"
    r"|(?<!\d)\d\d?[-_.]\d\d?[-_.](?:19|20)\d\d(?!\d)"
    r"|[1-9]\d{5}|\d{7}",  # six digits that are not a counter of images
    re.IGNORECASE,
)
_SUFFIXES = {suffix for name in (*IMAGE_SUFFIXES, *ARCHIVES) for suffix in (name, f"{name}.gz")}


@dataclass(frozen=True)
class Privacy:
    """Naming of one private source's inputs.

    Attributes:
        source: id of the source.
        folder: its folder below the raw folder.
        key: of the hashes.
        keep: whether its record says `paths: keep`.
    """

    source: str
    folder: str
    key: str
    keep: bool


def privacy_of(source: str, facts: dict[str, Any], key: str) -> Privacy | None:
    """The naming of a source's inputs, from its entry in the plan; None if it is published."""
    if facts["published"] and facts["paths"] != "withhold":
        return None
    return Privacy(source, facts["folder"], key, facts["paths"] == "keep")


def locator(item: Item) -> str:
    """An input's name in rows and manifest: `file`, `file!member`, `file!data set#row`, `folder#series`."""
    if item.member is None:
        return item.path
    if item.kind == "dicom_series":
        return f"{item.path}#{item.member}"
    return f"{item.path}!{item.member}" + ("" if item.row is None else f"#{item.row}")


def shown_paths(sources: dict[str, dict[str, Any]]) -> list[str]:
    """Lines that state which paths of a dataset stay readable, from the sources' entries in the plan."""
    private = {name: privacy_of(name, facts, "") for name, facts in sorted(sources.items())}
    withheld = [name for name, privacy in private.items() if privacy and not privacy.keep]
    kept = [name for name, privacy in private.items() if privacy and privacy.keep]
    published = "the dataset keeps published sources' paths as released"
    lines = [published] if None in private.values() else []
    if withheld:
        lines.append(f"the dataset holds no path of {', '.join(withheld)}, only a code and the file suffix")
    if kept:
        names = "file and folder names that were recognised as a person's or a record's"
        lines.append(f"the dataset keeps the paths of {', '.join(kept)} without {names}; look at manifest.parquet")
    return lines


def subject_words(subject: str) -> list[str]:
    """The words that no path may contain for a captured subject: the whole, and its parts."""
    return [subject, *separate_words(subject)]


def stored_path(item: Item, source: Path | bytes | None, privacy: Privacy | None) -> str:
    """An input's name in rows and manifest: its locator, with private parts withheld.

    `source` is the file or its bytes, None if it is not read. Names in a published release are public pseudonyms, so
    they are not changed.
    """
    if privacy is None:
        return locator(item)
    return _published_path(item, source, privacy) if privacy.keep else _hashed_path(item, privacy)


def _hashed_path(item: Item, privacy: Privacy) -> str:
    """A keyed hash of the locator, its suffix if a format has it, and the row of a table of images."""
    name = item.path if item.kind == "hdf5" or item.member is None else item.member
    place = "" if item.row is None else f"#{item.row}"
    return _hash(f"{privacy.source}/{locator(item)}", privacy.key, 8) + longest_suffix(name, _SUFFIXES) + place


def _published_path(item: Item, source: Path | bytes | None, privacy: Privacy) -> str:
    """The locator with identifying folder and file names replaced by hashes: equal names stay equal."""
    named = None if item.unnamed else _identity(item, source)
    identity = {str(word) for word in (*item.private, *(named or ()))}
    above = 0 if privacy.folder == "." else privacy.folder.count("/") + 1
    return "/".join(
        f"withheld-{_hash(part, privacy.key, 4)}"
        if (named is None and depth >= above) or _identifies(part, identity)
        else part
        for depth, part in enumerate(locator(item).split("/"))
    )


def _identifies(part: str, identity: set[str]) -> bool:
    """Whether a name looks like one of a person or a record, or contains a word of `identity`."""
    return _IDENTIFYING.search(part) is not None or contains_word(part, identity)


def _identity(item: Item, source: Path | bytes | None) -> set[str] | None:
    """Words of the DICOM header that name a person; none for other files; None if the header was not read."""
    files = item.files or [item.path if item.kind == "hdf5" else item.member or item.path]
    name = files[0].rsplit("/", 1)[-1]
    if isinstance(source, Path) and item.kind == "dicom_series":
        source = source / name
    try:
        words = header_words(b"" if source is None else source, name)
    except OSError:
        return None
    return None if not words and has_no_suffix(name) else words  # it may be a truncated DICOM file


def _hash(text: str, key: str, size: int) -> str:
    return keyed_hash(text, key.encode()[:64], size)
