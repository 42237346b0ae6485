"""Augmentation: random crops of 8-bit images with DINOv2's and MAE's transforms, and a preset for medical images.

Why OpenCV: on one core, decoding and 2 + 8 crops of a 256-pixel image run 4 (colour PNG) to 10 times (grey JPEG) as
fast as torchvision's transforms on PIL (`tests/benchmarks/test_input_pipeline.py`), and images stay 8-bit until they
reach the model, a quarter of the memory traffic of floats. A grey-level image keeps one channel until the very end, a
third of the work.

Every random number comes from a `random.Random` that the caller seeds, so a view depends on its seed alone, not on
the number of workers.
"""

import math
from dataclasses import dataclass
from random import Random

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from ..settings.augment import AugmentConfig
from .decode import Image
from .effects import EFFECTS, JITTER, Draw

_CUBIC_TO, _LINEAR_TO = 1.25, 1.6  # up to this reduction they are close to antialiased bicubic


@dataclass(frozen=True)
class Look:
    """The random appearance of one view; the defaults change nothing.

    Attributes:
        jitter: operations in the order of application, each its place in `JITTER` and its change.
        effects: the number of each of `EFFECTS`.
    """

    jitter: tuple[tuple[int, float], ...] = ()
    effects: tuple[float, ...] = tuple(effect.nothing for effect in EFFECTS)


class Augmenter:
    """Draws the views of an image."""

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config

    def views(self, image: Image, random: Random, modality: str | None = None) -> tuple[list[Image], list[Image]]:
        """Global and local crops of `image`, each (S, S) if grey or (S, S, 3), 8-bit, their looks applied.

        Args:
            image: (H, W) or (H, W, 3) RGB, 8-bit.
            random: the only source of randomness.
            modality: picks the flips of `flip_by_modality`.
        """
        large, small = self.draw(image, random, modality)
        return [self.apply(*view) for view in large], [self.apply(*view) for view in small]

    def draw(
        self, image: Image, random: Random, modality: str | None = None
    ) -> tuple[list[tuple[Image, Look]], list[tuple[Image, Look]]]:
        """The crops of `views`, only flipped, each with the look to apply."""
        config = self.config
        flips = config.flip_by_modality.get(modality or "", (config.horizontal_flip, config.vertical_flip))
        large = [
            self._crop(image, random, config.global_size, config.global_scale, min(number, 1), flips)
            for number in range(config.global_count)
        ]
        small = [
            self._crop(image, random, config.local_size, config.local_scale, 2, flips)
            for _ in range(config.local_count)
        ]
        return large, small

    def _crop(
        self,
        image: Image,
        random: Random,
        size: int,
        scale: tuple[float, float],
        kind: int,
        flips: tuple[float, float],
    ) -> tuple[Image, Look]:
        top, left, height, width = draw_box(image.shape[0], image.shape[1], scale, self.config.aspect, random)
        view = resize(image[top : top + height, left : left + width], size)
        horizontal, vertical = random.random() < flips[0], random.random() < flips[1]
        if horizontal or vertical:
            view = cv2.flip(view, -1 if horizontal and vertical else int(horizontal))
        return view, self._draw_look(random, kind)

    def _draw_look(self, random: Random, kind: int) -> Look:
        draw = Draw(self.config, random, kind, jittered=random.random() < self.config.jitter_p)
        jitter = self._draw_jitter(random) if draw.jittered else ()
        return Look(jitter, tuple(effect.draw(draw) for effect in EFFECTS))

    def _draw_jitter(self, random: Random) -> tuple[tuple[int, float], ...]:
        """Brightness, contrast, saturation and hue in random order (torchvision's ColorJitter)."""
        ranges = [getattr(self.config, operation.name) for operation in JITTER]
        order = [which for which in random.sample(range(4), 4) if ranges[which]]
        return tuple((which, random.uniform(-ranges[which], ranges[which])) for which in order)

    def apply(self, view: Image, look: Look) -> Image:
        """`view` with the look."""
        for which, change in look.jitter:
            view = JITTER[which].on_image(view, change)
        for effect, value in zip(EFFECTS, look.effects, strict=True):
            if value != effect.nothing:
                view = effect.on_image(view, value, self.config)
        return view


def draw_box(
    height: int, width: int, scale: tuple[float, float], aspect: tuple[float, float], random: Random
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop, by the rule of torchvision's RandomResizedCrop."""
    low, high = math.log(aspect[0]), math.log(aspect[1])
    for _ in range(10):
        area = height * width * random.uniform(*scale)
        ratio = math.exp(random.uniform(low, high))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = random.randint(0, height - box_height), random.randint(0, width - box_width)
            return top, left, box_height, box_width
    # a very long image: the largest central crop whose shape is allowed
    box_width = min(width, max(round(height * aspect[1]), 1)) if width > height * aspect[1] else width
    box_height = min(height, max(round(width / aspect[0]), 1)) if width < height * aspect[0] else height
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def resize(image: Image, size: int) -> Image:
    """`image` at `size` x `size` pixels, as sharp as PIL's antialiased bicubic, which the references used.

    For a large reduction it is that resize (nearly all pixels within one level). A small reduction or an enlargement
    hardly aliases, and OpenCV takes half the time: bicubic, 3 to 8 % sharper, then bilinear, 0 to 5 % less sharp.
    """
    shrinks = max(image.shape[:2]) / size
    if shrinks <= _LINEAR_TO:
        kernel = cv2.INTER_CUBIC if shrinks <= _CUBIC_TO else cv2.INTER_LINEAR
        return cv2.resize(image, (size, size), interpolation=kernel)
    columns = _resize_rows(cv2.transpose(image), size)
    return _resize_rows(cv2.transpose(columns), size)


def _resize_rows(image: Image, count: int) -> Image:
    """(H, W) or (H, W, 3) to `count` rows, antialiased.

    torch has a fast path for 8-bit images of four interleaved channels. Since only rows are resized, any four
    neighbouring bytes of a row can serve as channels.
    """
    height, width = len(image), image[0].size
    spare = -width % 4
    rows = image.reshape(height, width)
    if spare:
        rows = cv2.copyMakeBorder(rows, 0, 0, 0, spare, cv2.BORDER_REPLICATE)
    channels = torch.from_numpy(rows).view(1, height, -1, 4).permute(0, 3, 1, 2)
    channels = interpolate(channels, size=(count, channels.shape[3]), mode="bicubic", antialias=True)
    rows = channels.permute(0, 2, 3, 1).reshape(count, width + spare).numpy()
    return (rows[:, :width] if spare else rows).reshape(count, *image.shape[1:])


def pack(views: list[Image]) -> NDArray[np.uint8]:
    """Stack views of one size into (B, 3, S, S), repeating the channel of grey ones."""
    size = views[0].shape[0]
    packed = np.empty((len(views), 3, size, size), dtype=np.uint8)
    for target, view in zip(packed, views, strict=True):
        if view.ndim == 2:
            target[:] = view
        else:
            for channel, plane in enumerate(cv2.split(view)):
                target[channel] = plane
    return packed
