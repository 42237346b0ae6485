"""Opens tasks by name: records in this folder, groups of records, and paths of users' own tasks."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from biovfm_hf.errors import UserError
from biovfm_hf.nearest import did_you_mean

from .coco_folder import annotation_files, open_coco_task
from .folder import open_folder_task
from .layouts import Place, open_recorded
from .listing import Listing
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
    if record is not None:
        return open_recorded(record, Place(data, size, cache_dir, fetch))
    if Path(name).is_dir() and annotation_files(Path(name)):
        return open_coco_task(Path(name))
    return open_folder_task(Path(name), listing)
