"""Turns the decoded numbers of a DICOM frame into `Pixels`: rescale, tables, window, padding, polarity, spacing."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..intensity import Pixels, Window
from ..pictures import coloured
from ..volumes import believable
from .dicom_header import functional_group

_XRAY = ("1.2.840.10008.5.1.4.1.1.12.1", "1.2.840.10008.5.1.4.1.1.12.2")  # angiography, fluoroscopy
_STEP = 1e-6  # the width of a window that is a threshold: values above it are white
_COLOURS = ("Red", "Green", "Blue")
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")


def pixels_of(pydicom: Any, dataset: Any, array: np.ndarray, frame: int) -> Pixels:
    """The numbers of one frame with what turns them into values and into a picture (PS3.3 C.7.6.3, C.11.1, C.11.2).

    Args:
        pydicom: the module.
        dataset: its header.
        array: (rows, columns) or (rows, columns, 3), as decoded.
        frame: its number, from 0.
    """
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return replace(_values(pydicom, dataset, array, frame), spacing=spacing_of(dataset, frame))


def spacing_of(dataset: Any, frame: int) -> tuple[float, float]:
    """Return the distance of rows and of columns in one unit, (1, 1) if the header has nothing usable."""
    for name in _SPACINGS:
        pair = functional_group(dataset, frame, "PixelMeasuresSequence").get(name) or dataset.get(name)
        if pair and len(pair) == 2 and all(0 < float(x) < 1e4 for x in pair):
            return believable((float(pair[0]), float(pair[1])))
    return 1.0, 1.0


def _values(pydicom: Any, dataset: Any, array: np.ndarray, frame: int) -> Pixels:
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    if photometric == "PALETTE COLOR":
        return _coloured(pydicom, dataset, array)
    if array.ndim == 3:
        return Pixels(array)
    if dataset.get("BitsAllocated") == 1:
        return Pixels(array, window=(0.0, 1.0), inverted=photometric == "MONOCHROME1")
    inverted, padding = photometric == "MONOCHROME1", _padding(dataset, array.dtype)
    table = None if _is_xray(dataset) else _first_table(dataset, "ModalityLUTSequence", array)
    if table is not None:
        return _with_voi(dataset, frame, table.applied(Pixels(array, inverted=inverted, padding=padding)))
    rescale = functional_group(dataset, frame, "PixelValueTransformationSequence")
    slope, intercept = float(rescale.get("RescaleSlope") or 1.0), float(rescale.get("RescaleIntercept") or 0.0)
    return _with_voi(dataset, frame, Pixels(array, slope, intercept, inverted=inverted, padding=padding))


def _coloured(pydicom: Any, dataset: Any, array: np.ndarray) -> Pixels:
    """Palette numbers as RGB (PS3.3 C.7.6.3.1.5)."""
    descriptor = [int(number) for number in dataset.RedPaletteColorLookupTableDescriptor]
    count, first = descriptor[0] % (1 << 16) or 1 << 16, descriptor[1]
    if "RedPaletteColorLookupTableData" in dataset:
        names = [f"{colour}PaletteColorLookupTableData" for colour in _COLOURS]
        tables = np.stack([_palette(dataset, name, count)[:count] for name in names])
    else:  # in segments
        tables = pydicom.pixels.apply_color_lut(np.arange(first, first + count), dataset)[:, :3].T
    return coloured(np.clip(array.astype(np.int64) - first, 0, tables.shape[1] - 1), tables)


def _palette(dataset: Any, name: str, count: int) -> np.ndarray:
    element, (_, little) = dataset[name], dataset.original_encoding
    words = np.frombuffer(element.value[: len(element.value) // 2 * 2], "<u2" if little else ">u2")
    if len(words) >= count:
        return words
    swapped = not little and element.VR != "OB"  # two entries per word, the first in the lower half
    return words.astype("<u2").view(np.uint8) if swapped else np.frombuffer(element.value, np.uint8)


def _is_xray(dataset: Any) -> bool:
    """Whether the Modality LUT is not for display (PS3.3 C.8.7.1.1.2)."""
    known = str(dataset.get("SOPClassUID") or "")
    return dataset.get("Modality") in ("XA", "RF") or any(f"{known}.".startswith(f"{one}.") for one in _XRAY)


def _padding(dataset: Any, dtype: np.dtype) -> Window | None:
    """Stored numbers that mark pixels outside the picture (PS3.3 C.7.5.1.1.2), None if there are none."""
    kind = {4: "Float", 8: "DoubleFloat"}[dtype.itemsize] if dtype.kind == "f" else ""
    value, limit = (dataset.get(f"{kind}PixelPadding{end}") for end in ("Value", "RangeLimit"))
    if dtype.kind == "f" and isinstance(value, float):
        ends = [value, limit if isinstance(limit, float) else value]
        return min(ends), max(ends)
    if dtype.kind not in "iu" or not isinstance(value, int):
        return None
    ends = [value, limit if isinstance(limit, int) else value]
    # its sign may be stated wrong: -2000 and 63536 are the same 16 bits
    bits = 8 * dtype.itemsize
    info = np.iinfo(dtype)
    ends = [end if info.min <= end <= info.max else (end + (1 << bits)) % (1 << bits) for end in ends]
    ends = [end - (1 << bits) if end > info.max else end for end in ends]
    return float(min(ends)), float(max(ends))


def _with_voi(dataset: Any, frame: int, pixels: Pixels) -> Pixels:
    """Attach the first window that the file states, or apply its table if it states one instead (PS3.3 C.11.2)."""
    voi = functional_group(dataset, frame, "FrameVOILUTSequence")
    if window := _window(voi):
        return replace(pixels, window=window, sigmoid=_function(voi) == "SIGMOID")
    values = pixels.array * pixels.slope + pixels.intercept if "VOILUTSequence" in voi else pixels.array
    if (table := _first_table(voi, "VOILUTSequence", values)) is None:
        return pixels
    return replace(table.applied(pixels), window=(0.0, float(table.top)))


def _window(voi: Any) -> Window | None:
    """Return (low, high) in values of the first window, or None if it is absent or unusable (PS3.3 C.11.2.1.2)."""
    center, width = (_first_number(voi.get(key)) for key in ("WindowCenter", "WindowWidth"))
    if center is None or width is None or not np.isfinite([center, width]).all() or width <= 0:
        return None
    if _function(voi) == "LINEAR":
        if width < 1:
            return None
        low = center - 0.5 - (width - 1.0) / 2
        return low, low + max(width - 1.0, _STEP)
    return center - width / 2, center + width / 2


def _function(voi: Any) -> str:
    return str(voi.get("VOILUTFunction") or "LINEAR").strip().upper()


def _first_number(value: Any) -> float | None:
    if value is None or value == "":
        return None
    if hasattr(value, "__len__") and not isinstance(value, str):
        value = next((one for one in value if one not in (None, "")), None)
    return None if value is None else float(value)


class _Table(NamedTuple):
    """A lookup table: the input of its first entry, its entries, and the largest number an entry can be."""

    first: int
    entries: np.ndarray
    top: int

    def applied(self, pixels: Pixels) -> Pixels:
        """The entries for values. Values outside the table take its first or last entry.

        Padding has no entry, and stays padding: -1.
        """
        values = pixels.array * pixels.slope + pixels.intercept
        entries = self.entries[np.clip(np.rint(values).astype(np.int64) - self.first, 0, len(self.entries) - 1)]
        if pixels.padding is None:
            return Pixels(entries, inverted=pixels.inverted)
        outside = (pixels.array >= pixels.padding[0]) & (pixels.array <= pixels.padding[1])
        window = (0.0, 255.0) if entries.dtype == np.uint8 else None
        array = np.where(outside, -1, entries.astype(np.int32))
        return Pixels(array, window=window, inverted=pixels.inverted, padding=(-1.0, -1.0))


def _first_table(dataset: Any, name: str, values: np.ndarray) -> _Table | None:
    """The first usable table of a sequence; empty items are skipped."""
    for item in dataset.get(name) or []:
        descriptor, data = item.get("LUTDescriptor"), item.get("LUTData")
        if descriptor and len(descriptor) == 3 and data:
            return _table([int(number) for number in descriptor], data, values, item)
    return None


def _table(descriptor: list[int], data: Any, values: np.ndarray, item: Any) -> _Table:
    """A table whose entries take 8 to 16 bits (PS3.3 C.11.1.1.1)."""
    count, first, bits = descriptor[0] % (1 << 16) or 1 << 16, descriptor[1], descriptor[2]
    if first > 0x7FFF and values.min() < 0:  # a signed number that was read as an unsigned one
        first -= 1 << 16
    if not isinstance(data, bytes):
        words = np.atleast_1d(np.asarray(data, np.int64)) & 0xFFFF
        data, little = words.astype("<u2").tobytes(), True
    else:
        little = item.original_encoding[1] is not False
    single = len(data) < 2 * count  # entries of 8 bits lie two to a word
    order = "u1" if single else "<u2" if little else ">u2"
    entries = np.frombuffer(data[: count if single else 2 * count], order).astype(f"=u{1 if single else 2}")
    return _Table(first, entries, max((1 << min(bits, 16)) - 1, int(entries.max())))
