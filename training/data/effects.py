"""The effects that change a crop's look, each for one 8-bit image (OpenCV) and for a batch on the device (torch).

To add one, write its two functions, and an entry of `EFFECTS` with how its number is drawn from the settings. Pixels
of a batch stay floats between effects and are rounded once, while OpenCV rounds to 8 bits each time, so the two agree
to a few grey levels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..settings.augment import AugmentConfig
from .decode import Image

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601-2, as PIL's "L"
_RAMP = np.arange(256, dtype=np.float32)


class Draw(NamedTuple):
    """What an effect's number is drawn from.

    `kind` is that of the view: 0 and 1 for the first and later global crops, 2 for local ones. `jittered` tells
    whether the view's jitter is on.
    """

    config: AugmentConfig
    random: Random
    kind: int
    jittered: bool

    def happens(self, probability: float) -> bool:
        """Whether an effect of this probability acts on the view; at 0 it takes no random number."""
        return probability > 0 and self.random.random() < probability


@dataclass(frozen=True)
class Jitter:
    """A change of intensity or colour by a number, in torchvision's ColorJitter.

    Attributes:
        name: its field of `AugmentConfig`, the range of the number.
        on_image: changes one image.
        on_batch: changes pixels (B, 3, S, S) from 0 to 255 by numbers (B, 1, 1, 1).
    """

    name: str
    on_image: Callable[[Image, float], Image]
    on_batch: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Effect:
    """An effect that follows the jitter.

    Attributes:
        name: its name.
        draw: the number of a view. With settings that switch the effect off it takes no random number
            (`Draw.happens`): all crops of an image share one generator, so one more number would change the crops
            of every recipe that does without the effect.
        on_image: applies it to one image.
        on_batch: applies it to pixels (B, 3, S, S) from 0 to 255 with numbers (B, 1, 1, 1).
        samples: some of its numbers, at which a test compares `on_image` with `on_batch`.
        nothing: the number that changes nothing; then the effect is not applied.
    """

    name: str
    draw: Callable[[Draw], float]
    on_image: Callable[[Image, float, AugmentConfig], Image]
    on_batch: Callable[[Tensor, Tensor, AugmentConfig], Tensor]
    samples: tuple[float, ...]
    nothing: float = 0.0


def per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    """(C,) numbers as (1, C, 1, 1) float32 on the device of `like`, without waiting for the GPU's queue."""
    return torch.tensor(values).view(1, -1, 1, 1).to(like.device, non_blocking=True)


def _curve(view: Image, levels: NDArray[np.floating]) -> Image:
    """Replace each grey level by its entry of `levels` (256 floats), rounded and clipped."""
    return cv2.LUT(view, np.clip(np.rint(levels), 0, 255).astype(np.uint8))


def _luminance(pixels: Tensor) -> Tensor:
    """(b, 3, S, S) to (b, 1, S, S)."""
    return (pixels * per_channel(LUMA.tolist(), pixels)).sum(dim=1, keepdim=True)


def _brighten(view: Image, change: float) -> Image:
    return _curve(view, _RAMP * (1 + change))


def _brighten_batch(pixels: Tensor, change: Tensor) -> Tensor:
    return pixels * (1 + change)


def _contrast(view: Image, change: float) -> Image:
    mean = cv2.mean(view)
    grey = mean[0] if view.ndim == 2 else float(np.dot(LUMA, mean[:3]))
    return _curve(view, _RAMP * (1 + change) - change * round(grey))


def _contrast_batch(pixels: Tensor, change: Tensor) -> Tensor:
    return pixels * (1 + change) - change * _luminance(pixels).mean(dim=(1, 2, 3), keepdim=True).round()


def _saturate(view: Image, change: float) -> Image:
    if view.ndim == 2:
        return view
    return cv2.transform(view, (1 + change) * np.eye(3, dtype=np.float32) - change * LUMA)


def _saturate_batch(pixels: Tensor, change: Tensor) -> Tensor:
    return pixels * (1 + change) - change * _luminance(pixels)


def _turn_hue(view: Image, change: float) -> Image:
    if view.ndim == 2:
        return view
    hsv = cv2.cvtColor(view, cv2.COLOR_RGB2HSV_FULL)  # hue in 0..255, as PIL's "HSV", so that it wraps by itself
    levels = np.stack([_RAMP, _RAMP, _RAMP], axis=1).astype(np.uint8)[None]
    levels[0, :, 0] += np.uint8(round(change * 255) % 256)
    return cv2.cvtColor(cv2.LUT(hsv, levels), cv2.COLOR_HSV2RGB_FULL)


