"""Options of `build` with their ranges, the same for Python and the command line."""

import hashlib
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from biovfm_hf.errors import OptionError, UserError
from biovfm_hf.options import check_options, option, required

from .plan.plan import Options
from .readers.slicing import VIEWS
from .shards.executors import ENGINES, Resources

_RUNNING = "running"  # options that do not change the dataset


def _parameters(value: Any) -> dict[str, Any]:
    """submitit's parameters: a mapping, or `slurm_partition=cpu,timeout_min=240`."""
    if isinstance(value, dict):
        return value
    pairs = [pair.partition("=") for pair in str(value).split(",") if pair.strip()]
    if wrong := [name for name, sign, _ in pairs if not sign]:
        raise ValueError(f"{wrong[0]!r} has no value; give KEY=VALUE,KEY=VALUE")
    return {name.strip(): int(setting) if setting.isdigit() else setting for name, _, setting in pairs}


def _source(value: Any) -> str | Path:
    """An id of the catalogue, or the path of a record."""
    return value if isinstance(value, Path) else str(value)


@dataclass(frozen=True)
class BuildOptions:
    """Options of `build`; a wrong one raises UserError.

    `raw` may be None only to check a dataset. If `sources` is None, every source of the paper is used.
    """

    out: Path = required("dataset folder to write, or to continue", metavar="DIR")
    raw: Path | None = option(
        None, "folder with one sub-folder for each source, named as its record says", metavar="DIR"
    )
    sources: tuple[str | Path, ...] | None = option(
        None,
        "ids of the catalogue or paths of record files (default: all of the paper)",
        metavar="A,B",
        commas=True,
        read=_source,
    )
    subset: str = option("full", "one of the paper's subsets", choices=("full", "us", "0.2m", "2.45m"))
    leakage: str = option("strict", "strict leaves out what benchmarks contain", choices=("strict", "paper"))
    benchmarks: tuple[Path, ...] = option((), "MedMNIST .npz files, images or folders", many=True, metavar="PATH")
    views: tuple[str, ...] = option(VIEWS, "views to slice volumes along", choices=VIEWS, commas=True, metavar="V,V")
    size: int = option(224, "side of the images in pixels", least=16, most=4096, metavar="N")
    fit: str = option(
        "longest", "side that becomes the size; longest pads to a square", choices=("longest", "shortest")
    )
    image_format: str = option("png", "png is lossless, jpeg half as large", choices=("png", "jpeg"))
    quality: int = option(95, "of JPEG", least=1, most=100, metavar="Q")
    keep_near_duplicates: bool = option(False, "drop only pixel-by-pixel duplicates of pictures in other files")
    seed: int = option(0, "random seed of the subset 0.2m", metavar="N")
    salt_file: Path | None = option(
        None,
        "file with a secret of your own for the hashes of private sources, so that another build makes the same ones "
        "(default: a random secret for each build)",
        metavar="FILE",
    )

    workers: int | None = option(
        None, "processes; 0 runs in this one (default: one for each core)", least=0, metavar="N", group=_RUNNING
    )
    engine: str = option("local", "where the shards run", choices=ENGINES, group=_RUNNING)
    scheduler: str | None = option(
        None, "address of a running Dask cluster (default: a local one)", metavar="ADDRESS", group=_RUNNING
    )
    slurm: dict[str, Any] | None = option(
        None,
        "submitit's parameters, such as slurm_partition=cpu,timeout_min=240",
        metavar="K=V,K=V",
        read=_parameters,
        group=_RUNNING,
    )
    shard_index: int | None = option(
        None, "with --num-shards: do every Nth shard only, for job arrays", least=0, metavar="I", group=_RUNNING
    )
    num_shards: int | None = option(None, "number of jobs", least=1, metavar="N", group=_RUNNING)
    item_seconds: float = option(300.0, "most CPU seconds for one file", least=0.001, metavar="S", group=_RUNNING)
    retry_failed: bool = option(
        False, "list the raw folder again; run inputs that failed, are new or have changed", group=_RUNNING
    )
    plan_only: bool = option(False, "list the raw folder, save the plan and do nothing else", group=_RUNNING)
    check: bool = option(False, "check the accounting of a finished dataset and do nothing else", group=_RUNNING)

    def __post_init__(self) -> None:
        check_options(self)
        index, jobs = self.shard_index, self.num_shards
        if self.raw is None and not self.check:
            raise OptionError("raw", "is needed to build")
        if (index is None) != (jobs is None):
            raise OptionError("num_shards" if jobs is None else "shard_index", "is missing; the two belong together")
        if index is not None and jobs is not None and index >= jobs:
            raise OptionError("shard_index", f"{index}; the {jobs} jobs are numbered from 0 to {jobs - 1}")
        if jobs and self.retry_failed:
            raise OptionError("retry_failed", "plans anew; run it once to plan only, then the jobs without it")

    @property
    def salt(self) -> str:
        """SHA-256 of the salt file's content; empty without one.

        Raises:
            UserError: the file cannot be read.
        """
        if self.salt_file is None:
            return ""
        try:
            return hashlib.sha256(self.salt_file.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"{self.salt_file}: {error.strerror}; give a file with a secret of your own") from error

    @property
    def resources(self) -> Resources:
        """The engine's resources."""
        workers = (os.cpu_count() or 1) if self.workers is None else self.workers
        return Resources(workers, self.scheduler, self.slurm or {}, self.item_seconds)

    @property
    def near_duplicates(self) -> bool:
        """Whether near duplicates are dropped too."""
        return not self.keep_near_duplicates

    @property
    def shaping(self) -> Options:
        """The options that determine the dataset's bytes, in the form that the plan stores."""
        values = {field.name: getattr(self, field.name) for field in fields(Options)}
        return Options(**{**values, "views": tuple(view for view in VIEWS if view in self.views)})
