"""Sorts DICOM slices into series and volumes: grouped by series, ordered by position, stacks if evenly spaced."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .content import NO_PICTURE
from .slice_places import Place, along_normal, plane_affine

COPY = "a copy of another file of its series"
NOT_DICOM = "not a readable DICOM file"
SAME_POSITION = 0.01  # mm: files of one position may round it differently; real slices are never that close
# How far, in steps, a slice may lie from where even distances put it. Tables that report tenths of a millimetre move
# slices 1.25 mm apart by up to 0.08; where one slice is missing, others move by a third or more.
MAX_UNEVENNESS = 0.1
# Share of a stack's slices that may be missing, no two of them neighbours. A damaged file counts as missing, and so
# does one of another shape.
MAX_MISSING = 0.1


class Stack(NamedTuple):
    """Evenly spaced slices, of which a few may be missing.

    Attributes:
        shape: rows and columns of each.
        affine: (4, 4) voxels to RAS+.
        times: how often each is repeated.
        places: number along the stack of each slice that exists, ascending from 0; the last exists.
    """

    shape: tuple[int, int]
    affine: np.ndarray
    times: int
    places: tuple[int, ...]


def group_series(places: Iterable[tuple[str, Place | None]]) -> tuple[list[list[str]], dict[str, str]]:
    """Group files by series, each in slice order, the series in a fixed order; and why other files belong to none.

    Slices are ordered along the normal of their plane if all state their position, else by time. Slices of one
    position are ordered by TemporalPositionIdentifier, InstanceNumber, then AcquisitionTime (it may pass midnight). A
    scout of another plane and a second file of one position form a series of their own, so that the volume is not
    lost. Files that state no series count as one if they form a stack; otherwise each is a series of its own. Series
    and their order depend on the file names and headers only; no header value is returned.

    Args:
        places: the name of each file and its place, as `read_places` yields them.
    """
    slices: dict[str | None, list[tuple[str, Place]]] = defaultdict(list)
    left_out: dict[str, str] = {}
    for name, place in places:
        if place is None:
            left_out[name] = NOT_DICOM
        elif place.no_picture is not None:
            left_out[name] = NO_PICTURE
        else:
            slices[place.series].append((name, place))
    series = []
    for uid, group in slices.items():
        kept, copies = _without_copies(group)
        left_out |= dict.fromkeys(copies, COPY)
        alone = uid is None and not _is_stack(kept)
        series += [[name] for name, _ in kept] if alone else [_ordered(part) for part in _parts(kept)]
    return sorted(series, key=min), left_out


def stack_of(places: Sequence[Place]) -> Stack | None:
    """How ordered slices, those of one position next to each other, form volumes; None if they do not."""
    first = places[0]
    if first.shape is None or first.plane is None or first.pitch is None or min(first.pitch) <= 0:
        return None
    distances = [along_normal(place) for place in places if _alike(first, place)]
    known = sorted(distance for distance in distances if distance is not None)
    if len(known) < len(places):
        return None
    positions_of = position_numbers(known)
    count, times = positions_of[-1] + 1, positions_of.count(0)
    if count < 2 or positions_of != [at // times for at in range(len(positions_of))]:
        return None
    positions = np.array([place.position for place in places]).reshape(count, times, 3)
    numbered = _places(known[::times])
    if numbered is None:
        return None
    step = (positions[-1, 0] - positions[0, 0]) / numbered[-1]
    even = positions[0, 0] + np.array(numbered)[:, None] * step
    off = np.linalg.norm(positions - even[:, None], axis=-1).max()
    if off > MAX_UNEVENNESS * np.linalg.norm(step):
        return None
    return Stack(first.shape, plane_affine(first.plane, first.pitch, positions[0, 0], step), times, numbered)


def _places(distances: Sequence[float]) -> tuple[int, ...] | None:
    """Number ascending distances along an evenly spaced stack; None if more than MAX_MISSING slices are missing."""
    steps = np.diff(distances)
    gaps = np.maximum(np.rint(steps / np.median(steps)), 1).astype(int)
    numbered = (0, *np.cumsum(gaps).tolist())
    missing = numbered[-1] + 1 - len(distances)
    return numbered if gaps.max() <= 2 and missing <= MAX_MISSING * (numbered[-1] + 1) else None


def position_numbers(distances: Sequence[float]) -> list[int]:
    """The number of each slice's position, from 0; `distances` along the normal are ascending, one or more.

    Slices share a position if they differ by at most SAME_POSITION, or less in a stack of thinner slices.
    """
    tolerance = min(SAME_POSITION, (distances[-1] - distances[0]) / len(distances) / 10)
    numbers = [0]
    for before, after in pairwise(distances):
        numbers.append(numbers[-1] + (after - before > tolerance))
    return numbers


def _without_copies(group: list[tuple[str, Place]]) -> tuple[list[tuple[str, Place]], list[str]]:
    """The files of a series without repeats of an earlier file's identifier, place and moment."""
    kept: dict[Any, tuple[str, Place]] = {}
    copies = []
    for name, place in sorted(group, key=lambda entry: entry[0]):
        key = (place.instance or name, place.position, place.moment)
        if key in kept:
            copies.append(name)
        else:
            kept[key] = (name, place)
    return list(kept.values()), copies


