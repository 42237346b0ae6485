"""A task's images under one corruption after the other, with the random numbers that MedMNIST-C's own code draws.

It seeds once, and then draws image by image through all severities of all corruptions, so that what is drawn for an
image depends on all that went before. Here the numbers are drawn in that order too, under a lock, and the images are
made of them when they are asked for, by as many threads as ask.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from ..images import Images, combined_digest, to_rgb
from .benchmark import CORRUPTIONS, SIDE, Benchmark
from .draws import Draws

KEPT = 256  # images whose numbers are kept until they are asked for: more than batches that load ahead
FORMAT = "1"  # part of every fingerprint: raise it when corrupted images change


class Stream:
    """The passes of a benchmark over images, one for each corruption and severity.

    Args:
        images: of the test split.
        benchmark: whose corruptions.
        seed: of everything random.
    """

    def __init__(self, images: Images, benchmark: Benchmark, seed: int = 0):
        self.images, self.benchmark, self.seed = Sized(images), benchmark, seed
        self._starts = [Draws(seed)]

    def corrupted(self, corruption: str, severity: int) -> "CorruptedImages":
        """The images of one pass."""
        return CorruptedImages(self, self.benchmark.passes.index((corruption, severity)))

    def start(self, number: int) -> Draws:
        """The random sources as pass `number` finds them; earlier passes that nobody has read are drawn through."""
        while len(self._starts) <= number:
            self.corrupted(*self.benchmark.passes[len(self._starts) - 1]).skip_to_end()
        return self._starts[number].copy()

    def ended(self, number: int, draws: Draws) -> None:
        """Keep the state of the random sources after pass `number`."""
        if len(self._starts) == number + 1:
            self._starts.append(draws.copy())


@dataclass
class CorruptedImages:
    """The images of one pass: `images[i]` is uint8 (H, W, 3). In order they cost one draw each."""

    stream: Stream
    number: int
    _draws: Draws | None = field(default=None, repr=False)
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
        """A digest of the images' content, and of what is done to them."""
        stream = self.stream
        what = (FORMAT, stream.benchmark.name, stream.seed, *stream.benchmark.passes[self.number])
        return combined_digest([repr(what).encode(), stream.images.fingerprint().encode()])

    def skip_to_end(self) -> None:
        """Draw for the images that are left, without making them."""
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
            if index < self._next and index not in self._drawn:  # requested again, or long after its turn
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
    """Images whose shorter side is 224 pixels, for which the strengths are meant; others are resized to that."""

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
        """That of the images."""
        return self.images.fingerprint()
