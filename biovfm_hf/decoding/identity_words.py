"""Finds identifying words in DICOM headers: names of persons, places and records."""

import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from ..errors import UserError
from .content import first_bytes
from .dicom_header import HEADER_BYTES, import_pydicom, is_deflated, told

# In names, = separates scripts, and brackets enclose lists.
_BETWEEN_WORDS = re.compile(r"[\s^=,;:/\\\[\]'\"()]+")
_TELLING = ("PN", "LO", "SH", "LT", "ST", "UT", "UC", "DA", "DT", "AE", "UI")  # types of elements
_HARMLESS = ("Manufacturer", "ManufacturerModelName", "CodeMeaning", "CodeValue", "CodingSchemeDesignator")
_STANDARD_UID = "1.2.840.10008."


def identity_words(source: Path | bytes) -> set[str] | None:
    """Words of the header that may name a person, a place or a record, in lower case: no stored path may contain them.

    Every text, name, date and identifier of the header counts, in nested sequences too: that is more than the basic
    profile of DICOM PS3.15 (table E.1-1) removes. None if the header cannot be read up to the image's size, which
    follows the names.
    """
    try:
        header = _header(source[: 2**20] if isinstance(source, bytes) else first_bytes(source, 2**20))
        if "Rows" not in header:
            return None
        elements = [*header.file_meta, *header.iterall()]
        return {word for element in elements for text in _texts(element) for word in _words(str(text), element.VR)}
    except Exception:  # a header can break pydicom in any way
        return None


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
    try:
        is_deflated(pydicom, BytesIO(source), "the file")  # refuses data that inflate without end; dcmread does not
        return pydicom.dcmread(BytesIO(source), stop_before_pixels=True, force=True)
    except UserError:
        raise
    except Exception as error:  # pydicom raises nearly every type on damaged files
        raise UserError(f"the file: cannot be read as DICOM ({told(error, source[:HEADER_BYTES])})") from error
