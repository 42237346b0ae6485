"""What may stand in a stored path: names, record numbers and dates may not, as far as they can be recognised.

Recognised are the names and numbers of a DICOM header, subjects that look like a name or a record number, and parts
of a path that look like a DICOM name, a date or a numbered record. A name that stands in a folder's name alone is not:
no pattern tells it from other words.
"""

import hashlib
import re
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


_NAME = re.compile(r"[^\W\d_]{2,}(?:[ _,^.-]+[^\W\d_]+)+")  # two words or more, of letters alone
_NUMBER = re.compile(r"\d{5}")
_TELLING = re.compile(
    r"\w\^\w"  # Doe^Jane
    r"|(?:mrn|pid|patient|dob|birth)[ _.-]*(?:id)?[ _.-]*\d{4}"
    r"|(?<!\d)(?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12]\d|3[01])(?!\d)",
    re.IGNORECASE,
)


def telling_subject(subject: str | None) -> bool:
    """Whether an identifier looks like a person's name or a record number rather than like a pseudonym."""
    return subject is not None and bool(_NAME.fullmatch(subject) or _NUMBER.search(subject))


def stored_path(item: Item, source: Path | bytes | None, public: bool, key: str) -> str:
    """The locator, with each folder or file name that tells who a patient is replaced.

    `public`: the source is a published release, whose names are pseudonyms that everybody can look up; they stay.
    A replacement is `withheld-` and 8 hex digits of a hash of the name under `key`, so that equal names stay equal.
    """
    path = locator(item)
    if public:
        return path
    words = {str(word).lower() for word in (item.options or {}).get("private", ())}
    if source is not None:
        words |= _identity(item, source)
    parts = path.split("/")
    return "/".join(_withheld(part, key) if _tells(part, words) else part for part in parts)


def _tells(part: str, words: set[str]) -> bool:
    return any(word in part.lower() for word in words) or _TELLING.search(part) is not None


def _identity(item: Item, source: Path | bytes) -> set[str]:
    if isinstance(source, Path) and source.is_dir():
        files = (item.options or {}).get("files") or [""]
        source = source / files[0].rsplit("/", 1)[-1]
    if isinstance(source, Path) and not source.is_file():
        return set()
    return dicom.identity_words(source) if dicom.is_dicom(first_bytes(source, 132)) else set()


def _withheld(part: str, key: str) -> str:
    return "withheld-" + hashlib.blake2b(part.encode(), key=key.encode()[:64], digest_size=4).hexdigest()
