"""Lists a raw folder as items: the walk stays inside the folder, looks into archives, and accounts for every file.

Places are strings below the source's folder ("" is the folder itself): with millions of files, `Path` objects would
take most of the time.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from biovfm_hf.decoding.content import first_bytes
from biovfm_hf.decoding.dicom import is_dicom
from biovfm_hf.decoding.files import IMAGE_SUFFIXES
from biovfm_hf.decoding.series import group_series
from biovfm_hf.decoding.slice_places import read_places
from biovfm_hf.reading.image_files import has_no_suffix

from ..catalog.hdf5_items import EXPANDERS
from ..catalog.selection import Selection
from ..catalog.source import ItemRule, Source
from ..item import Item, Part
from ..readers.archives import UNREADABLE, Archive, is_archive
from ..readers.picture import opening
from .archives import ArchiveItems
from .folders import Entries, Entry, Files, Folders
from .item_maker import ItemMaker
from .runs import Run, items_of_runs
from .stamps import archive_stamp, stamp

# Names with these endings are neither archives nor parts of one, and DICOM only by suffix.
_SINGLE = frozenset(case(suffix) for suffix in IMAGE_SUFFIXES for case in (str.lower, str.upper))


def list_items(source: Source, raw_dir: Path) -> Iterator[Item]:
    """Everything of `source` below `raw_dir`, selected or excluded with a reason, in a fixed order.

    Folders are walked in the order of their names, archives in their own order. In memory are the names in the
    folders around the current one, and on a slow disk a few thousand names of what comes next. Symbolic links are
    followed only to files inside the source's folder. A missing folder yields nothing. No file's status is read twice,
    and each archive is opened once, for its stamp and for all that is read in it.
    """
    return items_of_runs(list_inputs(source, raw_dir, {}))


def list_inputs(source: Source, raw_dir: Path, stamps: dict[str, str]) -> Iterator[Run | Item]:
    """The items of `list_items`, with similar files of a folder grouped as runs.

    `stamps` receives the stamp of each file outside the runs, by its path; `stamp_of` takes it out again.
    """
    folder = raw_dir / source.folder
    if folder.is_dir():
        with Folders(folder) as folders:
            yield from _Walk(source, folder, folders, stamps).directory("", 0)


class _Walk:
    """One pass over the folder of one source."""

    def __init__(self, source: Source, folder: Path, folders: Folders, stamps: dict[str, str]) -> None:
        self._folders, self._stamps = folders, stamps
        self._top = f"{folder}/"
        self._selection = Selection(source, folder)
        self._maker = ItemMaker(source, self._selection)
        self._templates: dict[tuple[Any, ...], Item | None] = {}  # answers of `_template_of`

    def directory(self, below: str, depth: int) -> Iterator[Run | Item]:
        """The inputs of a folder and of those below it, in the order of their names."""
        try:
            parts = self._folders.parts(below, depth)
        except OSError as error:
            yield self._maker.not_a_picture(below, f"the folder cannot be read ({error.strerror})")
            return
        slices: list[str] = []
        current: Item | None = None
        alike = _Alike()  # files that all have the template `current`
        for template, content in chain.from_iterable(map(self._with_templates, parts)):
            if template is not current:
                if current is not None:
                    yield self._run(current, alike)
                current, alike = template, _Alike()
            if isinstance(content, Files):
                alike.add(content)
            else:
                yield from self._inputs_of(content, depth, slices)
        if current is not None:
            yield self._run(current, alike)
        if slices:
            yield from self._series(below, slices)

    def _with_templates(self, part: Entries) -> Iterator[tuple[Item | None, Files | Entry]]:
        """Entries of a folder in their order: files with the template that they share, or one entry without any."""
        if isinstance(part, Files):
            endings = _single_endings(part.names)
            rule = self._selection.takes_all(part.places, endings) if endings else None
            template = rule and self._template_of(rule, None, self._selection.labels(part.places[0], rule))
            if isinstance(template, Item):
                yield template, part
                return
            part = part.entries()
        for entry in part:
            name, place, status, _ = entry
            shared = None if status is None else self._template_at(place)
            yield shared, entry if shared is None or status is None else Files([name], [place], [status])

    def _inputs_of(self, entry: Entry, depth: int, slices: list[str]) -> Iterator[Run | Item]:
        name, place, status, problem = entry
        if status is not None and is_archive(name):  # whatever the rules: none reads it as one picture
            yield from self._archive(place, status)
        elif status is not None:
            self._stamps[self._maker.prefix + place] = stamp(self._top + place, status)
            yield from self._other(place, name, status.st_size, slices)
        elif problem is not None:
            yield self._maker.not_a_picture(place, problem)
        else:
            yield from self.directory(place, depth + 1)

    def _run(self, template: Item, files: "_Alike") -> Run:
        prefix = self._maker.prefix
        paths = [prefix + place for place in files.places]
        return Run(template, paths, files.sizes, files.changes, self._selection.subjects(files.places))

    def _template_at(self, place: str) -> Item | None:
        """Fields shared by files that are one input each by name and rule, as nearly all are; None for other files.

        All files that share the fields get the same object.
        """
        if place[place.rfind(".") :] not in _SINGLE:
            return None
        rule, reason = self._selection.judged(place)
        if rule is None:
            return None
        return self._template_of(rule, reason, self._selection.labels(place, rule))

    def _template_of(self, rule: ItemRule, reason: str | None, labels: tuple[str | None, str | None]) -> Item | None:
        key = (id(rule), reason, labels)
        if key not in self._templates:
            self._templates[key] = _shared_fields(rule, reason, *labels)
        return self._templates[key]

    def _archive(self, place: str, status: os.stat_result) -> Iterator[Item]:
        with Archive(Path(self._top + place)) as archive:
            self._stamps[self._maker.prefix + place] = archive_stamp(archive, status)
            if reason := self._selection.excluded(place):
                yield self._maker.excluded(place, reason, "archive")
            else:
                yield from ArchiveItems(self._maker, place, archive).items()

    def _other(self, place: str, name: str, size: int, slices: list[str]) -> Iterator[Item]:
        """The items of a file that is no archive; a slice of a series is added to `slices`, as more may follow."""
        pattern_path = self._pattern_path(place)
        rule = self._selection.rule(pattern_path)
        is_slice = rule is not None and rule.kind == "dicom_series" and not _is_out_of_reach(name.lower())
        if is_slice and self._selection.excluded(pattern_path) is None:
            slices.append(name)
        else:
            yield from self._file(place, name, pattern_path, rule, size)

    def _pattern_path(self, place: str) -> str:
        """The path that patterns are matched with: NAME.dcm for a DICOM file whose name has no suffix, as in exports.

        An exclude rule that matches the real name still holds.
        """
        if not has_no_suffix(place) or self._selection.rule(place) or self._selection.excluded(place):
            return place
        try:
            return f"{place}.dcm" if is_dicom(first_bytes(Path(self._top + place), 132)) else place
        except OSError:
            return place

    def _file(self, place: str, name: str, pattern_path: str, rule: ItemRule | None, size: int) -> Iterator[Item]:
        lower = name.lower()
        if lower.endswith(UNREADABLE):
            suffix = lower.rpartition(".")[2]
            yield self._maker.excluded(
                place, f"a .{suffix} archive cannot be read in place: unpack it here", "archive"
            )
        elif _is_part(lower):
            yield self._maker.excluded(place, "one part of a split archive: join the parts first", "archive")
        else:
            yield from self._expanded(
                self._maker.item(place, pattern_path, rule, None, Part(place, size)), place, rule
            )

    def _expanded(self, item: Item, place: str, rule: ItemRule | None) -> Iterator[Item]:
        """The items that the rule's adapter lists inside a file; without an adapter the item itself."""
        if rule is None or rule.adapter is None or item.excluded:
            yield item
            return
        try:
            for inner in EXPANDERS[rule.adapter](item, Path(self._top + place), rule.key):
                inside = f"{place}#{inner.member if inner.row is None else inner.row}"
                reason = inner.excluded or self._selection.outside_training(inside)
                yield inner._replace(subject=self._selection.subject(inside), excluded=reason)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            yield self._maker.excluded(place, f"cannot be opened as {item.kind} ({type(error).__name__})", item.kind)

    def _series(self, below: str, names: list[str]) -> Iterator[Item]:
        """One item per DICOM series of a folder; files that are not DICOM are excluded one by one."""
        folder = Path(self._top + below)
        series, left_out = group_series(read_places((name, opening(folder / name)) for name in names))
        prefix = f"{below}/" if below else ""
        for number, slices in enumerate(series):
            first = prefix + slices[0]
            pattern_path = self._pattern_path(first)
            rule = self._selection.rule(pattern_path) or ItemRule("")
            item = self._maker.make(
                below, pattern_path, rule, str(number), self._selection.outside_training(pattern_path)
            )
            files = tuple(f"{self._maker.prefix}{prefix}{name}" for name in slices)
            yield item._replace(kind="dicom_series", files=files)
        for name, reason in left_out.items():
            yield self._maker.excluded(prefix + name, reason, "dicom_series")


