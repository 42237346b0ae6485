"""Time to find near duplicates in one crowd of pictures, of several kinds, in seconds of CPU.

    python tests/benchmarks/crowds.py --pictures 2000 8000 50000

Hashes near each other differ from a centre in up to 2 bits, those around a centre in up to 4. The thumbnails are
noise.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the rooms, which no installation puts there

from dataset_builder.screening.hashing import THUMBNAIL
from dataset_builder.screening.look_alikes import look_alikes


class Noise:
    """Thumbnails of noise, made when they are read: `count` different ones in turn."""

    def __init__(self, rows: int, count: int) -> None:
        self.shape = (rows, THUMBNAIL**2)
        self._noise = np.random.default_rng(0).integers(0, 256, 2**22 + THUMBNAIL**2, dtype=np.uint8)
        self._count = count

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        starts = rows % self._count * 2_654_435_761 % 2**22
        return self._noise[starts[:, None] + np.arange(THUMBNAIL**2)]


def around(bits: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Hashes that differ from one centre in up to so many bits."""

    def hashes(rng: np.random.Generator, count: int) -> np.ndarray:
        result = np.full(count, rng.integers(0, 2**64, dtype=np.uint64))
        flips = rng.integers(0, bits + 1, count)
        for step in range(bits):
            result ^= np.where(step < flips, np.uint64(1) << rng.integers(0, 64, count, dtype=np.uint64), np.uint64(0))
        return result

    return hashes


def free(bits: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Hashes that differ in the lowest bits only, at random."""
    return lambda rng, count: rng.integers(0, 2**bits, count, dtype=np.uint64)


KINDS = {
    "all look alike": (around(2), True),
    "none does; near each other": (around(2), False),
    "none does; around a centre": (around(4), False),
    "none does; 28 free bits": (free(28), False),
    "none does; uniform": (free(64), False),
}


def seconds(hashes: np.ndarray, alike: bool) -> float:
    """CPU seconds of the whole search."""
    rows = np.arange(len(hashes))
    began = time.process_time()
    look_alikes(hashes, rows, Noise(len(hashes), 1 if alike else len(hashes)), rows)
    return time.process_time() - began


def main() -> None:
    """Print a line for each kind, with a column for each number of pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[2_000, 8_000, 50_000])
    counts = parser.parse_args().pictures
    print(f"{'pictures':<28}" + "".join(f"{count:>10,}" for count in counts))
    for kind, (draw, alike) in KINDS.items():
        row = [seconds(draw(np.random.default_rng(1), count), alike) for count in counts]
        print(f"{kind:<28}" + "".join(f"{value:>10.1f}" for value in row), flush=True)


if __name__ == "__main__":
    main()
