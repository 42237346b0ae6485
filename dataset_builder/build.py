"""The `biovfm build` command: turns raw sources into a screened Parquet dataset; a killed build continues."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from biovfm_hf.options import CommandParser, parse_options

from .options import BuildOptions
from .pipeline import run

_DESCRIPTION = """\
Build a dataset folder from the raw sources in a folder, one sub-folder for each source.

Only the training part of each source is taken, volumes are sliced along anatomical axes, pictures without anatomy,
duplicates and images of benchmarks are dropped, and manifest.parquet records the outcome of every picture. When the
command is stopped or killed, the same command continues; when it is done, running it again changes nothing."""

_EXAMPLES = """\
examples:
  biovfm build --raw raw --out dataset                              every source of the catalogue found in raw/
  biovfm build --raw raw --out dataset --sources drive,busi.yaml    one of the catalogue, one record of your own
  biovfm build --raw raw --out ct --views axial --workers 16
  biovfm build --raw raw --out dataset --benchmarks medmnist/       drop what MedMNIST tests on
  biovfm build --raw raw --out dataset --plan-only                  list once, before the jobs of an array start
  biovfm build --raw raw --out dataset --shard-index $SLURM_ARRAY_TASK_ID --num-shards 100
  biovfm build --raw raw --out dataset --retry-failed               after mending files, or adding a source
  biovfm build --out dataset --check                                prove that nothing was lost"""


def main(argv: list[str]) -> int:
    """Run the command. Returns 0 when the dataset is complete, 1 when the check finds a fault."""
    result = run(parse_options(_parser(), BuildOptions, argv))
    return 1 if result.get("faults") else 0


def build(
    raw: str | Path | None, out: str | Path, sources: str | Sequence[str | Path] | None = None, **options: Any
) -> dict[str, Any]:
    """Build a dataset from Python; the same as the command, with its options as keywords.

    `build("raw", "out", ["drive"], workers=4, views=("axial", "coronal"), benchmarks=["medmnist/"])`

    Args:
        raw: folder with one sub-folder for each source.
        out: dataset folder to write, or to continue.
        sources: ids of the catalogue or paths of records; None for every source of the paper.
        options: the other fields of `options.BuildOptions`.

    Returns:
        The summary in `build.json`; the plan's figures with `plan_only` or as a job of an array; the counts of
        outcomes and the faults with `check`.

    Raises:
        UserError: an option is wrong, or the build cannot be done.
    """
    given: dict[str, Any] = {"raw": raw, "out": out, "sources": sources, **options}
    return run(BuildOptions(**given))


def _parser() -> CommandParser:
    return CommandParser(
        prog="biovfm build",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
