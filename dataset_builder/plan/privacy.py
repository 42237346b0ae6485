"""What may stand in a stored path: names, record numbers and dates may not, as far as they can be recognised.

Recognised are the names and numbers of a DICOM header, subjects that look like a name or a record number, and parts
of a path that look like a DICOM name, a date or a record number. A name that stands in a folder's name alone is not:
no pattern tells it from other words. So nothing of the path below the source's folder is shown of what is no picture,
and where a DICOM header could not be read.
"""

import hashlib
import re
from pathlib import Path
from unicodedata import combining, normalize

from biovfm_hf.image_files import has_no_suffix

from ..item import Item
from ..readers import dicom
from ..readers.picture import first_bytes

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


def locator(item: Item) -> str:
    """An input as rows and manifest name it: `file`, `file!member`, `file!data set#row`, `folder#series`."""
    if item.member is None:
        return item.path
    if item.kind == "dicom_series":
        return f"{item.path}#{item.member}"
    row = (item.options or {}).get("row")
    return f"{item.path}!{item.member}" + ("" if row is None else f"#{row}")


def telling_subject(subject: str | None) -> bool:
    """Whether an identifier looks like a person's name or a record number rather than like a pseudonym."""
    return subject is not None and bool(_NAME.fullmatch(subject) or _NUMBER.search(subject))


def stored_path(item: Item, source: Path | bytes | None, folder: str | None, key: str) -> str:
    """The locator, with each folder or file name that tells who a patient is replaced.

    `folder`: the source's below the raw folder; None for a published release, whose names are pseudonyms that
    everybody can look up: they stay. A replacement is `withheld-` and 8 hex digits of a hash of the name under `key`,
    so that equal names stay equal.
    """
    path, options = locator(item), item.options or {}
    if folder is None:
        return path
    named = None if options.get("unnamed") else _identity(item, source)
    words = {_folded(str(word)) for word in (*options.get("private", ()), *(named or ()))}
    above = 0 if folder == "." else folder.count("/") + 1
    return "/".join(
        _withheld(part, key) if (named is None and depth >= above) or _tells(part, words) else part
        for depth, part in enumerate(path.split("/"))
    )


def _tells(part: str, words: set[str]) -> bool:
    folded = _folded(part)
    return any(word in folded for word in words) or _TELLING.search(part) is not None


def _folded(text: str) -> str:
    """Without case and marks, which file systems store in two ways and people leave out."""
    if text.isascii():
        return text.lower()
    return "".join(sign for sign in normalize("NFKD", text.casefold()) if not combining(sign))


def _identity(item: Item, source: Path | bytes | None) -> set[str] | None:
    """Words of the DICOM header that name a person; none of another file; None where the header was not read."""
    files = (item.options or {}).get("files") or [item.path if item.kind == "hdf5" else item.member or item.path]
    name = files[0].rsplit("/", 1)[-1]
    if isinstance(source, Path) and item.kind == "dicom_series":
        source = source / name
    try:
        if dicom.is_dicom_file(b"" if source is None else first_bytes(source, 132), name):
            return None if source is None else dicom.identity_words(source)
        return None if has_no_suffix(name) else set()  # without a suffix it may well be DICOM, cut or not read
    except OSError:
        return None


def _withheld(part: str, key: str) -> str:
    return "withheld-" + hashlib.blake2b(part.encode(), key=key.encode()[:64], digest_size=4).hexdigest()
