"""Finds identifying words in DICOM headers (names of persons, places and records), and compares paths with them."""

import re
import zlib
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from unicodedata import combining, normalize

from .content import first_bytes
from .dicom import is_dicom_file
from .dicom_header import import_pydicom, is_deflated, no_picture

# In names, = separates scripts, and brackets enclose lists.
_BETWEEN_WORDS = re.compile(r"[\s^=,;:/\\\[\]'\"()]+")
_BETWEEN_PARTS = re.compile(r"[\W_]+")
_TELLING = ("PN", "LO", "SH", "LT", "ST", "UT", "UC", "DA", "DT", "AE", "UI")  # types of elements
_NUMBERS = {"US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "OB", "OW", "OF", "OD", "OL", "OV", "AT", "IS", "DS",
            "CS", "AS", "TM"}  # fmt: skip
_HARMLESS = ("Manufacturer", "ManufacturerModelName", "CodeMeaning", "CodeValue", "CodingSchemeDesignator")
_STANDARD_UID = "1.2.840.10008."
_HEADER = 1 << 20  # bytes of a file, packed or not, in which the names lie
_INFLATED = 64 << 20  # most bytes of a deflated header
_GZIP = b"\x1f\x8b"


def header_words(source: Path | bytes, name: str) -> set[str] | None:
    """The `identity_words` of a DICOM file, which may be packed by gzip; none for a file of another format.

    Raises:
        OSError: the file cannot be opened.
    """
    start = first_bytes(source, 132)
    if start.startswith(_GZIP):
        source = _unpacked(first_bytes(source, _HEADER))
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
        elements = [*header.file_meta, *_elements(header)]
        return {word for element in elements for text in _texts(element) for word in _words(str(text), element.VR)}
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


def _elements(dataset: Any) -> Iterator[Any]:
    """The elements of a data set and of all sequences in it that are not numbers; converting those takes most time."""
    for tag in dataset.keys():  # noqa: SIM118 - iterating over a data set converts its elements
        if (dataset.get_item(tag).VR or _usual_kind(tag)) in _NUMBERS:
            continue
        element = dataset[tag]
        if element.VR == "SQ":
            for item in element.value:
                yield from _elements(item)
        else:
            yield element


def _usual_kind(tag: int) -> str:
    """The value representation of a standard element, which implicit files leave out."""
    try:
        return str(import_pydicom().datadict.dictionary_VR(tag))
    except KeyError:
        return "UN"


def _words(text: str, kind: str) -> set[str]:
    """Words of a text that may name somebody: of two signs only a person's, or of another script, where all may be."""
    shortest = 2 if kind == "PN" else 3
    words = _BETWEEN_WORDS.split(text.lower())
    return {word for word in words if len(word) >= (shortest if word.isascii() else 2)}


def _texts(element: Any) -> Sequence[Any]:
    """The text of an element of the header, if it may identify somebody."""
    value = element.value
    if element.VR == "UN" and isinstance(value, bytes):  # private elements in files without value representations
        return [value.decode("latin-1").strip("\0 ")]
    if element.VR not in _TELLING or element.keyword in _HARMLESS or not value:
        return []
    values = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    return [one for one in values if not str(one).startswith(_STANDARD_UID)]


def _header(source: bytes) -> Any:
    pydicom = import_pydicom()
    is_deflated(pydicom, BytesIO(source), "the file", _INFLATED)  # refuses what dcmread would inflate without end
    return pydicom.dcmread(BytesIO(source), stop_before_pixels=True, force=True)


def _unpacked(start: bytes) -> bytes:
    """The first bytes that a packed file unpacks to; none if it is damaged."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(start, _HEADER)
    except zlib.error:
        return b""
