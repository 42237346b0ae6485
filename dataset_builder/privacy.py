"""What may stand in a stored path: a DICOM header's names and record numbers may not."""

import hashlib
from pathlib import Path

from .item import Item
from .readers import dicom
from .readers.picture import first_bytes


def locator(item: Item) -> str:
    """An input as rows and manifest name it: `file`, `file!member`, `file!data set#row`, `folder#series`."""
    if item.member is None:
        return item.path
    if item.kind == "dicom_series":
        return f"{item.path}#{item.member}"
    row = (item.options or {}).get("row")
    return f"{item.path}!{item.member}" + ("" if row is None else f"#{row}")


def stored_path(item: Item, source: Path | bytes | None, public: bool) -> str:
    """The locator, with each folder or file name that repeats a name or number of the DICOM header replaced.

    `public`: the source is a published release, whose names are pseudonyms that everybody can look up; they stay.
    A replacement is `withheld-` and 8 hex digits of the name's SHA-256, so that equal names stay equal.
    """
    path = locator(item)
    if public or source is None:
        return path
    words = _identity(item, source)
    if not words:
        return path
    parts = path.split("/")
    return "/".join(_withheld(part) if any(word in part.lower() for word in words) else part for part in parts)


def _identity(item: Item, source: Path | bytes) -> set[str]:
    if isinstance(source, Path) and source.is_dir():
        files = (item.options or {}).get("files") or [""]
        source = source / files[0].rsplit("/", 1)[-1]
    if isinstance(source, Path) and not source.is_file():
        return set()
    return dicom.identity_words(source) if dicom.is_dicom(first_bytes(source, 132)) else set()


def _withheld(part: str) -> str:
    return "withheld-" + hashlib.sha256(part.encode()).hexdigest()[:8]
