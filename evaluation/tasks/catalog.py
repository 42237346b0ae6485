"""Opens tasks by name: records in this folder, groups of records, and paths of users' own tasks."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from biovfm_hf.errors import UserError
from biovfm_hf.nearest import did_you_mean

from .coco_folder import annotation_files, open_coco_task
from .folder import open_folder_task, open_recorded_folder
from .layouts import known_layouts
from .listing import Listing
from .medmnist import download, find_npz, read_medmnist
from .task import Task, TaskRecord, read_record

# In the order of the BioVFM authors' script.
MEDMNIST_2D = tuple(
    f"{stem}mnist"
    for stem in (
        *("path", "chest", "derma", "oct", "pneumonia", "retina"),
        *("breast", "blood", "tissue", "organa", "organc", "organs"),
    )
)
MEDMNIST_3D = tuple(f"{stem}mnist3d" for stem in ("organ", "nodule", "adrenal", "fracture", "vessel", "synapse"))
RADIOLOGY = (
    *("nih_chestxray14", "chexpert", "sars_cov2_ct", "brain_tumor", "montgomery"),
    *("amos_ct", "msd_heart", "msd_hippocampus", "msd_spleen"),
)
GROUPS = {"medmnist": MEDMNIST_2D, "medmnist3d": MEDMNIST_3D, "radiology": RADIOLOGY}


@cache
def read_records() -> dict[str, TaskRecord]:
    """Every record of `records/`, by name."""
    folder = Path(__file__).parent / "records"
    return {record.name: record for record in map(read_record, sorted(folder.glob("*.yaml")))}


def resolve_names(entries: Iterable[str]) -> list[str]:
    """Expand task names, groups and paths to names and paths, in order, without repeats.

    Raises:
        UserError: a word is neither a task, nor a group, nor an existing path.
    """
    names: list[str] = []
    for word in filter(None, (part.strip() for part in entries)):
        if word in GROUPS:
            names += GROUPS[word]
        elif word in read_records() or Path(word).exists():
            names.append(word)
        else:
            hint = did_you_mean(word, [*read_records(), *GROUPS])
            raise UserError(f"{word!r} is neither a task nor a path that exists{hint} (biovfm probe --list-tasks)")
    if not names:
        raise UserError("no task named; give --tasks medmnist, a name, or a path")
    return list(dict.fromkeys(names))


def open_task(
    name: str,
    data: Path,
    size: int | None = None,
    cache_dir: Path | None = None,
    fetch: bool = False,
    listing: Listing | None = None,
) -> Task:
    """Open a task by name (with its files below `data`) or by path.

    Args:
        name: name of a record, or path of a folder, a CSV file, or a user's own record (.yaml).
        data: folder with the sets.
        size: image size of a MedMNIST set in pixels: 28, 64, 128 or 224; None takes the largest that is present.
        cache_dir: folder to unpack large .npz members to; None reads them into memory.
        fetch: download a missing MedMNIST set.
        listing: how to read a CSV file (default: by the usual column names).

    Raises:
        UserError: files are missing, or are not laid out as by their source.
    """
    record = read_records().get(name)
    if record is None and Path(name).suffix in (".yaml", ".yml"):
        record = read_record(Path(name))
    if record is None and Path(name).is_dir() and annotation_files(Path(name)):
        return open_coco_task(Path(name))
    if record is None:
        return open_folder_task(Path(name), listing)
    if record.layout == "folder":
        return open_recorded_folder(record, find_root(record, data))
    layouts = known_layouts()
    if record.layout not in (*layouts, "medmnist"):
        known = ", ".join(("medmnist", "folder", *layouts))
        raise UserError(f"task {record.name}: layout {record.layout!r} has no reader; one of {known}")
    if record.layout == "medmnist":
        if fetch:
            _fetch_if_missing(record, data, size)
        return Task(record, read_medmnist(record, data, size, cache_dir))
    return Task(record, layouts[record.layout](record, find_root(record, data)))


def find_root(record: TaskRecord, data: Path) -> Path:
    """The folder below `data` that is laid out as by the source of `record`.

    It is searched in `data` itself and up to three folders deep, by the record's `options: marker` (a glob pattern).

    Raises:
        UserError: there is no such folder.
    """
    marker = record.options.get("marker")
    if not marker:
        raise UserError(f"task {record.name}: its record gives no options: marker, a pattern that its folder matches")
    for depth in range(4):
        for folder in sorted(data.glob("/".join(["*"] * depth))) if depth else [data]:
            if folder.is_dir() and any(folder.glob(marker)):
                return folder
    raise UserError(f"task {record.name}: no folder in {data} holds {marker}; get the set from {record.url}")


def _fetch_if_missing(record: TaskRecord, data: Path, size: int | None) -> None:
    try:
        find_npz(record.name, data, size)
    except UserError:
        download(record, data, size)
