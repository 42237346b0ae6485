"""Finds identifying words in DICOM headers (names of persons, places and records), and compares paths with them."""

import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from unicodedata import combining, normalize

from .content import GZIP, first_bytes, unpacked_start
from .dicom import is_dicom_file
from .dicom_header import import_pydicom, is_deflated, no_picture

# In names, = separates scripts, and brackets enclose lists.
_BETWEEN_WORDS = re.compile(r"[\s\0^=,;:/\\\[\]'\"()]+")
_BETWEEN_PARTS = re.compile(r"[\W_]+")
_TELLING = ("PN", "LO", "SH", "LT", "ST", "UT", "UC", "DA", "DT", "AE", "UI")  # types of elements
_NUMBERS = {"US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "OB", "OW", "OF", "OD", "OL", "OV", "AT", "IS", "DS",
            "CS", "AS", "TM"}  # fmt: skip
_HARMLESS = (0x00080070, 0x00081090, 0x00080104, 0x00080100, 0x00080102)  # maker and model, codes and their meanings
_ESCAPE = b"\x1b"  # begins another character set
_STANDARD_UID = "1.2.840.10008."
_HEADER = 1 << 20  # bytes of a file, packed or not, in which the names lie
_INFLATED = 64 << 20  # most bytes of a deflated header


def header_words(source: Path | bytes, name: str) -> set[str] | None:
    """The `identity_words` of a DICOM file, which may be packed by gzip; none for a file of another format.

    Raises:
        OSError: the file cannot be opened.
    """
    start = first_bytes(source, 132)
    if start.startswith(GZIP):
        source = unpacked_start(BytesIO(first_bytes(source, _HEADER)), _HEADER)
        start = source[:132]
    return identity_words(source) if is_dicom_file(start, name.lower().removesuffix(".gz")) else set()


def identity_words(source: Path | bytes) -> set[str] | None:
    """Words of the header that may name a person, a place or a record, in lower case: no stored path may contain them.

    Every text, name, date and identifier of the header counts, in nested sequences too: that is more than the basic
    profile of DICOM PS3.15 (table E.1-1) removes. None if the header cannot be read up to the image's size, which
    follows the names.
    """
    try:
        header = _header(first_bytes(source, _HEADER))
        if not ("Rows" in header or "DirectoryRecordSequence" in header or no_picture(header)):
            return None
        texts = [*_texts(header.file_meta), *_texts(header)]
        return {word for kind, text in texts for word in _words(text, kind)}
    except Exception:  # a header can break pydicom in any way
        return None


def bears(name: str, words: set[str]) -> bool:
    """Whether the name of a file or folder contains one of the words.

    A word of up to three letters counts only if it stands by itself, a longer one anywhere; case and accents do not.
    """
    folded = _folded(name)
    own = set(_BETWEEN_PARTS.split(folded))
    return any(
        word in own or (word in folded and (len(word) > 3 or not word.isascii())) for word in map(_folded, words)
    )


def separate_words(text: str) -> list[str]:
    """The words of a text, divided at all that is neither letter nor digit."""
    return [word for word in _BETWEEN_PARTS.split(text) if word]


def _folded(text: str) -> str:
    """A name without case and accents, which file systems store in two ways and people leave out."""
    if text.isascii():
        return text.lower()
    return "".join(sign for sign in normalize("NFKD", text.casefold()) if not combining(sign))


def _texts(dataset: Any) -> Iterator[tuple[str, str]]:
    """Kind and text of the elements of a data set, and of its sequences, that may identify somebody.

    pydicom converts only what is not plain ASCII, since its conversion takes most of the time.
    """
    for tag in dataset.keys():  # noqa: SIM118 - iterating over a data set converts its elements
        stored = dataset.get_item(tag)
        kind, value = stored.VR or _usual_kind(tag), stored.value
        if kind in _NUMBERS or tag in _HARMLESS:
            continue
        if kind in _TELLING and isinstance(value, bytes) and value.isascii() and _ESCAPE not in value:
            yield kind, value.decode("ascii")
        else:
            yield from _converted(dataset[tag])


def _converted(element: Any) -> Iterator[tuple[str, str]]:
    value = element.value
    if element.VR == "SQ":
        for item in value:
            yield from _texts(item)
    elif element.VR == "UN" and isinstance(value, bytes):  # private elements in files without value representations
        yield "UN", value.decode("latin-1")
    elif element.VR in _TELLING and value:
        several = isinstance(value, Sequence) and not isinstance(value, str)
        yield element.VR, "\\".join(map(str, value if several else [value]))


def _usual_kind(tag: int) -> str:
    """The value representation of a standard element, which implicit files leave out."""
    try:
        return str(import_pydicom().datadict.dictionary_VR(tag))
    except KeyError:
        return "UN"


def _words(text: str, kind: str) -> set[str]:
    """Words of a text that may name somebody: of two signs only a person's, or of another script, where all may be."""
    shortest = 2 if kind == "PN" else 3
    words = {word for word in _BETWEEN_WORDS.split(text.lower()) if not word.startswith(_STANDARD_UID)}
    return {word for word in words if len(word) >= (shortest if word.isascii() else 2)}


def _header(source: bytes) -> Any:
    pydicom = import_pydicom()
    is_deflated(pydicom, BytesIO(source), "the file", _INFLATED)  # refuses what dcmread would inflate without end
    return pydicom.dcmread(BytesIO(source), stop_before_pixels=True, force=True)
