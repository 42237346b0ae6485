"""A task's images under one corruption after another, with the random numbers that MedMNIST-C's own code draws.

That code seeds once and then draws image by image through all severities of all corruptions, so the numbers for an
image depend on everything before it. Here the numbers are drawn in the same order, under a lock. The images are made
from them on request, by as many threads as there are.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from ..images import Images, combined_digest, to_rgb
from .benchmark import CORRUPTIONS, SIDE, Benchmark
from .draws import RandomSources

KEPT = 256  # images whose numbers are kept until the images are requested; more than batches load ahead
FORMAT = "1"  # part of every fingerprint; increase it when corrupted images change


class Stream:
    """The passes of a benchmark over images, one for each corruption and severity.

    Args:
        images: images of the test split.
        benchmark: the corruptions.
        seed: random seed.
    """

    def __init__(self, images: Images, benchmark: Benchmark, seed: int = 0):
        self.images, self.benchmark, self.seed = Sized(images), benchmark, seed
        self._starts = [RandomSources(seed)]

    def corrupted(self, corruption: str, severity: int) -> "CorruptedImages":
        """The images of one pass."""
        return CorruptedImages(self, self.benchmark.passes.index((corruption, severity)))

    def start(self, number: int) -> RandomSources:
        """The random sources at the start of pass `number`; earlier passes that were not read are drawn through."""
        while len(self._starts) <= number:
            self.corrupted(*self.benchmark.passes[len(self._starts) - 1]).skip_to_end()
        return self._starts[number].copy()

    def ended(self, number: int, draws: RandomSources) -> None:
        """Keep the state of the random sources after pass `number`."""
        if len(self._starts) == number + 1:
            self._starts.append(draws.copy())


@dataclass
class CorruptedImages:
    """The images of one pass: `images[i]` is uint8 (H, W, 3). In order, each costs one draw."""

    stream: Stream
    number: int
    _draws: RandomSources | None = field(default=None, repr=False)
    _next: int = 0
    _drawn: "OrderedDict[int, Any]" = field(default_factory=OrderedDict, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __len__(self) -> int:
        return len(self.stream.images)

    def __getitem__(self, index: int) -> np.ndarray:
        image = self.stream.images[index]
        corrupted = CORRUPTIONS[self._name](image, self._strength, self._take(index, image))
        if not self.stream.benchmark.grey:
            return corrupted
        return to_rgb(np.asarray(Image.fromarray(corrupted).convert("L")), self._name)

    def fingerprint(self) -> str:
        """A digest of the images' content and of the corruption."""
        stream = self.stream
        what = (FORMAT, stream.benchmark.name, stream.seed, *stream.benchmark.passes[self.number])
        return combined_digest([repr(what).encode(), stream.images.fingerprint().encode()])

    def skip_to_end(self) -> None:
        """Draw the numbers for the remaining images without making them."""
        if CORRUPTIONS[self._name].draw is None:
            self.stream.ended(self.number, self.stream.start(self.number))
            return
        with self._lock:
            self._draw_until(len(self))

    @property
    def _name(self) -> str:
        return self.stream.benchmark.passes[self.number][0]

    @property
    def _strength(self) -> Any:
        name, severity = self.stream.benchmark.passes[self.number]
        return self.stream.benchmark.strengths[name][severity - 1]

    def _take(self, index: int, image: np.ndarray) -> Any:
        """The random numbers of one image."""
        if CORRUPTIONS[self._name].draw is None:
            return None
        with self._lock:
            if index < self._next and index not in self._drawn:  # requested again, or too late
                self._draws, self._next = None, 0
            self._draw_until(index + 1, {index: image})
            return self._drawn.pop(index)

    def _draw_until(self, end: int, known: dict[int, np.ndarray] | None = None) -> None:
        draw = CORRUPTIONS[self._name].draw
        assert draw is not None
        if self._draws is None:
            self._draws = self.stream.start(self.number)
        while self._next < end:
            image = known[self._next] if known and self._next in known else self.stream.images[self._next]
            self._drawn[self._next] = draw(self._draws, image, self._strength)
            self._next += 1
            if len(self._drawn) > KEPT:
                self._drawn.popitem(last=False)
            if self._next == len(self):
                self.stream.ended(self.number, self._draws)


@dataclass(frozen=True)
class Sized:
    """Images resized to a shorter side of 224 pixels, for which the strengths are made."""

    images: Images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        image = np.ascontiguousarray(self.images[index])
        height, width = image.shape[:2]
        if min(height, width) == SIDE:
            return image
        scale = SIDE / min(height, width)
        size = (max(round(width * scale), SIDE), max(round(height * scale), SIDE))
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))

    def fingerprint(self) -> str:
        """The fingerprint of the images."""
        return self.images.fingerprint()
