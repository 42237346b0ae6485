"""Reader of DICOM series: the slices of the volume that its files form, or a picture for each file."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from biovfm_hf.decoding.content import Pages
from biovfm_hf.decoding.dicom import read_dicom
from biovfm_hf.decoding.series import Stack, stack_of
from biovfm_hf.decoding.slice_places import Place, read_place
from biovfm_hf.decoding.stacking import stacked
from biovfm_hf.errors import UserError
from biovfm_hf.pixels import Pixels

from ..item import Item
from ..limits import MAX_MEMBER_BYTES, MAX_SERIES_FILES, MAX_VOLUME_BYTES, TOO_LARGE, Refused
from .files import bounded, pictures
from .intensity import Setting
from .members import members
from .picture import Open, Picture, Unread, opening
from .slicing import sliced, time_points

_Failures = dict[int, Exception]


class _File(NamedTuple):
    """One file of a series: its path below the raw folder, or name in the archive, and how to open it."""

    name: str
    open: Open


def read(
    source: Path | bytes | list[bytes | Refused], item: Item, raw: Path, views: Sequence[str], size: int
) -> Iterator[Picture | Unread]:
    """Yield the slices of a series, whose files are in slice order, along `views`; and its unreadable files.

    A series with several files at each position gives a volume for each sampled time point, numbered as in a 4D file
    (see `slicing.sliced`). A series that is not a volume (one position, slices not evenly spaced, repeated unevenly,
    or of different shapes or planes) gives its files as 2D pictures with the view `frame`.

    Raises:
        UserError, Refused: too many files, a volume over MAX_VOLUME_BYTES, or none of its files can be read.
    """
    files = _files(source, item, raw)
    if len(files) > MAX_SERIES_FILES:
        raise Refused(TOO_LARGE, f"a series of {len(files)} files")
    failures: _Failures = {}
    places = {number: place for number, file in enumerate(files) if (place := _place(file, number, failures))}
    if not places:
        raise next(iter(failures.values()))
    stack = stack_of(list(places.values()))
    if stack is None:
        yield from _separate(files, places, failures, item.intensity, views, size)
    else:
        yield from _volumes(files, list(places), stack, failures, item.intensity, views, size)
    yield from (Unread(files[number].name, error) for number, error in sorted(failures.items()))


def _volumes(
    files: Sequence[_File], numbers: Sequence[int], stack: Stack, failures: _Failures, setting: Setting,
    views: Sequence[str], size: int,
) -> Iterator[Picture]:  # fmt: skip
    for time in time_points(stack.times):
        chosen = numbers[time :: stack.times]
        readers = [partial(_slice, files[number], size) for number in chosen]
        volume, bad = stacked(readers, stack, "the series", MAX_VOLUME_BYTES)
        failures.update({chosen[at]: error for at, error in bad.items()})
        volumes = [volume]
        del volume
        yield from sliced(volumes, setting, views, time)


def _separate(
    files: Sequence[_File], places: dict[int, Place], failures: _Failures, setting: Setting, views: Sequence[str],
    size: int,
) -> Iterator[Picture]:  # fmt: skip
    """Pictures of files that do not form a volume together; a mosaic, or a file of even frames, is one by itself."""
    numbers = list(places)
    if all(place.mosaic for place in places.values()):
        numbers = [numbers[time] for time in time_points(len(numbers))]
    index = 0
    for time, number in enumerate(numbers):
        try:
            with files[number].open() as file:
                content = read_dicom(bounded(file, files[number].name, None, size))
                for picture in pictures([content], setting, views, time):
                    flat = picture.view in ("2d", "frame")
                    yield replace(picture, view="frame", index=index) if flat else picture
                    index += 1
        except (UserError, Refused) as error:
            failures[number] = error


def _slice(file: _File, size: int) -> Pixels:
    with file.open() as opened:
        content = read_dicom(replace(bounded(opened, file.name, None, size), shorter_side=None))
        pixels = content.page(0) if isinstance(content, Pages) else None
        if pixels is None:
            raise UserError(f"{file.name}: is not a single slice; leave it out")
        return pixels


def _place(file: _File, number: int, failures: _Failures) -> Place | None:
    try:
        with file.open() as opened:
            return read_place(opened)
    except Refused as error:
        failures[number] = error
    except Exception as error:  # a header can break pydicom in any way
        failures[number] = UserError(f"{file.name}: not a readable DICOM file ({type(error).__name__})")
    return None


def _files(source: Any, item: Item, raw: Path) -> list[_File]:
    """The files of a series in slice order."""
    if not item.members:
        return [_File(name, partial(_open_file, raw / name)) for name in item.files]
    listed = [part.item(item.path) for part in item.members]
    if isinstance(source, list):
        return [_File(str(one.member), partial(_open_bytes, data)) for one, data in zip(listed, source, strict=True)]
    return [_File(str(one.member), partial(_open_member, source, one)) for one in listed]


def _open_file(path: Path) -> Any:
    size = path.stat().st_size
    if size > MAX_MEMBER_BYTES:
        raise Refused(TOO_LARGE, f"a DICOM file of {size / 2**20:.0f} MiB")
    return opening(path)()


def _open_member(archive: Path, member: Item) -> Any:
    ((_, data),) = members(archive, [member])
    return _open_bytes(data)


def _open_bytes(data: bytes | Refused) -> Any:
    if isinstance(data, Refused):
        raise data
    return nullcontext(BytesIO(data))