def _turn_hue_batch(pixels: Tensor, change: Tensor) -> Tensor:
    """Turn the colour circle by `change` of its circumference: RGB to hue, chroma and value, and back."""
    value, least = pixels.amax(dim=1, keepdim=True), pixels.amin(dim=1, keepdim=True)
    chroma = value - least
    red, green, blue = pixels.split(1, dim=1)
    safe = chroma.clamp_min(1e-6)
    from_blue = torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    hue = torch.where(value == red, (green - blue) / safe, from_blue)  # in sixths of the circle
    turned = hue + 6 * change
    # Smith (1978): each channel is value minus chroma times a trapezium of its distance on the circle
    distance = (turned + per_channel([5.0, 3.0, 1.0], pixels)) % 6
    return value - chroma * torch.minimum(distance, 4 - distance).clamp(0, 1)


def _draw_gamma(draw: Draw) -> float:
    """The exponent of an intensity curve, log-uniform; it comes with the jitter."""
    low, high = draw.config.gamma
    if not draw.jittered or low >= high:
        return 1.0
    return math.exp(draw.random.uniform(math.log(low), math.log(high)))


def _bend(view: Image, gamma: float, config: AugmentConfig) -> Image:
    return _curve(view, 255 * (_RAMP / 255) ** gamma)


def _bend_batch(pixels: Tensor, gamma: Tensor, config: AugmentConfig) -> Tensor:
    return 255 * (pixels / 255) ** gamma


def _draw_grey(draw: Draw) -> float:
    return float(draw.random.random() < draw.config.grayscale_p)


def _grey(view: Image, _: float, config: AugmentConfig) -> Image:
    return cv2.cvtColor(view, cv2.COLOR_RGB2GRAY) if view.ndim == 3 else view


def _grey_batch(pixels: Tensor, _: Tensor, config: AugmentConfig) -> Tensor:
    return _luminance(pixels).expand_as(pixels)


def _draw_sigma(draw: Draw) -> float:
    """The blur's standard deviation in pixels."""
    if draw.random.random() < draw.config.blur_p[draw.kind]:
        return draw.random.uniform(*draw.config.blur_sigma)
    return 0.0


def _blur(view: Image, sigma: float, config: AugmentConfig) -> Image:
    return cv2.GaussianBlur(view, (config.blur_kernel, config.blur_kernel), sigma)


def _blur_batch(pixels: Tensor, sigma: Tensor, config: AugmentConfig) -> Tensor:
    """Gaussian blur with a sigma for each image, mirrored at the edges as OpenCV does."""
    width = config.blur_kernel
    offsets = torch.arange(width, device=pixels.device) - width // 2
    weights = torch.exp(-0.5 * (offsets / sigma.view(-1, 1)) ** 2)
    weights = (weights / weights.sum(dim=1, keepdim=True)).repeat_interleave(pixels.shape[1], 0)  # (b * 3, width)
    images, channels, height, columns = pixels.shape
    flat = F.pad(pixels.reshape(1, images * channels, height, columns), [width // 2] * 4, mode="reflect")
    flat = F.conv2d(flat, weights.view(-1, 1, width, 1), groups=images * channels)
    return F.conv2d(flat, weights.view(-1, 1, 1, width), groups=images * channels).view_as(pixels)


def _draw_solarize(draw: Draw) -> float:
    return float(draw.random.random() < draw.config.solarize_p[draw.kind])


def _solarize(view: Image, _: float, config: AugmentConfig) -> Image:
    return _curve(view, np.where(config.solarize_threshold <= _RAMP, 255 - _RAMP, _RAMP))


def _solarize_batch(pixels: Tensor, _: Tensor, config: AugmentConfig) -> Tensor:
    whole = pixels.round()
    return torch.where(whole >= config.solarize_threshold, 255 - whole, whole)


JITTER = (
    Jitter("brightness", _brighten, _brighten_batch),
    Jitter("contrast", _contrast, _contrast_batch),
    Jitter("saturation", _saturate, _saturate_batch),
    Jitter("hue", _turn_hue, _turn_hue_batch),
)
# In the order in which they are drawn and applied, DINOv2's (`dinov2/data/augmentations.py`). Grey, blur and solarize
# take a random number even when they are off, since the views of every seed hold it.
EFFECTS = (
    Effect("gamma", _draw_gamma, _bend, _bend_batch, (0.8,), nothing=1.0),
    Effect("grey", _draw_grey, _grey, _grey_batch, (1.0,)),
    Effect("blur", _draw_sigma, _blur, _blur_batch, (0.3, 1.7)),
    Effect("solarize", _draw_solarize, _solarize, _solarize_batch, (1.0,)),
)