@dataclass(frozen=True)
class _Alike:
    """Files of a folder that become one run, as columns."""

    places: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    changes: list[int] = field(default_factory=list)

    def add(self, files: Files) -> None:
        """Append files; their statuses are read now, while the processor has them at hand."""
        self.places.extend(files.places)
        self.sizes.extend([status.st_size for status in files.statuses])
        self.changes.extend([status.st_mtime_ns for status in files.statuses])


def _single_endings(names: list[str]) -> set[str]:
    """The endings of these names if all are among `_SINGLE`; empty if not."""
    if not names:
        return set()
    ending = names[0][names[0].rfind(".") :]
    joined = "/".join([*names, ""])  # counting in one text takes a sixth of the time
    alike = joined.count(f"{ending}/") == len(names)
    endings = {ending} if alike else {name[name.rfind(".") :] for name in names}
    return endings if endings <= _SINGLE else set()


def _shared_fields(rule: ItemRule, reason: str | None, modality: str | None, anatomy: str | None) -> Item | None:
    """Fields shared by files that are one input each under a rule; None if a file is more or less than one input."""
    if rule.adapter is not None or rule.kind == "dicom_series":
        return None
    return Item("", None, rule.kind, None, anatomy, reason, rule.intensity, rule.view, modality, fps=rule.fps)


def _is_out_of_reach(lower: str) -> bool:
    """Whether a name is one of an archive that cannot be read in place, or of a part of one."""
    return lower.endswith(UNREADABLE) or _is_part(lower)


def _is_part(lower: str) -> bool:
    """Names of the parts of split archives: x.zip.001, x.zip.0a, x.z01."""
    stem, _, last = lower.rpartition(".")
    if last[:1] == "z" and last[1:].isdigit():
        return True
    return stem.endswith((".zip", ".7z", ".tar", ".gz")) and len(last) <= 4 and last[:1].isdigit()