def _parts(group: list[tuple[str, Place]]) -> Iterator[list[tuple[str, Place]]]:
    """The files of the commonest plane, without second files of a position; then the remaining files."""
    kinds: list[list[tuple[str, Place]]] = []
    for entry in group:
        kind = next((kind for kind in kinds if _alike(kind[0][1], entry[1])), None)
        if kind is None and len(kinds) < 16:  # a scout or two, but not a radial scan with a plane for each slice
            kinds.append([entry])
        elif kind is not None:
            kind.append(entry)
    largest = max(kinds, key=len)
    if 2 * len(largest) > len(group):
        largest = _evenly_repeated(largest)
    if len(largest) == len(group) or not _is_stack(largest):
        yield group
        return
    yield largest
    names = {name for name, _ in largest}
    yield [entry for entry in group if entry[0] not in names]


def _evenly_repeated(group: list[tuple[str, Place]]) -> list[tuple[str, Place]]:
    """The files of a plane, each position with no more files than most positions have."""
    order = _sorted(group)
    distances = [along_normal(place) for _, place in order]
    known = [distance for distance in distances if distance is not None]
    if len(known) < len(order):
        return group
    at = position_numbers(known)
    usual = Counter(Counter(at).values()).most_common(1)[0][0]
    seen: Counter[int] = Counter()
    kept = []
    for entry, number in zip(order, at, strict=True):
        seen[number] += 1
        if seen[number] <= usual:
            kept.append(entry)
    return kept


def _is_stack(group: list[tuple[str, Place]]) -> bool:
    return stack_of([place for _, place in _sorted(group)]) is not None


def _alike(one: Place, other: Place) -> bool:
    """Whether two slices have the same shape, directions and pitch, apart from rounding."""
    if one.shape != other.shape or (one.plane is None) != (other.plane is None):
        return False
    if (one.pitch is None) != (other.pitch is None):
        return False
    pairs = zip((*(one.plane or ()), *(one.pitch or ())), (*(other.plane or ()), *(other.pitch or ())), strict=True)
    return all(abs(a - b) <= 1e-3 for a, b in pairs)


def _ordered(group: list[tuple[str, Place]]) -> list[str]:
    return [name for name, _ in _sorted(group)]


def _sorted(group: list[tuple[str, Place]]) -> list[tuple[str, Place]]:
    by_time = sorted(group, key=lambda entry: (entry[1].moment, entry[0]))
    return [by_time[number] for number in slice_order([place for _, place in by_time])]


def slice_order(places: Sequence[Place]) -> list[int]:
    """The numbers of slices along the normal of their plane, those of one position in their own order.

    If the position of a slice is unknown, all slices keep their order.
    """
    known = [distance for place in places if (distance := along_normal(place)) is not None]
    if len(known) < len(places) or not known:
        return list(range(len(places)))
    order = sorted(range(len(known)), key=known.__getitem__)
    at = position_numbers([known[number] for number in order])
    return [number for _, number in sorted(zip(at, order, strict=True))]
