"""The images and volumes of a user's list: which of them can be read, and what is said of the others."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError

from .images import FileImages, read_image
from .listing import Case, Listing, listed
from .task import LeftOut
from .volume_cases import Slicing, VolumeCase, is_volume, open_cases

REMEDY = "correct the list, or leave them out by --skip-unreadable"


def readable_cases(cases: Sequence[Case]) -> tuple[list[Case], list[LeftOut]]:
    """The cases whose images can be decoded, and the others with the reason of each.

    Raises:
        UserError: no image can be decoded.
    """
    with ThreadPoolExecutor() as pool:
        reasons = list(pool.map(_unreadable, cases))
    kept = [case for case, reason in zip(cases, reasons, strict=True) if reason is None]
    lost = [_left_out(case, why) for case, why in zip(cases, reasons, strict=True) if why is not None]
    if not kept:
        raise UserError(f"{_loss(lost, cases, 'images')}; nothing is left, so correct the list")
    return kept, lost


def _left_out(case: Case, reason: str) -> LeftOut:
    return LeftOut(case.where, reason.partition(f"{case.where}: ")[2] or reason, case.folder, case.anonymous)


def warnings_of(left_out: Sequence[LeftOut], total: int, what: str) -> dict[str, str]:
    """A warning that counts what is left out of a list, with examples; none if nothing is left out."""
    if not left_out:
        return {}
    return {f"{len(left_out)} of {total} {what} could not be read and are left out": _examples(left_out)}


def _loss(lost: Sequence[LeftOut], cases: Sequence[Case], what: str) -> str:
    return f"{len(lost)} of {len(cases)} {what} cannot be read: {_examples(lost)}"


def _examples(left_out: Sequence[LeftOut]) -> str:
    return listed([f"{each.where}: {each.reason}" for each in left_out], "; ")


@dataclass(frozen=True)
class Unread:
    """What of a list cannot be read: found out once, when the first image fails, because all must be decoded."""

    cases: Sequence[Case]
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    @property
    def message(self) -> str:
        """A message that counts the images that cannot be read; empty if all can."""
        with self._lock:
            return self._message

    @cached_property
    def _message(self) -> str:
        lost = readable_cases(self.cases)[1]
        return f"{_loss(lost, self.cases, 'images')}; {REMEDY}" if lost else ""


@dataclass(frozen=True)
class ListedImages(FileImages):
    """Images of a list. If one of them cannot be read, the message counts all of the list that cannot."""

    unread: Unread | None = None

    def __getitem__(self, index: int) -> np.ndarray:
        try:
            return super().__getitem__(index)
        except UserError as error:
            raise UserError((self.unread.message if self.unread else "") or str(error)) from error


def volumes_of(cases: Sequence[Case], listing: Listing) -> tuple[list[Case], dict[Path, VolumeCase], list[LeftOut]]:
    """The cases whose volumes can be read, the volumes with their slices, and the other cases with their reasons.

    Raises:
        UserError: images and volumes are mixed, no volume can be read, or some cannot and the options do not skip
            them.
    """
    if flat := next((case.where for case in cases if not is_volume(case.file)), None):
        raise UserError(
            f"{flat}: a picture among volumes; give a list for each of the two or, for a list of patients, choose the "
            "files with --files '*.nii.gz'"
        )
    volumes, unread = open_cases([case.file for case in cases], Slicing(listing.axes, listing.slices))
    lost = [
        _left_out(case, unread[case.file].replace(str(case.file), case.where)) for case in cases if case.file in unread
    ]
    if lost and not volumes:
        raise UserError(f"{_loss(lost, cases, 'volumes')}; nothing is left, so correct the list")
    if lost and not listing.skip_unreadable:
        raise UserError(f"{_loss(lost, cases, 'volumes')}; {REMEDY}")
    opened = {volume.path: volume for volume in volumes}
    return [case for case in cases if case.file in opened], opened, lost


def _unreadable(case: Case) -> str | None:
    try:
        read_image(case.file, name=case.where)
        return None
    except UserError as error:
        return str(error)
