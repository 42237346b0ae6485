"""A folder of DICOM slices as series: grouped by SeriesInstanceUID, ordered by position, with nothing else kept."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from biovfm_hf.dicom import import_pydicom

DEFLATED = "1.2.840.10008.1.2.1.99"
TAGS = ["SeriesInstanceUID", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient"]


def group_series(folder: Path, names: Iterable[str]) -> tuple[list[list[str]], list[str]]:
    """Names of `folder` as series, each in slice order, the series in a fixed order; and the names that are no DICOM.

    Slices are ordered along the normal of their plane where all tell their position, else by instance number.
    Series and their order depend on the file names and headers only; no header value is returned.
    """
    slices: dict[str, list[tuple[str, float | None, int]]] = defaultdict(list)
    unreadable = []
    for name in names:
        try:
            slices_key, position, instance = _place(folder / name)
        except Exception:  # a header can break pydicom in any way; the file is reported, the rest goes on
            unreadable.append(name)
            continue
        slices[slices_key].append((name, position, instance))
    series = [[name for name, _, _ in _ordered(group)] for group in slices.values()]
    return sorted(series, key=min), unreadable


def _ordered(group: list[tuple[str, float | None, int]]) -> list[tuple[str, float | None, int]]:
    positions = {position for _, position, _ in group}
    if None not in positions and len(positions) > 1:
        return sorted(group, key=lambda entry: (entry[1], entry[2], entry[0]))
    return sorted(group, key=lambda entry: (entry[2], entry[0]))


def _place(file: Path) -> tuple[str, float | None, int]:
    """Series, millimetres along the slice normal (None if not told) and instance number of one file."""
    pydicom = import_pydicom()
    if pydicom.filereader.read_file_meta_info(file).get("TransferSyntaxUID") == DEFLATED:
        raise ValueError("pydicom would inflate all of it, without a bound, to read the header")
    header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS)
    uid = str(header.SeriesInstanceUID)
    position, plane = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    along = None
    if position and plane and len(position) == 3 and len(plane) == 6:
        (a, b, c), (d, e, f) = (map(float, plane[:3]), map(float, plane[3:]))
        normal = (b * f - c * e, c * d - a * f, a * e - b * d)
        along = round(sum(n * float(p) for n, p in zip(normal, position, strict=True)), 3)
    return uid, along, int(header.get("InstanceNumber") or 0)
