"""Time and memory of `biovfm curate` on synthetic features: python tests/benchmarks/curating.py DIR ROWS [WIDTH]

The rows lie around 1,000 centres of unequal frequency, on 32 directions of the space.
DIR needs 8 bytes for each number.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the rooms, which no installation puts there

from evaluation.analysis.curation import hierarchy, parts
from evaluation.analysis.curation.command import CurateOptions, curate

GROUP = 1 << 14


def rows_of(count: int, width: int) -> Iterator[np.ndarray]:
    """Blocks of features (at most 16,384, width) float32."""
    rng = np.random.default_rng(0)
    centres, directions = rng.normal(size=(1000, 32)) * 2, rng.normal(size=(32, width)).astype(np.float32)
    shares = rng.pareto(1.0, 1000) + 0.05
    for start in range(0, count, GROUP):
        some = rng.choice(1000, min(GROUP, count - start), p=shares / shares.sum())
        yield (centres[some] + rng.normal(size=(len(some), 32))).astype(np.float32) @ directions / 32


def write_pool(path: Path, count: int, width: int) -> None:
    """A features file as biovfm embed writes it."""
    kind = pyarrow.list_(pyarrow.field("element", pyarrow.float32(), nullable=False), width)
    about = json.dumps({"model": "m", "revision": "r", "features": "both"})
    schema = pyarrow.schema([("id", pyarrow.string()), ("features", kind)], {"biovfm": about})
    with pyarrow.parquet.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for number, block in enumerate(rows_of(count, width)):
            names = pyarrow.array([f"{number * GROUP + row}" for row in range(len(block))])
            column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(block.reshape(-1)), type=kind)
            writer.write_table(pyarrow.table([names, column], schema=schema), row_group_size=GROUP)


def told(name: str):
    """Time a function, in seconds by the wall clock and of CPU."""

    def wrap(function):
        def timed(*given, **named):
            wall, cpu = time.perf_counter(), time.process_time()
            value = function(*given, **named)
            print(f"{name}: {time.perf_counter() - wall:.0f} s, {time.process_time() - cpu:.0f} s of CPU", flush=True)
            return value

        return timed

    return wrap


def main() -> None:
    """Write the pool, curate a tenth of it, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the features, and what is curated from them")
    parser.add_argument("rows", type=int, metavar="ROWS", help="feature vectors")
    parser.add_argument("width", type=int, metavar="WIDTH", nargs="?", default=1024, help="numbers of each")
    words = parser.parse_args()
    folder, count, width = words.folder, words.rows, words.width
    folder.mkdir(parents=True, exist_ok=True)
    pool = folder / f"pool-{count}-{width}.parquet"
    if not pool.is_file():
        write_pool(pool, count, width)
    parts._parts = told("parts")(parts._parts)
    hierarchy.cluster_by_parts = told("level by parts")(hierarchy.cluster_by_parts)
    hierarchy._cluster = told("level in one")(hierarchy._cluster)
    report = told("all")(curate)(CurateOptions(pool, count // 10, folder / f"out-{count}-{width}"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{count} x {width}, clusters {report['clusters']}: {peak:.1f} GiB at most, mapped pages included")


if __name__ == "__main__":
    main()
