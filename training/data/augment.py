"""Random crops of 8-bit images, with the augmentations of DINOv2 and MAE and a preset that suits medical images.

Why OpenCV: on one core, decoding and 2 + 8 crops of a 256-pixel image run 4 (colour PNG) to 10 times (grey JPEG) as
fast as torchvision's transforms on PIL (`tests/benchmarks/test_input_pipeline.py`), and images stay 8-bit until they
reach the model, a quarter of the memory traffic of floats. A grey-level image keeps one channel until the very end, a
third of the work.

Every random number comes from a `random.Random` that the caller seeds, so a view depends on its seed alone, not on
the number of workers.
"""

import math
from dataclasses import dataclass, field, fields
from random import Random
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from biovfm_hf.errors import UserError

Image = NDArray[Any]  # uint8, (H, W) grey or (H, W, 3) RGB

_RAMP = np.arange(256, dtype=np.float32)
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601-2, as PIL's "L"


@dataclass(frozen=True)
class AugmentConfig:
    """Every parameter of the augmentation. Probabilities are in [0, 1]; triples are (global 1, global 2, local).

    Attributes:
        preset: where the defaults come from, one of `PRESETS`; the fields given beside it win.
        global_count: global crops per image (2 for DINOv2, 1 for MAE).
        global_size: their side in pixels.
        global_scale: their area, as a share of the image's, drawn from this range.
        local_count: local crops per image.
        local_size: their side in pixels.
        local_scale: their area range.
        aspect: range of width / height of a crop before it is resized to a square, drawn log-uniformly.
        horizontal_flip: probability of a left-right flip.
        vertical_flip: probability of an upside-down flip.
        flip_by_modality: modality -> [horizontal, vertical] where it differs (needs a `modality` column).
        jitter_p: probability of the intensity and colour jitter as a whole.
        brightness: factor from [1 - x, 1 + x].
        contrast: likewise, around the mean grey level.
        saturation: likewise, towards grey.
        hue: shift from [-x, x] of the colour circle; at most 0.5.
        gamma: exponent range of an intensity curve, log-uniform; [1, 1] is off.
        grayscale_p: probability of dropping the colours.
        blur_p: probability of the Gaussian blur, per kind of view.
        blur_sigma: its standard deviation in pixels, uniform.
        blur_kernel: its width in pixels, odd.
        solarize_p: probability of inverting the bright half, per kind of view.
        solarize_threshold: grey level from which a pixel is inverted.
        mean: per-channel mean (of 0..1 values) that the model's input is centred by.
        std: per-channel standard deviation that it is divided by.
        on_device: jitter, greying, blur and solarising for whole batches on the training device (`augment_batch.py`),
            which frees the loader's cores; crops and flips stay with the loader, where images have their own sizes.
    """

    preset: str = "dinov2"
    global_count: int = 2
    global_size: int = 224
    global_scale: tuple[float, float] = (0.32, 1.0)
    local_count: int = 8
    local_size: int = 96
    local_scale: tuple[float, float] = (0.05, 0.32)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    horizontal_flip: float = 0.5
    vertical_flip: float = 0.0
    flip_by_modality: dict[str, tuple[float, float]] = field(default_factory=dict)
    jitter_p: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    gamma: tuple[float, float] = (1.0, 1.0)
    grayscale_p: float = 0.2
    blur_p: tuple[float, float, float] = (0.0, 0.9, 0.5)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: int = 9
    solarize_p: tuple[float, float, float] = (0.0, 0.2, 0.0)
    solarize_threshold: int = 128
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    on_device: bool = False


# What each preset changes of the defaults above.
# "dinov2": blur as it was trained. DINOv2's GaussianBlur(p) blurs with probability 1 - p, so its nominal 1.0/0.1/0.5
# was 0.0/0.9/0.5 when the released weights were made (facebookresearch/dinov3 issue 286 has the maintainers' word).
PRESETS: dict[str, dict[str, Any]] = {
    "dinov2": {},
    "dinov2-nominal": {"blur_p": (1.0, 0.1, 0.5)},
    # Grey levels and stains carry meaning: no colour shifts, no inversion; intensity curves vary as scanners do.
    # Images without an up or down may be turned over.
    "medical": {
        "saturation": 0.0,
        "hue": 0.0,
        "grayscale_p": 0.0,
        "gamma": (0.7, 1.4),
        "solarize_p": (0.0, 0.0, 0.0),
        "flip_by_modality": {name: (0.5, 0.5) for name in ("Microscopy", "Dermoscopy", "Endoscopy", "Fundus", "OCTA")},
    },
    "mae": {
        "global_count": 1,
        "global_scale": (0.2, 1.0),
        "local_count": 0,
        "jitter_p": 0.0,
        "grayscale_p": 0.0,
        "blur_p": (0.0, 0.0, 0.0),
        "solarize_p": (0.0, 0.0, 0.0),
    },
}


def check_augment(config: AugmentConfig, patch_size: int) -> None:
    """Refuse an augmentation that cannot work with patches of `patch_size` pixels.

    Raises:
        UserError: names the key, its value and what it must be.
    """
    if config.local_count and config.local_size > config.global_size:
        raise UserError(
            f"augment.local_size {config.local_size} is larger than augment.global_size {config.global_size}; "
            "local crops must be the smaller ones"
        )
    for name in ("global_size", "local_size") if config.local_count else ("global_size",):
        size = getattr(config, name)
        if size < patch_size or size % patch_size:
            near = max(round(size / patch_size), 1) * patch_size
            raise UserError(f"augment.{name} {size} is not a multiple of the patch size {patch_size}; use {near}")
    for name in ("global_scale", "local_scale", "aspect", "gamma", "blur_sigma"):
        low, high = getattr(config, name)
        if not 0 < low <= high < math.inf or ("scale" in name and high > 1):
            raise UserError(f"augment.{name} [{low}, {high}] is no range of positive numbers in order")
    for name in (f.name for f in fields(config) if f.name.endswith(("_p", "_flip"))):
        value = getattr(config, name)
        if not all(0 <= p <= 1 for p in (value if isinstance(value, tuple) else (value,))):
            raise UserError(f"augment.{name} {value} is not a probability between 0 and 1")
    for name in ("brightness", "contrast", "saturation", "hue"):
        if not 0 <= getattr(config, name) < math.inf:
            raise UserError(f"augment.{name} is {getattr(config, name)}; it must be at least 0")
    if not all(0 < value < math.inf for value in config.std) or not all(map(math.isfinite, config.mean)):
        raise UserError("augment.mean and augment.std must be numbers, and those of std above 0")
    if config.blur_kernel < 1 or config.blur_kernel % 2 == 0:
        raise UserError(f"augment.blur_kernel {config.blur_kernel} is not odd and positive")
    if config.global_count < 1 or config.local_count < 0 or config.hue > 0.5:
        raise UserError("augment: global_count must be at least 1, local_count at least 0, hue <= 0.5")


@dataclass(frozen=True)
class Look:
    """What is drawn for the appearance of one view; the defaults leave it as it is.

    Attributes:
        jitter: operations in the order of their application, each the index of a name in `JITTER` and its change.
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
        """The crops of `views`, flipped but otherwise as they are, each with the look that it is to get."""
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
    """`image` at `size` x `size` pixels: area averaging when it shrinks (no aliasing), bicubic when it grows.

    Within 45-50 dB (PSNR, mean) of PIL's antialiased bicubic, which the references used.
    """
    shrinks = image.shape[0] * image.shape[1] > size * size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


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
