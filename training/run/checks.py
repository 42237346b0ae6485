"""Checks of a run that need no torch, and so come before the seconds that its import takes."""

import os
from pathlib import Path

from biovfm_hf.conversion.place import check_place
from biovfm_hf.errors import UserError
from biovfm_hf.writing.files import check_writable

from ..data.files import check_data
from ..settings.config import TrainConfig


def check_run(config: TrainConfig, out: Path) -> None:
    """Refuse data, weights, a batch or a run folder that a run in `out` cannot use.

    Raises:
        UserError: names the key or the path.
    """
    check_data(config.data.path)
    check_apart(out, config.data.path)
    check_writable(out, folder=True)
    check_batch(config, int(os.environ.get("WORLD_SIZE", "1")))
    if config.data.selection and not Path(config.data.selection).expanduser().exists():
        raise UserError(f"data.selection {config.data.selection}: no such file; biovfm curate writes one")
    for name in ("task", "masks"):
        place = getattr(config.watch, name)
        if place and not Path(place).expanduser().is_dir():
            raise UserError(f"watch.{name} {place}: no such folder; check the path")
    if config.model.init_from and not (out / "checkpoints").is_dir():  # a run that goes on needs them no more
        check_place(config.model.init_from)


def check_apart(out: Path, data: str | None) -> None:
    """Refuse a run folder among the images, because its pictures would count as images when the run continues.

    Raises:
        UserError: `out` is the folder `data`, or lies in it.
    """
    folder = Path(data or "").expanduser()
    # `Path.resolve` raises RuntimeError for a link to itself
    if data and folder.is_dir() and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(folder)):
        raise UserError(f"--out {out} lies in the folder of images, {folder}; choose a folder elsewhere")


def check_batch(config: TrainConfig, processes: int) -> int:
    """Images of each process in a forward pass.

    Raises:
        UserError: the batch is too small for the processes, or cannot be divided evenly.
    """
    size, needed = config.batch.size, config.smallest_batch
    if size < needed * processes:
        raise UserError(
            f"batch.size {size} is too small for {processes} process(es), each of which needs {needed} image(s) at "
            f"least; use batch.size={needed * processes} or more, or fewer processes"
        )
    per_process = images_per_pass(config, processes)
    if per_process < needed:
        raise UserError(
            f"batch.per_process is {per_process}; the {config.title} objective compares images, so it needs at least "
            f"{needed}"
        )
    config.check_pass(per_process, processes)
    together = per_process * processes
    if size % together:
        near = max(round(size / together), 1) * together
        raise UserError(
            f"batch.size {size} is not a multiple of {processes} process(es) x {per_process} images "
            f"(batch.per_process); use batch.size={near}"
        )
    return per_process


def images_per_pass(config: TrainConfig, processes: int) -> int:
    """Images in one forward pass of one of `processes`: `batch.per_process`, or its share of a small batch."""
    return min(config.batch.per_process or config.batch.size, config.batch.size // processes)
