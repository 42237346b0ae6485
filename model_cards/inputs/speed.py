"""The speed of two encoders on this machine's CPU, measured side by side in one run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import biovfm_hf

IMAGES = 8  # in a batch
ROUNDS = 3


@dataclass(frozen=True)
class Speed:
    """Images a second that each of two encoders embeds in float32, with the sides of their images in pixels."""

    rates: tuple[float, float]
    sides: tuple[int, int]
    threads: int

    @property
    def times(self) -> float:
        """How many times as fast the first one is."""
        return self.rates[0] / self.rates[1]


def measure_speed(sources: tuple[str, str]) -> Speed:
    """Have two encoders embed the same number of random images in turn; the best round of each counts.

    Args:
        sources: any names that `biovfm_hf.load_encoder` takes.

    Raises:
        UserError: one of them cannot be loaded.
    """
    import torch  # the command's help does without

    encoders = [biovfm_hf.load_encoder(source, device="cpu", precision="fp32") for source in sources]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 256, 256, 3), dtype=torch.uint8, generator=generator).numpy()
    batches = [encoder.preprocess(list(images)) for encoder in encoders]
    passes = [lambda e=encoder, b=batch: e.encode(b) for encoder, batch in zip(encoders, batches, strict=True)]
    first, second = best_seconds(passes)
    sides = (encoders[0].size, encoders[1].size)
    return Speed((IMAGES / first, IMAGES / second), sides, torch.get_num_threads())


def best_seconds(passes: Sequence[Callable[[], object]]) -> list[float]:
    """The shortest time of each pass, after one that warms up; they take turns, so that other load disturbs all."""
    for one in passes:
        one()
    times = [[_seconds(one) for one in passes] for _ in range(ROUNDS)]
    return [min(column) for column in zip(*times, strict=True)]


def _seconds(one: Callable[[], object]) -> float:
    begun = time.perf_counter()
    one()
    return time.perf_counter() - begun
