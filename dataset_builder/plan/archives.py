"""Lists an archive as items: its members, those of ZIPs inside it, and the DICOM series among them."""

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from biovfm_hf.decoding.dicom import is_dicom
from biovfm_hf.decoding.series import group_series
from biovfm_hf.decoding.slice_places import Place, read_places
from biovfm_hf.reading.image_files import has_no_suffix

from ..catalog.selection import HIDDEN_FILE
from ..catalog.source import ItemRule
from ..item import Item, Part
from ..readers.archives import UNREADABLE, Archive, BrokenArchive, Member, is_archive, is_zip
from ..readers.members import content_of, start_of
from ..readers.picture import opening
from .folders import is_hidden_folder
from .item_maker import ItemMaker

EMPTY = "an archive without files"


class ArchiveItems:
    """The items of one archive, at `place` in its source's folder.

    Each member is read when it is listed, if at all, since a compressed TAR is a stream.
    """

    def __init__(self, maker: ItemMaker, place: str, archive: Archive) -> None:
        self._maker, self._selection = maker, maker.selection
        self._place, self._archive = place, archive
        self._slices: list[tuple[Part, Place | None]] = []  # of series, since more slices may follow

    def items(self) -> Iterator[Item]:
        """The items in the archive's order, its series last; if it cannot be listed, an item that says why."""
        try:
            yield from self._listed(self._archive, None)
        except (OSError, ValueError) as error:
            yield self._maker.excluded(self._place, _fault(error), "archive")
        yield from self._series()

    def _listed(self, archive: Archive, outer: Member | None) -> Iterator[Item]:
        """The items of the archive, or of the ZIP `outer` inside it; if it has no file, one item that says so."""
        slices, has_items = len(self._slices), False
        for member in archive.members():
            if outer is not None:
                member = replace(member, name=f"{outer.name}!{member.name}", outer=outer)
            for item in self._member(archive, member):
                has_items = True
                yield item
        if not has_items and len(self._slices) == slices:
            yield self._maker.excluded(self._place, EMPTY, "archive", None if outer is None else outer.name)

    def _member(self, archive: Archive, member: Member) -> Iterator[Item]:
        """The item of a member of `archive`; a slice of a series is kept instead."""
        own = member.name if member.outer is None else member.name.removeprefix(f"{member.outer.name}!")
        name = own.rpartition("/")[2]
        if member.problem is None and member.outer is None and archive.is_zip and is_zip(name):
            yield from self._nested(member)
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
        folder = self._place if member.outer is None else f"{self._place}/{member.outer.name}"
        inside = f"{folder}/{own.removeprefix('./')}"  # for patterns an archive is a folder
        rule = self._selection.rule(inside)
        if rule is None and has_no_suffix(name) and is_dicom(start_of(archive, member)):
            inside = f"{inside}.dcm"  # the same as for a loose file
            rule = self._selection.rule(inside)
        if rule is not None and rule.kind == "dicom_series" and self._selection.excluded(inside) is None:
            self._slices.append((member.part(len(self._slices)), _place_of(archive, member)))
        else:
            yield self._maker.item(self._place, inside, rule, member.name, member.part())

    def _nested(self, outer: Member) -> Iterator[Item]:
        """The members of a ZIP inside a ZIP, which is read into memory once."""
        if reason := self._selection.excluded(f"{self._place}/{outer.name}"):
            yield self._maker.excluded(self._place, reason, "archive", outer.name)
            return
        content = content_of(self._archive, outer)
        try:
            if isinstance(content, Exception):
                raise BrokenArchive(str(content))
            yield from self._listed(Archive(Path(outer.name), BytesIO(content)), outer)
        except ValueError as error:
            yield self._maker.excluded(self._place, _fault(error), "archive", outer.name)

    def _series(self) -> Iterator[Item]:
        """One item per DICOM series of a folder in the archive, as for a folder on disk."""
        folders: dict[str, list[tuple[str, Place | None]]] = {}
        for part, place in self._slices:
            folders.setdefault(part.name.rpartition("/")[0], []).append((part.name, place))
        parts = {part.name: part for part, _ in self._slices}
        items = [item for folder, group in folders.items() for item in self._series_of(folder, group, parts)]
        yield from sorted(items, key=_complete_at)  # the build reads a compressed TAR as a stream, once

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


def _place_of(archive: Archive, member: Member) -> Place | None:
    """Where a slice lies in its series; None if it cannot be read as DICOM."""
    content = content_of(archive, member)
    return None if isinstance(content, Exception) else next(read_places([(member.name, opening(content))]))[1]


def _hidden(member: str) -> str | None:
    """Why a member of an archive is skipped, by the rules for files on disk; None if it is not."""
    *folders, name = member.rpartition("!")[2].removeprefix("./").split("/")
    if any(map(is_hidden_folder, folders)):
        return "in a hidden folder"
    return HIDDEN_FILE if name.startswith(".") else None
