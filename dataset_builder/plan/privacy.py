"""What rows, manifest and logs may tell of a private source: nothing of a path but a keyed hash, unless asked to.

By default an input of a private source is named by a keyed hash and its suffix. `paths: keep` in its record publishes
the paths; then folder and file names are withheld one by one that repeat a captured subject, a word of the DICOM
header, or look like a DICOM name, a date or a record number. A name that stands in a folder's name alone is not
recognised: no pattern tells it from other words. So nothing of the path below the source's folder is shown of what is
no picture, and where a DICOM header could not be read.
"""

import hashlib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import combining, normalize

from biovfm_hf.decoding.files import IMAGE_SUFFIXES
from biovfm_hf.reading.image_files import has_no_suffix

from ..item import Item
from ..limits import ARCHIVES
from ..readers import dicom
from ..readers.picture import first_bytes

_TELLING = re.compile(
    r"\w\^\w"  # Doe^Jane
    r"|(?:mrn|pid|patient|dob|birth)[ _.-]*(?:id)?[ _.-]*\d{4}"
    r"|(?<!\d)(?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12]\d|3[01])(?!\d)"
    r"|(?<!\d)\d\d?[-_.]\d\d?[-_.](?:19|20)\d\d(?!\d)"
    r"|[1-9]\d{5}|\d{7}",  # six digits that are no counter of images
    re.IGNORECASE,
)
_BETWEEN_WORDS = re.compile(r"[\W_]+")
_SUFFIXES = {suffix for name in (*IMAGE_SUFFIXES, *ARCHIVES) for suffix in (name, f"{name}.gz")}


@dataclass(frozen=True)
class Privacy:
    """How the inputs of one private source are named.

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
    """How a source is named, by what the plan holds of it; None for one that is published."""
    if facts["published"] and facts["paths"] != "withhold":
        return None
    return Privacy(source, facts["folder"], key, facts["paths"] == "keep")


def locator(item: Item) -> str:
    """An input as rows and manifest name it: `file`, `file!member`, `file!data set#row`, `folder#series`."""
    if item.member is None:
        return item.path
    if item.kind == "dicom_series":
        return f"{item.path}#{item.member}"
    return f"{item.path}!{item.member}" + ("" if item.row is None else f"#{item.row}")


def shown_paths(sources: dict[str, dict[str, Any]], salted: bool) -> str:
    """One line that says what of the paths of a dataset's sources stays readable, by what the plan holds of them."""
    private = {name: privacy_of(name, facts, "") for name, facts in sorted(sources.items())}
    withheld = [name for name, privacy in private.items() if privacy and not privacy.keep]
    kept = [name for name, privacy in private.items() if privacy and privacy.keep]
    parts = ["those of published sources as they were released"] if None in private.values() else []
    if withheld:
        parts.append(f"of {', '.join(withheld)} a keyed hash and the suffix alone")
    if kept:
        parts.append(f"of {', '.join(kept)} all but what was recognised as a name (look at manifest.parquet)")
    guesses = "; without --salt-file anybody can test a guess against the hashes" if withheld and not salted else ""
    return f"readable paths: {'; '.join(parts)}{guesses}"


def subject_words(subject: str) -> list[str]:
    """What of a captured subject must not stand in a path: the whole, and its words."""
    return [subject, *filter(None, _BETWEEN_WORDS.split(subject))]


def stored_path(item: Item, source: Path | bytes | None, privacy: Privacy | None) -> str:
    """An input as rows and manifest name it: its locator, or what of it may leave.

    `source` is the file or its bytes, None where it is not read. Of a published release the names are pseudonyms that
    everybody can look up: they stay.
    """
    if privacy is None:
        return locator(item)
    return _published_path(item, source, privacy) if privacy.keep else _hashed_path(item, privacy)


def _hashed_path(item: Item, privacy: Privacy) -> str:
    """A keyed hash of the locator, its suffix where it is one of a format, and the row of a table of images."""
    name = item.path if item.kind == "hdf5" or item.member is None else item.member
    suffix = max((s for s in _SUFFIXES if name.lower().endswith(s)), key=len, default="")
    place = "" if item.row is None else f"#{item.row}"
    return _hash(f"{privacy.source}/{locator(item)}", privacy.key, 8) + suffix + place


def _published_path(item: Item, source: Path | bytes | None, privacy: Privacy) -> str:
    """The locator, each folder or file name that tells who a patient is replaced by a hash: equal names stay equal."""
    named = None if item.unnamed else _identity(item, source)
    identity = {_folded(str(word)) for word in (*item.private, *(named or ()))}
    above = 0 if privacy.folder == "." else privacy.folder.count("/") + 1
    return "/".join(
        f"withheld-{_hash(part, privacy.key, 4)}"
        if (named is None and depth >= above) or _tells(part, identity)
        else part
        for depth, part in enumerate(locator(item).split("/"))
    )


def _tells(part: str, identity: set[str]) -> bool:
    """Whether a name holds a word of `identity`: a long one anywhere, one of three letters or less as its own word."""
    folded = _folded(part)
    own = set(_BETWEEN_WORDS.split(folded))
    return _TELLING.search(part) is not None or any(
        word in own or (word in folded and (len(word) > 3 or not word.isascii())) for word in identity
    )


def _folded(text: str) -> str:
    """Without case and marks, which file systems store in two ways and people leave out."""
    if text.isascii():
        return text.lower()
    return "".join(sign for sign in normalize("NFKD", text.casefold()) if not combining(sign))


def _identity(item: Item, source: Path | bytes | None) -> set[str] | None:
    """Words of the DICOM header that name a person; none of another file; None where the header was not read."""
    files = item.files or [item.path if item.kind == "hdf5" else item.member or item.path]
    name = files[0].rsplit("/", 1)[-1]
    if isinstance(source, Path) and item.kind == "dicom_series":
        source = source / name
    try:
        if dicom.is_dicom_file(b"" if source is None else first_bytes(source, 132), name):
            return None if source is None else dicom.identity_words(source)
        return None if has_no_suffix(name) else set()  # without a suffix it may well be DICOM, cut or not read
    except OSError:
        return None


def _hash(text: str, key: str, size: int) -> str:
    return hashlib.blake2b(text.encode(), key=key.encode()[:64], digest_size=size).hexdigest()


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Keep what decoders complain of out of logs and screens: it may repeat what stands in a patient's file."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "tifffile", "nibabel")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
