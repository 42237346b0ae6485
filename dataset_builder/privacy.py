"""What may stand in a stored path: names, record numbers and dates may not, as far as they can be recognised.

Recognised are the names and numbers of a DICOM header, subjects that look like a name or a record number, and parts
of a path that look like a DICOM name, a date or a record number. A name that stands in a folder's name alone is not:
no pattern tells it from other words. So where a DICOM header could not be read, nothing of the path below the source's
folder is shown.
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
    r"|(?<!\d)(?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12]\d|3[01])(?!\d)"
    r"|(?<!\d)\d\d?[-_.]\d\d?[-_.](?:19|20)\d\d(?!\d)"
    r"|[1-9]\d{5}|\d{7}",  # six digits that are no counter of images
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
    named = _identity(item, source)
    parts = path.split("/")
    if named is None:
        return "/".join([parts[0], *(_withheld(part, key) for part in parts[1:])])
    return "/".join(_withheld(part, key) if _tells(part, words | named) else part for part in parts)


def _tells(part: str, words: set[str]) -> bool:
    return any(word in part.lower() for word in words) or _TELLING.search(part) is not None


def _identity(item: Item, source: Path | bytes | None) -> set[str] | None:
    """Words of the DICOM header that name a person; none of another file; None where the header was not read."""
    files = (item.options or {}).get("files") or [item.member or item.path]
    name = files[0].rsplit("/", 1)[-1]
    if isinstance(source, Path) and item.kind == "dicom_series":
        source = source / name
    try:
        if not dicom.is_dicom_file(b"" if source is None else first_bytes(source, 132), name):
            return set()
        return None if source is None else dicom.identity_words(source)
    except OSError:
        return None


def _withheld(part: str, key: str) -> str:
    return "withheld-" + hashlib.blake2b(part.encode(), key=key.encode()[:64], digest_size=4).hexdigest()
