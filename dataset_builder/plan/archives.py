"""Lists an archive as items: its members, those of ZIPs inside it, and the DICOM series among them."""

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from itertools import chain
from pathlib import Path

from biovfm_hf.decoding.dicom import is_dicom
from biovfm_hf.decoding.series import group_series
from biovfm_hf.decoding.slice_places import Place, read_places
from biovfm_hf.reading.image_files import has_no_suffix

from ..catalog.selection import HIDDEN_FILE
from ..catalog.source import ItemRule
from ..item import Item, Part
from ..readers.archives import UNREADABLE, BrokenArchive, Member, is_archive, is_zip, list_members, zip_members
from ..readers.members import members, zip_member
from ..readers.picture import opening
from .folders import is_hidden_folder
from .item_maker import ItemMaker

EMPTY = "an archive without files"


class ArchiveItems:
    """The items of one archive, at `place` in its source's folder."""

    def __init__(self, maker: ItemMaker, place: str, file: Path) -> None:
        self._maker, self._selection = maker, maker.selection
        self._place, self._file = place, file

    def items(self) -> Iterator[Item]:
        """The items in the archive's order, its series last; if it cannot be listed, an item that says why."""
        slices: list[Member] = []
        try:
            listed = list_members(self._file)
            items = chain.from_iterable(self._member(member, slices) for member in listed)
            yield from self._listed(items, slices)
        except (OSError, ValueError) as error:
            yield self._maker.excluded(self._place, _fault(error), "archive")
        if slices:
            yield from self._series_inside(slices)

    def _listed(self, items: Iterator[Item], slices: list[Member], member: str | None = None) -> Iterator[Item]:
        """The items of an archive; if it has neither items nor slices, one item that says so."""
        first = next(items, None)
        if first is not None:
            yield first
            yield from items
        elif not slices:
            yield self._maker.excluded(self._place, EMPTY, "archive", member)

    def _member(self, member: Member, slices: list[Member], inner: BytesIO | None = None) -> Iterator[Item]:
        """The item of a member; a slice of a series is added to `slices` instead, since more may follow.

        `inner` is the ZIP inside the archive, if the member is in one.
        """
        name = member.name.rpartition("/")[2]
        if member.problem is None and member.outer is None and self._place.lower().endswith(".zip") and is_zip(name):
            yield from self._nested(member, slices)
            return
        problem = member.problem
        if problem is None and (hidden := _hidden(member.name)):
            yield self._maker.not_a_picture(self._place, hidden, member.name)
            return
        if problem is None and (is_archive(name) or name.lower().endswith(UNREADABLE)):
            problem = "an archive inside an archive: unpack the outer one here"
        if problem:
            printable = member.name.encode("unicode_escape").decode("ascii")
            yield self._maker.excluded(self._place, problem, "archive", printable)
            return
        inside = f"{self._place}/{member.name.removeprefix('./')}"  # for patterns an archive is a folder
        if member.outer is not None:
            inside = f"{self._place}/{member.outer.name}/{member.name.removeprefix(member.outer.name + '!')}"
        rule = self._selection.rule(inside)
        if rule is None and has_no_suffix(name) and self._is_dicom(member, inner):
            inside = f"{inside}.dcm"  # the same as for a loose file
            rule = self._selection.rule(inside)
        if rule is not None and rule.kind == "dicom_series" and self._selection.excluded(inside) is None:
            slices.append(member)
        else:
            yield self._maker.item(self._place, inside, rule, member.name, _part(member))

    def _is_dicom(self, member: Member, inner: BytesIO | None) -> bool:
        if member.offset is None:
            return is_dicom(member.start)
        archive, item = self._file, _part(member).item(self._maker.prefix + self._place)
        data = next(members(archive, [item]))[1] if inner is None else zip_member(inner, archive, item)
        return isinstance(data, bytes) and is_dicom(data[:132])

    def _nested(self, outer: Member, slices: list[Member]) -> Iterator[Item]:
        """The members of a ZIP inside a ZIP, which is read into memory once."""
        if reason := self._selection.excluded(f"{self._place}/{outer.name}"):
            yield self._maker.excluded(self._place, reason, "archive", outer.name)
            return
        ((_, data),) = members(self._file, [_part(outer).item(self._place, "archive")])
        try:
            if isinstance(data, Exception):
                raise BrokenArchive(str(data))
            inside = (replace(one, name=f"{outer.name}!{one.name}", outer=outer) for one in zip_members(BytesIO(data)))
            before = len(slices)
            opened = BytesIO(data)
            items = chain.from_iterable(self._member(member, slices, opened) for member in inside)
            yield from self._listed(items, slices[before:], outer.name)
        except ValueError as error:
            yield self._maker.excluded(self._place, _fault(error), "archive", outer.name)

    def _series_inside(self, slices: list[Member]) -> Iterator[Item]:
        """One item per DICOM series of a folder in an archive, like `_series` for a folder on disk."""
        files = members(self._file, [_part(member).item(self._maker.prefix + self._place) for member in slices])
        places = read_places((str(item.member), opening(_readable(data))) for item, data in files)
        folders: dict[str, list[tuple[str, Place | None]]] = {}
        for name, slice_place in places:
            folders.setdefault(name.rpartition("/")[0], []).append((name, slice_place))
        parts = {member.name: _part(member, at) for at, member in enumerate(slices)}
        items = [item for folder, group in folders.items() for item in self._series_of(folder, group, parts)]
        yield from sorted(items, key=_complete_at)  # a compressed TAR is read as a stream, once

    def _series_of(self, folder: str, group: list[tuple[str, Place | None]], parts: dict[str, Part]) -> Iterator[Item]:
        series, left_out = group_series(group)
        for number, names in enumerate(series):
            inside = f"{self._place}/{names[0].removeprefix('./').replace('!', '/')}"
            rule = self._selection.rule(inside) or self._selection.rule(f"{inside}.dcm") or ItemRule("")
            label = f"{folder}/{number}" if folder else str(number)
            item = self._maker.make(self._place, inside, rule, label, self._selection.outside_training(inside))
            yield item._replace(kind="dicom_series", members=tuple(parts[name] for name in names))
        for name, reason in left_out.items():
            yield self._maker.excluded(self._place, reason, "dicom_series", name)


def _fault(error: OSError | ValueError) -> str:
    """Why an archive cannot be listed, without a library's quotations, which may contain a patient's name."""
    if isinstance(error, BrokenArchive):
        return str(error)
    return f"broken archive ({getattr(error, 'strerror', None) or type(error).__name__})"


def _complete_at(item: Item) -> int:
    """The place in its archive of the last file of a series."""
    return max((part.at or 0 for part in item.members), default=-1)


def _readable(data: bytes | Exception) -> bytes:
    """The bytes of a member; empty if it cannot be read, so that it is not taken for DICOM."""
    return data if isinstance(data, bytes) else b""


def _part(member: Member, at: int | None = None) -> Part:
    """The fields that a reader needs to find a member."""
    outer = None if member.outer is None else _part(member.outer)
    return Part(member.name, member.size, member.offset, outer, at)


def _hidden(member: str) -> str | None:
    """Why a member of an archive is skipped, by the rules for files on disk; None if it is not."""
    *folders, name = member.rpartition("!")[2].removeprefix("./").split("/")
    if any(map(is_hidden_folder, folders)):
        return "in a hidden folder"
    return HIDDEN_FILE if name.startswith(".") else None
