"""From a raw folder to items: a walk that stays inside the folder, looks into archives, and leaves nothing unsaid."""

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from .adapters import EXPANDERS
from .adapters.archives import UNREADABLE, Member, is_archive, list_members, virtual_path
from .adapters.dicom_series import group_series
from .catalog import NOT_ESTABLISHED, ItemRule, Source
from .item import Item
from .selection import UNNAMED, Selection, looks_like_image

MAX_DEPTH = 32
SKIPPED_FOLDERS = {"__MACOSX"}


def list_items(source: Source, raw_dir: Path) -> Iterator[Item]:
    """See `catalog.iterate`."""
    folder = raw_dir / source.folder
    if not folder.is_dir():
        return
    walk = _Walk(source, raw_dir, folder)
    yield from walk.directory(folder, 0)


class _Walk:
    """One pass over the folder of one source."""

    def __init__(self, source: Source, raw_dir: Path, folder: Path) -> None:
        self._source, self._raw, self._folder = source, raw_dir, folder
        self._inside = folder.resolve()
        self._selection = Selection(source, folder)

    def directory(self, directory: Path, depth: int) -> Iterator[Item]:
        """The items of a folder and of those below it, in the order of their names."""
        try:
            names = sorted(os.listdir(directory))  # noqa: PTH208 (names only: a folder may hold millions of files)
        except OSError as error:
            yield self._excluded(directory, f"the folder cannot be read ({error.strerror})")
            return
        slices: list[str] = []
        for name in names:
            path = directory / name
            problem, is_folder = self._look(path, depth)
            if is_folder:
                if name not in SKIPPED_FOLDERS and not name.startswith("."):
                    yield from self.directory(path, depth + 1)
            elif problem:
                if looks_like_image(name) or "link" in problem:
                    yield self._excluded(path, problem)
            elif self._is_slice(path):
                slices.append(name)
            else:
                yield from self._file(path)
        if slices:
            yield from self._series(directory, slices)

    def _look(self, path: Path, depth: int) -> tuple[str | None, bool]:
        """Why an entry cannot be taken (None if it can), and whether it is a folder to walk."""
        try:
            path.name.encode("utf-8")
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                target = path.resolve(strict=True)
                if not target.is_relative_to(self._inside):
                    return "a symbolic link that leaves the source's folder", False
                if not target.is_file():
                    return "a symbolic link to a folder or device", False
                mode = target.stat().st_mode
            if stat.S_ISDIR(mode):
                return ("folders nested too deep", False) if depth >= MAX_DEPTH else (None, True)
            if not stat.S_ISREG(mode):
                return "not a regular file", False
            return ("a hidden file", False) if path.name.startswith(".") else (None, False)
        except UnicodeEncodeError:
            return "the file name is not valid UTF-8", False
        except (OSError, RuntimeError):
            return "a broken symbolic link or unreadable file", False

    def _is_slice(self, path: Path) -> bool:
        below = self._below(path)
        rule = self._selection.rule(below)
        return rule is not None and rule.kind == "dicom_series" and self._selection.excluded(below) is None

    def _file(self, path: Path) -> Iterator[Item]:
        below = self._below(path)
        lower = path.name.lower()
        size = {"size": path.stat().st_size}
        if is_archive(lower) and self._selection.rule(below) is None:
            reason = self._selection.excluded(below)
            if reason:
                yield self._excluded(path, reason, "archive")
            else:
                yield from self._archive(path, below)
        elif lower.endswith(UNREADABLE):
            yield self._excluded(path, f"a {path.suffix} archive cannot be read in place: unpack it here", "archive")
        elif _is_part(lower):
            yield self._excluded(path, "one part of a split archive: join the parts first", "archive")
        else:
            item = self._item(path, below, None, size)
            if item is not None:
                yield from self._expanded(item, path, below)

    def _expanded(self, item: Item, path: Path, below: str) -> Iterator[Item]:
        rule = self._selection.rule(below)
        if rule is None or rule.adapter is None or item.excluded:
            yield item
            return
        try:
            for inner in EXPANDERS[rule.adapter](item, path, rule.key):
                place = f"{below}#{(inner.options or {}).get('row', inner.member)}"
                reason = inner.excluded or self._selection.outside_training(place)
                yield replace(inner, subject=self._selection.subject(place), excluded=reason)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            yield self._excluded(path, f"cannot be opened as {item.kind} ({type(error).__name__})", item.kind)

    def _archive(self, path: Path, below: str) -> Iterator[Item]:
        try:
            for member in list_members(path):
                yield from self._member(path, below, member)
        except (OSError, ValueError) as error:
            yield self._excluded(path, str(error) or type(error).__name__, "archive")

    def _member(self, path: Path, below: str, member: Member) -> Iterator[Item]:
        options = {"size": member.size} | ({} if member.offset is None else {"offset": member.offset})
        name = member.name.rsplit("/", 1)[-1]
        problem = member.problem
        if problem is None and (name.startswith(".") or "__MACOSX/" in member.name):
            problem = "a hidden file"
        if problem is None and (is_archive(name) or name.lower().endswith(UNREADABLE)):
            problem = "an archive inside an archive: unpack the outer one here"
        if problem:
            if looks_like_image(name) or member.problem:
                yield self._excluded(path, problem, "archive", member.name.encode("unicode_escape").decode("ascii"))
            return
        item = self._item(path, virtual_path(below, member.name), member.name, options)
        if item is not None:
            yield item

    def _item(self, path: Path, below: str, member: str | None, options: dict[str, int]) -> Item | None:
        """The item of one file, None for a file that neither a rule names nor looks like an image."""
        rule = self._selection.rule(below)
        reason = self._selection.excluded(below)
        if rule is None:
            if not looks_like_image(below):
                return None
            if reason is None:
                established = self._source.layout_established
                reason = UNNAMED if established else f"the raw layout of {self._source.id} is {NOT_ESTABLISHED}"
            rule = ItemRule("")
        if reason is None and rule.adapter is None:
            reason = self._selection.outside_training(below)
        if reason is None and rule.adapter and member:
            reason = f"{rule.kind} inside an archive cannot be read in place: unpack it here"
        return self._make(path, below, rule, member, reason, options)

    def _make(
        self, path: Path, below: str, rule: ItemRule, member: str | None, reason: str | None, options: dict[str, int]
    ) -> Item:
        modality, anatomy = self._selection.labels(below, rule)
        return Item(
            path=path.relative_to(self._raw).as_posix(),
            member=member,
            kind="image" if rule.kind == "dicom_series" and member else rule.kind,
            subject=self._selection.subject(below),
            anatomy=anatomy,
            excluded=reason,
            intensity=rule.intensity,
            view=rule.view,
            options=options | ({} if rule.fps is None else {"fps": rule.fps}),
            modality=modality,
        )

    def _series(self, directory: Path, names: list[str]) -> Iterator[Item]:
        """One item per DICOM series of a folder; files that are no DICOM are excluded one by one."""
        series, unreadable = group_series(directory, names)
        for number, slices in enumerate(series):
            first = directory / slices[0]
            below = self._below(first)
            rule = self._selection.rule(below)
            assert rule is not None  # _is_slice saw it
            reason = self._selection.outside_training(below)
            item = self._make(directory, below, rule, str(number), reason, {})
            files = [f"{item.path}/{name}" for name in slices]
            yield replace(item, kind="dicom_series", options={**(item.options or {}), "files": files})
        for name in unreadable:
            yield self._excluded(directory / name, "not a readable DICOM file", "dicom_series")

    def _excluded(self, path: Path, reason: str, kind: str = "image", member: str | None = None) -> Item:
        relative = path.relative_to(self._raw).as_posix().encode("utf-8", "backslashreplace").decode("utf-8")
        return Item(path=relative, member=member, kind=kind, excluded=reason, modality=self._source.modality)

    def _below(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()


def _is_part(lower: str) -> bool:
    """Names of the parts of split archives: x.zip.001, x.zip.0a, x.z01."""
    stem, _, last = lower.rpartition(".")
    if last[:1] == "z" and last[1:].isdigit():
        return True
    return stem.endswith((".zip", ".7z", ".tar", ".gz")) and len(last) <= 4 and last[:1].isdigit()
