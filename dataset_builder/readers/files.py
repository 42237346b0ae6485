"""Reads any file as pictures: one for each page or frame, or the slices of a volume."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from biovfm_hf.decoding import Content, Source, read_file
from biovfm_hf.decoding.content import Beside, Pages, first_bytes, folder_beside
from biovfm_hf.decoding.dicom import is_dicom_file
from biovfm_hf.errors import UnsafePath
from biovfm_hf.pixels import MAX_PIXELS, Pixels, Volume

from ..item import Item, Part
from ..limits import MAX_FRAMES, MAX_MEMBER_BYTES, MAX_PAGES, MAX_VOLUME_BYTES, TOO_LARGE, Refused
from .archives import list_members
from .intensity import Setting, mapped
from .members import members
from .picture import Picture, opening
from .png import plain_png
from .slicing import sliced


def read(
    source: Path | bytes, name: str, beside: Beside | None, setting: Setting, views: Sequence[str], size: int
) -> Iterator[Picture]:
    """Yield the pictures of a file: `2d` for one, `frame` for each of several, or the slices of a volume.

    JPEG and JPEG 2000 are decoded at the reduced scale nearest above twice `size` pixels on the shorter side, which
    leaves more than 50 dB against a full decode. Pages of another size than the first (thumbnails) are skipped.

    Raises:
        UserError, Refused: not readable, no picture, or over the limits; pictures already yielded stay valid.
    """
    if (
        isinstance(source, Path)
        and source.stat().st_size > MAX_MEMBER_BYTES
        and is_dicom_file(first_bytes(source, 132), name)
    ):
        raise Refused(TOO_LARGE, f"a DICOM file of {source.stat().st_size / 2**20:.0f} MiB")
    plain = plain_png(source)
    if plain is not None:
        yield _single(plain, setting, None)
        return
    with opening(source)() as file:
        content = read_file(bounded(file, name, beside, size))
        yield from pictures([content], setting, views)


def bounded(file: BinaryIO, name: str, beside: Beside | None, size: int) -> Source:
    """An open file with the builder's limits, for rows of `size` pixels."""
    return Source(file, name, beside, MAX_PIXELS, MAX_VOLUME_BYTES, 2 * size)


def pictures(contents: list[Content], setting: Setting, views: Sequence[str], time: int = 0) -> Iterator[Picture]:
    """Yield the pictures of the only content in the list, which is removed so that its memory can be freed.

    `time`: the time point in its series, for a volume without a time axis.
    """
    content = contents.pop()
    if isinstance(content, Pages) and content.volume is not None:
        if content.count > MAX_FRAMES:
            raise Refused(TOO_LARGE, f"{content.count} frames")
        content = content.volume() or content
    if isinstance(content, Volume):
        volumes = [content]
        del content
        yield from sliced(volumes, setting, views, time)
    elif content.count == 1:
        pixels = content.page(0)
        if pixels is not None:
            yield _single(pixels, setting, content.size)
    else:
        yield from _frames(content, setting)


def _single(pixels: Pixels, setting: Setting, size: tuple[int, int] | None) -> Picture:
    columns, rows = size or (pixels.array.shape[1], pixels.array.shape[0])
    return Picture(mapped(pixels, setting), "2d", None, pixels.spacing, columns, rows)


def _frames(pages: Pages, setting: Setting) -> Iterator[Picture]:
    most = MAX_FRAMES if pages.in_memory or pages.volume is not None else MAX_PAGES
    for number in range(min(pages.count, most)):
        pixels = pages.page(number)
        if pixels is not None:
            rows, columns = pixels.array.shape[:2]
            yield Picture(mapped(pixels, setting), "frame", number, pixels.spacing, columns, rows)
    if pages.count > most:
        raise Refused(TOO_LARGE, f"more than {most} pages or frames; those before are kept")


def beside(source: Path | bytes, item: Item, raw: Path) -> Beside:
    """A function that opens files beside an input: in its folder, or in the same folder of its archive."""
    return folder_beside(source.parent) if isinstance(source, Path) else _beside_member(raw / item.path, item)


def _beside_member(archive: Path, item: Item) -> Beside:
    outer, _, own = (item.member or "").rpartition("!")

    def open_beside(name: str) -> BinaryIO:
        parts = PurePosixPath(name).parts
        target = PurePosixPath(own).parent.joinpath(*parts).as_posix()
        if outer or ".." in parts or PurePosixPath(name).is_absolute():
            raise UnsafePath("the file that holds the voxels is not beside the header; unpack the archive here")
        for member in list_members(archive):
            if member.problem is None and member.name.removeprefix("./") == target:
                part = Part(member.name, member.size, member.offset)
                ((_, data),) = members(archive, [part.item(item.path)])
                if isinstance(data, Refused):
                    raise data
                return BytesIO(data)
        raise UnsafePath("the file that holds the voxels is missing in the archive; fetch it")

    return open_beside
