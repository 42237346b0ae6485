"""The header of a DICOM file: the facts that decoding needs, and messages that cannot leak its values."""

import re
import zlib
from typing import Any, BinaryIO

from ..errors import TooLarge, require
from ..pictures import quiet_decoders

DEFLATED = "1.2.840.10008.1.2.1.99"
HEADER_BYTES = 1 << 16
_MAX_INFLATED_BYTES = 1 << 30
_PIXEL_DATA = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")  # its tag in either byte order
_STORAGE = "1.2.840.10008.5.1.4.1.1."
# Storage classes that hold no picture, by their last numbers (PS3.4 B.5), and the modalities of such objects (PS3.3
# C.7.3.1.1.1): a dose, or the mask of a segmentation, would look like one.
_NO_PICTURES = {
    "a segmentation": (("66.4", "66.5", "66.7", "66.8"), ("SEG", "M3D")),
    "a registration": (("66.1", "66.2", "66.3", "66.6", "67"), ("REG", "FID", "RWV")),
    "a report": (("88",), ("SR", "KO")),
    "a dose": (("481.2",), ("RTDOSE",)),
    "a treatment plan": (("481.3", "481.4", "481.5", "481.6", "481.7", "481.8", "481.9", "481.10", "481.11"),
                         ("RTPLAN", "RTSTRUCT", "RTRECORD", "PLAN")),
    "waveforms": (("9",), ("ECG", "EPS", "HD", "AU", "EEG", "EMG", "RESP")),
    "a presentation state": (("11",), ("PR",)),
    "a document": (("104",), ("DOC",)),
    "a spectrum": (("4.2",), ()),
    "annotations": (("91",), ("ANN",)),
}  # fmt: skip
_QUOTE = re.compile(r"""(?<!\w)['"]|['"](?!\w)""")  # not an apostrophe


def import_pydicom() -> Any:
    """Import pydicom and silence its warnings, which repeat values of damaged headers."""
    pydicom = require("pydicom", "data")
    quiet_decoders()
    return pydicom


def described(error: Exception, start: bytes) -> str:
    """A decoder's message, cut before the first word that also occurs in the header: it may be a patient's name.

    Args:
        error: raised by pydicom; it may quote a value, such as text instead of a number.
        start: the first bytes of the file.
    """
    if DEFLATED.encode() in start:  # the header cannot be read as text
        return type(error).__name__
    ends = [end for tag in _PIXEL_DATA if (end := start.find(tag)) > 0]
    header = start[: min(ends, default=HEADER_BYTES)].lower()
    header_words = set(re.findall(rb"\w+", header))
    message = re.sub(r"\\x[0-9a-f]{2}|\\[nrt]", " ", str(error))
    kept = []
    for word in message.split():
        tokens = [token.encode() for token in re.findall(r"\w+", word.lower())]
        quoted = _QUOTE.search(word)  # words of values, whole or in part; outside of quotes "of" is just "of"
        from_header = any(token in header if quoted else len(token) > 2 and token in header_words for token in tokens)
        if from_header or not word.isascii():
            kept.append("...")
            break
        kept.append(word)
    return " ".join(kept)[:300] if kept not in ([], ["..."]) else type(error).__name__


def is_deflated(pydicom: Any, file: BinaryIO, name: str, most: int | None = None) -> bool:
    """Whether the data set is deflated; refuse one beyond `most` bytes (1 GiB), since pydicom sets no bound."""
    start = file.tell()
    deflated = seek_deflated(pydicom, file)
    if deflated:
        most = _MAX_INFLATED_BYTES if most is None else most
        inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not inflater.eof and (block := file.read(1 << 16)):  # a pad byte follows its end (PS3.5 A.5)
            while block and not inflater.eof and total <= most:
                total += len(inflater.decompress(block, 1 << 24))
                block = inflater.unconsumed_tail
            if total > most:
                raise TooLarge(f"{name}: inflates to over {most >> 20} MiB; it is damaged or hostile, leave it out")
    file.seek(start)
    return deflated


def seek_deflated(pydicom: Any, file: BinaryIO) -> bool:
    """Go to where the deflated data set of a file begins; False for a file without one."""
    start = file.tell()
    file.seek(start + 128)
    if file.read(4) != b"DICM":
        return False
    # only the meta group is read here: dcmread would inflate what follows at once
    meta = pydicom.filereader.read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") != DEFLATED:
        return False
    file.seek(start + 132 + 12 + int(meta.FileMetaInformationGroupLength))
    return True


def no_picture(header: Any) -> str | None:
    """The kind of an object that is not a picture, by its storage class or modality; None for a picture."""
    known = str(header.get("SOPClassUID") or "").strip("\0 ")
    modality = str(header.get("Modality") or "").strip().upper()
    for what, (classes, modalities) in _NO_PICTURES.items():
        if modality in modalities or any(f"{known}.".startswith(f"{_STORAGE}{one}.") for one in classes):
            return what
    return None


def is_grey(header: Any) -> bool:
    """Whether each pixel is one number and not a colour."""
    return int(header.get("SamplesPerPixel") or 1) == 1 and header.get("PhotometricInterpretation") != "PALETTE COLOR"


def is_mosaic(header: Any) -> bool:
    """Whether the one image shows all slices of a volume side by side, as Siemens stores time series."""
    kinds = header.get("ImageType")
    return "MOSAIC" in ([kinds] if isinstance(kinds, str) else list(kinds or []))


def functional_group(dataset: Any, frame: int, name: str) -> Any:
    """Return where a frame's attributes lie: its own group, the shared group, or the data set itself.

    Empty items are skipped.
    """
    for groups, position in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(groups) or []
        if position < len(items) and items[position].get(name) and len(items[position].get(name)[0]):
            return items[position].get(name)[0]
    return dataset
