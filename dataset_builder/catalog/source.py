"""Schema of a source record: modalities and anatomies, item and table rules, exclusions, overlaps.

A record is one YAML file (`sources/ID.yaml`, or any file of a user's own); it holds data, never code.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from biovfm_hf.reading.documents import read_yaml

MODALITIES = (
    "CT",
    "MR",
    "Microscopy",
    "X-Ray",
    "Dermoscopy",
    "Ultrasound",
    "Endoscopy",
    "Fundus",
    "Nuclear medicine",
    "OCTA",
)
"""The paper's 10 modalities, in its words and order."""

KINDS = ("image", "volume", "video", "hdf5", "archive", "dicom_series")
PATHS = ("keep", "withhold")
ACCESS = ("open", "registration", "request", "credentialed", "kaggle", "private")
RELATIONS = ("contains", "contains_train", "shares", "part_of", "duplicates")
SOURCES = Path(__file__).parents[1] / "sources"
NOT_ESTABLISHED = "not established"


def own_anatomies(regions: Iterable[str]) -> list[str]:
    """The anatomies outside the 30 regions: words of private sources."""
    return sorted(set(regions) - set(anatomies().values()))


@cache
def anatomies() -> dict[str, str]:
    """Map from free-text anatomies (and each region's own name) to the 30 regions, which are its values."""
    table = read_yaml(Path(__file__).parents[1] / "anatomies.yaml")
    return {word: region for region, names in table.items() for word in (region, *names)}


@dataclass(frozen=True)
class ItemRule:
    """Which files are items and what they hold; the first rule whose glob matches a path applies."""

    pattern: str  # glob on the path below the source's folder; ** any folders, {a,b} alternatives, case ignored
    kind: str = "image"
    modality: str | None = None
    anatomy: str | None = None
    intensity: dict[str, Any] | str | None = None  # as in `Item.intensity`
    fps: float | None = None  # frames per second to take from a video
    adapter: str | None = None  # an entry of `hdf5_items.EXPANDERS`, which turns one file into its items
    key: str | None = None  # HDF5 data set that the adapter reads
    view: str | None = None  # as in `Item.view`


@dataclass(frozen=True)
class TableRule:
    """Rows of a CSV or list file, looked up by a part of an item's path.

    `key` extracts the word to look up from the path: `name`, `stem`, or a regular expression whose groups are joined
    with "/". The path of an item inside a file is the file's path, "#" and its row or data set.
    `value`, also a regular expression, does the same for the cell of column `match`.
    """

    table: str  # glob on the path below the source's folder
    match: str | None = None  # column to look the key up in; "#" the row's number from 0; None: a list file's words
    key: str = "name"
    value: str | None = None
    where: tuple[tuple[str, str], ...] = ()  # column == value, all of them
    column: str | None = None  # the cell that answers the look-up (subject rules)
    delimiter: str = ","
    format: str = "csv"  # csv, jsonl, list (the first word of each line), or rp3d (an adapter)


@dataclass(frozen=True)
class ExcludeRule:
    """Files that are not images of the source (masks, annotations, another split), and why."""

    reason: str
    pattern: str | None = None
    table: TableRule | None = None


@dataclass(frozen=True)
class Label:
    """Modality or anatomy of the items whose path matches `path` (a regular expression)."""

    path: str
    modality: str | None = None
    anatomy: str | None = None


@dataclass(frozen=True)
class Overlap:
    """Overlap of a source with a benchmark or with another source.

    `relation`: `contains` (images of the benchmark's test split, or of the other source), `contains_train` (only
    training or validation images of the benchmark), `shares` (the same patients, scans or raw material), `part_of`,
    `duplicates`. `part` is a regular expression on item paths; None means that any item may overlap.
    """

    relation: str
    note: str
    benchmark: str | None = None  # e.g. DermaMNIST
    source: str | None = None  # id of another record
    part: str | None = None
    verified: bool = True


@dataclass(frozen=True)
class Download:
    """One file with an open direct link; at most one of the checksums is used, sha256 first."""

    url: str
    name: str
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Source:
    """One record of the catalogue. None means not established; no field is guessed."""

    id: str
    name: str
    modalities: tuple[str, ...]
    anatomies: tuple[str, ...] = ()
    items: tuple[ItemRule, ...] = ()
    train: str | TableRule | None = None  # "all", "path:REGEX", a table, None: the training part is not established
    folder: str = ""  # below the raw folder; the id by default
    exclude: tuple[ExcludeRule, ...] = ()
    subject: str | TableRule | None = None  # a regular expression on the path (groups joined with "-"), or a table
    labels: tuple[Label, ...] = ()
    anatomy: TableRule | None = None  # a table with the anatomy of each item
    dimensionality: str | None = None
    layout_established: bool = True
    in_paper: bool = False
    images_in_paper: int | None = None
    expected_items: int | None = None  # files that the training rule selects from a complete release
    year: int | None = None
    homepage: str | None = None
    access: str | None = None
    licence: str | None = None
    terms: str | None = None
    file_formats: tuple[str, ...] | None = None
    layout: str | None = None
    splits: str | None = None
    training_part: str | None = None  # the training rule in words
    subject_note: str | None = None
    obtain: str | None = None
    files: tuple[Download, ...] = ()
    overlaps: tuple[Overlap, ...] = ()
    overlap_note: str | None = None
    citation: str | None = None
    evidence: tuple[str, ...] = ()
    notes: str | None = None
    paths: str | None = None  # keep: publish the paths of a private source
    record: str = ""  # path of the YAML file

    @property
    def modality(self) -> str | None:
        """The source's only modality; None if it mixes several (then each item has its own)."""
        return self.modalities[0] if len(self.modalities) == 1 else None

    @property
    def published(self) -> bool:
        """Whether it is released for others, with pseudonyms as identifiers; every other source is private."""
        return is_published(self.access, self.in_paper)


def is_published(access: str | None, in_paper: bool) -> bool:
    """Whether a source is released for others: one of the paper's, or one whose record says how to get access.

    A source is private if its record says `access: private` or does not state the access.
    """
    return access != "private" and (in_paper or access is not None)
