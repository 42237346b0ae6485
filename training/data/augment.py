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
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from ..settings.augment import AugmentConfig

Image = NDArray[Any]  # uint8, (H, W) grey or (H, W, 3) RGB

_RAMP = np.arange(256, dtype=np.float32)
_CUBIC_TO, _LINEAR_TO = 1.25, 1.6  # up to this reduction they are close to antialiased bicubic
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601-2, as PIL's "L"


@dataclass(frozen=True)
class Look:
    """The random appearance of one view; the defaults change nothing.

    Attributes:
        jitter: operations in the order of application, each the index of a name in `JITTER` and its change.
        gamma: exponent of the intensity curve.
        grey: whether the colours are dropped.
        sigma: of the blur in pixels, 0 for none.
        solarize: whether the bright half is inverted.
    """

    jitter: tuple[tuple[int, float], ...] = ()
    gamma: float = 1.0
    grey: bool = False
    sigma: float = 0.0
    solarize: bool = False


JITTER = ("brightness", "contrast", "saturation", "hue")


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
        config = self.config
        jitter, gamma = self._draw_jitter(random) if random.random() < config.jitter_p else ((), 1.0)
        grey = random.random() < config.grayscale_p
        sigma = random.uniform(*config.blur_sigma) if random.random() < config.blur_p[kind] else 0.0
        return Look(jitter, gamma, grey, sigma, random.random() < config.solarize_p[kind])

    def _draw_jitter(self, random: Random) -> tuple[tuple[tuple[int, float], ...], float]:
        """Brightness, contrast, saturation and hue in random order (torchvision's ColorJitter), then gamma."""
        ranges = [getattr(self.config, name) for name in JITTER]
        order = [which for which in random.sample(range(4), 4) if ranges[which]]
        jitter = tuple((which, random.uniform(-ranges[which], ranges[which])) for which in order)
        low, high = self.config.gamma
        return jitter, math.exp(random.uniform(math.log(low), math.log(high))) if low < high else 1.0

    def apply(self, view: Image, look: Look) -> Image:
        """`view` with the look. The order of operations is DINOv2's (`dinov2/data/augmentations.py`)."""
        for which, change in look.jitter:
            view = _OPERATIONS[which](view, change)
        if look.gamma != 1.0:
            view = _curve(view, 255 * (_RAMP / 255) ** look.gamma)
        if look.grey and view.ndim == 3:
            view = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)
        if look.sigma:
            kernel = (self.config.blur_kernel, self.config.blur_kernel)
            view = cv2.GaussianBlur(view, kernel, look.sigma)
        if look.solarize:
            view = _curve(view, np.where(self.config.solarize_threshold <= _RAMP, 255 - _RAMP, _RAMP))
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


def _curve(view: Image, levels: NDArray[np.floating]) -> Image:
    """Replace each grey level by its entry of `levels` (256 floats), rounded and clipped."""
    return cv2.LUT(view, np.clip(np.rint(levels), 0, 255).astype(np.uint8))


def _brightness(view: Image, change: float) -> Image:
    return _curve(view, _RAMP * (1 + change))


def _contrast(view: Image, change: float) -> Image:
    mean = cv2.mean(view)
    grey = mean[0] if view.ndim == 2 else float(np.dot(LUMA, mean[:3]))
    return _curve(view, _RAMP * (1 + change) - change * round(grey))


def _saturation(view: Image, change: float) -> Image:
    if view.ndim == 2:
        return view
    return cv2.transform(view, (1 + change) * np.eye(3, dtype=np.float32) - change * LUMA)


def _hue(view: Image, change: float) -> Image:
    if view.ndim == 2:
        return view
    hsv = cv2.cvtColor(view, cv2.COLOR_RGB2HSV_FULL)  # hue in 0..255, as PIL's "HSV", so that it wraps by itself
    levels = np.stack([_RAMP, _RAMP, _RAMP], axis=1).astype(np.uint8)[None]
    levels[0, :, 0] += np.uint8(round(change * 255) % 256)
    return cv2.cvtColor(cv2.LUT(hsv, levels), cv2.COLOR_HSV2RGB_FULL)


_OPERATIONS = (_brightness, _contrast, _saturation, _hue)  # in the order of JITTER


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
