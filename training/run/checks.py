"""Checks of a run that need no torch, and so come before the seconds that its import takes."""

import os
from importlib import metadata
from pathlib import Path

from biovfm_hf.errors import UserError
from biovfm_hf.hub.names import check_hub_names
from biovfm_hf.nearest import did_you_mean
from biovfm_hf.writing.files import check_writable

from ..config_file import with_steps
from ..data.images import Images, open_images
from ..objectives.stated import check_initial
from ..settings.config import TrainConfig
from .same_run import check_same_run
from .watched import mask_files, task_files

# accelerate's trackers, each with the packages of which it needs one; asking accelerate takes the import of torch
TRACKERS = {
    "aim": ("aim",),
    "clearml": ("clearml",),
    "comet_ml": ("comet_ml",),
    "dvclive": ("dvclive",),
    "mlflow": ("mlflow", "mlflow-skinny"),
    "swanlab": ("swanlab",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}


def check_run(config: TrainConfig, out: Path) -> Images:
    """Refuse settings, weights, data or a run folder that a run in `out` cannot use, and open its images.

    Raises:
        UserError: names the key or the path.
    """
    check_apart(out, config.data.path)
    check_writable(out, folder=True)
    check_batch(config, int(os.environ.get("WORLD_SIZE", "1")))
    check_trackers(config.run.trackers)
    if config.run.push_to_hub:
        check_hub_names([config.run.push_to_hub])
    begun = (out / "checkpoints").is_dir()  # such a run needs its initial weights no more
    (config.without_weights() if begun else config).check_weights()
    if not begun:
        check_initial(config)
    if config.watch.task:
        task_files(Path(config.watch.task).expanduser())
    if config.watch.masks:
        mask_files(Path(config.watch.masks).expanduser())
    images = open_images(config.data)
    given = tuple(f"{key.rpartition('.')[0]}." for key, source in config.sources.items() if source)
    check_same_run(out, with_steps(config, len(images)), unknown=given)
    return images


def check_trackers(names: list[str]) -> None:
    """Refuse trackers that accelerate does not know or that are not installed; it would train without them.

    Raises:
        UserError: names the tracker.
    """
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"run.trackers: accelerate has no {name!r}{did_you_mean(name, TRACKERS)}")
        if not any(is_installed(package) for package in TRACKERS[name]):
            raise UserError(f"run.trackers: {name} is not installed; get it with: pip install {TRACKERS[name][0]}")


def is_installed(package: str) -> bool:
    """Whether a distribution is installed; a folder of its name here, as trackers write one, is not enough."""
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True


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
