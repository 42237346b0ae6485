"""Finds identifying words in DICOM headers (names of persons, places and records), and compares paths with them."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any
from unicodedata import combining, normalize

from .content import GZIP, first_bytes, unpacked_start
from .dicom import is_dicom_file
from .dicom_header import import_pydicom, is_deflated, no_picture

# In names, = separates scripts, and brackets enclose lists. VR: DICOM's value representation, the type of an element.
_BETWEEN_WORDS = re.compile(r"[\s\0^=,;:/\\\[\]'\"()]+")
_BETWEEN_PARTS = re.compile(r"[\W_]+")
_IDENTIFYING_VRS = ("PN", "LO", "SH", "LT", "ST", "UT", "UC", "UR", "DA", "DT", "AE", "UI")
_HARMLESS_VRS = {"US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "OB", "OW", "OF", "OD", "OL", "OV", "AT", "IS", "DS",
            "CS", "AS", "TM"}  # fmt: skip
_PATIENT = 0x0010  # group of the patient's elements, whose identifiers can be as short as a name
_PERSON = 0x00401101  # sequence in which a code stands for a person
# Maker and model, codes and their meanings.
_HARMLESS_TAGS = (0x00080070, 0x00081090, 0x00080104, 0x00080100, 0x00080102)
_ESCAPE = b"\x1b"  # begins another character set
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")  # before a number
_DATE = re.compile(r"(\d{4})\D?(\d\d)\D?(\d\d)")
_PLAIN = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "æ": "ae", "œ": "oe", "ß": "ss", "þ": "th", "ı": "i"})
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa"})
_STANDARD_UID = "1.2.840.10008."
_HEADER = 1 << 20  # bytes of an unpacked file in which the names lie
_PACKED = _HEADER + (1 << 16)  # bytes of a gzip file that hold them even if it does not compress
_INFLATED = 64 << 20  # most bytes of a deflated header


def header_words(source: Path | bytes, name: str) -> set[str] | None:
    """The `identity_words` of a DICOM file, which may be packed by gzip; none for a file of another format.

    Raises:
        OSError: the file cannot be opened.
    """
    start = first_bytes(source, 132)
    if start.startswith(GZIP):
        source = unpacked_start(BytesIO(first_bytes(source, _PACKED)), _HEADER)
        start = source[:132]
    return identity_words(source) if is_dicom_file(start, name.lower().removesuffix(".gz")) else set()


def identity_words(source: Path | bytes) -> set[str] | None:
    """Words of the header that may name a person, a place or a record, in lower case: no stored path may contain them.

    Every text, name, date and identifier of the header counts, in nested sequences too: that is more than the basic
    profile of DICOM PS3.15 (table E.1-1) removes. None if the header cannot be read up to the image's size, or is
    longer than the part that is read, so that names may follow.
    """
    try:
        header = _header(first_bytes(source, _HEADER))
        if not ("Rows" in header or "DirectoryRecordSequence" in header or no_picture(header)):
            return None
        texts = [*_texts(header.file_meta), *_texts(header)]
        return {word for vr, text in texts for word in _words(text, vr)}
    except Exception:  # a header can break pydicom in any way
        return None


def contains_word(name: str, words: set[str]) -> bool:
    """Whether the name of a file or folder contains one of the words.

    A word of up to three letters counts only if it stands by itself, a longer one anywhere. Case, accents, the
    spelling of umlauts, separators within a word, and zeros before a number do not count.
    """
    forms = _forms(name)
    own = {part for form in forms for part in _BETWEEN_PARTS.split(form)}
    text = "\n".join(forms)
    return any(
        form in own or (form in text and (len(form) > 3 or not form.isascii()))
        for word in words
        for form in _forms(word)
    )


def separate_words(text: str) -> list[str]:
    """The words of a text, divided at all that is neither letter nor digit."""
    return [word for word in _BETWEEN_PARTS.split(text) if word]


@lru_cache(1 << 12)  # the files of a folder share most words
def _forms(text: str) -> tuple[str, ...]:
    """Ways to write a name: umlauts as one letter or two, with zeros before a number or not, without separators."""
    if text.isascii() and text.isalpha():
        return (text.lower(),)
    composed = normalize("NFC", text.casefold())
    folded = {_folded(composed), _folded(composed.translate(_UMLAUTS))}
    forms = folded | {short for form in folded if len(short := _ZEROS.sub("", form)) > 1}
    joined = {short for form in forms if len(short := _BETWEEN_PARTS.sub("", form)) > 1}
    return (*forms, *joined)


def _folded(text: str) -> str:
    """A name in lower case without accents, which file systems store in two ways and people leave out."""
    return "".join(sign for sign in normalize("NFKD", text.translate(_PLAIN)) if not combining(sign))


def _texts(dataset: Any, person: bool = False) -> Iterator[tuple[str, str]]:
    """VR and text of the elements of a data set, and of its sequences, that may identify somebody.

    pydicom converts only what is not plain ASCII, since its conversion takes most of the time. In the code of a
    `person` the meaning is a name.
    """
    for tag in dataset.keys():  # noqa: SIM118 - iterating over a data set converts its elements
        stored = dataset.get_item(tag)
        vr, value = stored.VR or _standard_vr(tag), stored.value
        plain = isinstance(value, bytes) and value.isascii() and _ESCAPE not in value
        if vr == "OB" and tag >> 16 & 1 and plain and b"\0" not in value.rstrip(b"\0"):
            yield "UN", value.decode("ascii")  # makers also store text as bytes
        elif vr in _HARMLESS_VRS or (tag in _HARMLESS_TAGS and not person):
            continue
        elif vr in _IDENTIFYING_VRS and plain:
            yield _counted_vr(tag, vr), value.decode("ascii")
        else:
            yield from _converted(dataset[tag], person)


def _counted_vr(tag: int, vr: str) -> str:
    """An element's VR; a patient's identifier counts as a name."""
    return "PN" if tag >> 16 == _PATIENT and vr in ("LO", "SH") else vr


def _converted(element: Any, person: bool) -> Iterator[tuple[str, str]]:
    value = element.value
    if element.VR == "SQ":
        for item in value:
            yield from _texts(item, person or element.tag == _PERSON)
    elif element.VR == "UN" and isinstance(value, bytes):  # private elements in files without value representations
        yield "UN", value.decode("latin-1")
    elif element.VR in _IDENTIFYING_VRS and value:
        several = isinstance(value, Sequence) and not isinstance(value, str)
        yield _counted_vr(element.tag, element.VR), "\\".join(map(str, value if several else [value]))


def _standard_vr(tag: int) -> str:
    """The VR of a standard element, which implicit files leave out."""
    try:
        return str(import_pydicom().datadict.dictionary_VR(tag))
    except KeyError:
        return "UN"


def _words(text: str, vr: str) -> set[str]:
    """Words of a text that may name somebody.

    A word of two characters counts only in a person's name or in another script.
    """
    shortest = 2 if vr == "PN" else 3
    text = text.lower()
    words = {word for word in _BETWEEN_WORDS.split(text) if not word.startswith(_STANDARD_UID)}
    if vr in ("DA", "DT"):
        words |= _dates(text)
    elif vr != "UI" and (vr != "UN" or text.isascii()):  # parts of a UID or of binary data say nothing
        parts = {part for word in words for part in _BETWEEN_PARTS.split(word)}
        parts |= _joined(text) if vr in ("PN", "LO", "SH") else set()
        words |= {part for part in parts if vr == "PN" or len(part) > 3 or not part.isdigit()}  # not the 625 of 0.625
    return {word for word in words if len(word) >= (shortest if word.isascii() else 2)}


def _dates(text: str) -> set[str]:
    """A date with its year first, its day first and its month first."""
    return {
        "-".join(order) for y, m, d in _DATE.findall(text[:10]) for order in ((y, m, d), (d, m, y), (m, d, y))
    }  # fmt: skip


def _joined(text: str) -> set[str]:
    """Names or identifiers without separators: each component, and the first two in either order."""
    values = [[_BETWEEN_PARTS.sub("", part) for part in value.split("^")] for value in re.split(r"[\\=]", text)]
    return {name for parts in values for name in (*parts, "".join(parts[:2]), "".join(parts[1::-1]))}


def _header(source: bytes) -> Any:
    """The data set up to the pixels.

    Raises:
        EOFError: it goes on behind `source`.
    """
    pydicom = import_pydicom()
    file = BytesIO(source)
    is_deflated(pydicom, file, "the file", _INFLATED)  # refuses what dcmread would inflate without end
    header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
    if len(source) == _HEADER and file.tell() == len(source):
        raise EOFError("the header is long")
    return header
