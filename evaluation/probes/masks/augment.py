"""Augmentation of images together with their masks: the radiology study's, and a set for medical images.

Both take pixels (B, 3, H, W) float in 0..1 and masks (B, H, W) int64 and return new ones of the same shapes. What
leaves the image is lost, and black background enters. Neither mirrors left and right, because these can be classes.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Augment = Callable[[Tensor, Tensor, np.random.Generator], tuple[Tensor, Tensor]]

FLIP = 0.25  # probability of each of the study's two flips
# The medical set has the probabilities and ranges of nnU-Net v2's 2D training (Isensee et al. 2021), but no mirroring.
ROTATE, SCALE, SCALES = 0.2, 0.2, (0.7, 1.4)
NOISE, NOISE_VARIANCE = 0.1, 0.1  # for images of variance 1
BLUR, BLUR_SIGMA = 0.2, (0.5, 1.0)
BRIGHTEN, CONTRAST, FACTOR = 0.15, 0.15, (0.75, 1.25)
COARSEN, COARSENING = 0.25, (0.5, 1.0)
INVERTED_GAMMA, GAMMA, EXPONENT = 0.1, 0.3, (0.7, 1.5)


def augment_study(pixels: Tensor, masks: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """The radiology study's augmentation: two flips of top and bottom, each with probability 1/4, and a rotation.

    The rotation is by up to 90 degrees. The study's code calls the second flip horizontal, but it flips vertically
    again, so an image is upside down in 3 of 8 cases. Image and mask are both resampled to the nearest pixel.
    """
    flips = (rng.random((2, len(pixels))) < FLIP).sum(0) % 2
    angles = rng.uniform(-math.pi / 2, math.pi / 2, len(pixels))
    return _move(pixels, masks, _matrices(angles, np.ones(len(pixels)), 1.0 - 2.0 * flips), "nearest")


def augment_medical(pixels: Tensor, masks: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """nnU-Net's set without mirroring: rotation and scale, noise, blur, brightness, contrast, resolution, gamma."""
    count = len(pixels)
    angles = np.where(rng.random(count) < ROTATE, rng.uniform(-math.pi, math.pi, count), 0.0)
    scales = np.where(rng.random(count) < SCALE, rng.uniform(*SCALES, count), 1.0)
    pixels, masks = _move(pixels, masks, _matrices(angles, scales, np.ones(count)), "bilinear")
    return torch.stack([_recolour(image, rng) for image in pixels]).clamp_(0, 1), masks


def augmentation(name: str) -> Augment:
    """The function of one of `settings.AUGMENTATIONS`."""
    function: Augment = globals()[f"augment_{name}"]
    return function


def _matrices(angles: np.ndarray, scales: np.ndarray, ups: np.ndarray) -> Tensor:
    """Matrices (B, 2, 3) from places in the new image to the old: rotation, scale by 1 / scale, flip if up is -1."""
    cos, sin = np.cos(angles) / scales, np.sin(angles) / scales
    zeros = np.zeros(len(angles))
    rows = [[cos, -sin * ups, zeros], [sin, cos * ups, zeros]]
    return torch.from_numpy(np.array(rows)).permute(2, 0, 1).float()


def _move(pixels: Tensor, masks: Tensor, matrices: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """Rotate, scale and flip square images together with their masks."""
    places = functional.affine_grid(matrices, list(pixels.shape), align_corners=False).to(pixels.device)
    moved = functional.grid_sample(pixels, places, mode=mode, padding_mode="zeros", align_corners=False)
    classes = functional.grid_sample(
        masks[:, None].float(), places, mode="nearest", padding_mode="zeros", align_corners=False
    )
    return moved, classes[:, 0].round().long()


def _recolour(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Change an image's noise, sharpness, brightness, contrast, resolution and gamma, each at its own probability."""
    if rng.random() < NOISE:
        noise = torch.from_numpy(rng.standard_normal(image.shape[1:], np.float32))
        image = image + noise * math.sqrt(rng.uniform(0, NOISE_VARIANCE)) * image.std()
    if rng.random() < BLUR:
        image = _blur(image, rng.uniform(*BLUR_SIGMA))
    if rng.random() < BRIGHTEN:
        image = image * _either_side(rng, FACTOR)
    if rng.random() < CONTRAST:
        mean, (low, high) = image.mean(), (float(image.min()), float(image.max()))
        image = ((image - mean) * _either_side(rng, FACTOR) + mean).clamp(low, high)
    if rng.random() < COARSEN:
        image = _coarsen(image, rng.uniform(*COARSENING))
    if rng.random() < INVERTED_GAMMA:
        image = -_gamma(-image, _either_side(rng, EXPONENT))
    if rng.random() < GAMMA:
        image = _gamma(image, _either_side(rng, EXPONENT))
    return image


def _either_side(rng: np.random.Generator, ends: tuple[float, float]) -> float:
    """A factor below or above 1, with equal probability."""
    return rng.uniform(ends[0], 1) if rng.random() < 0.5 else rng.uniform(1, ends[1])


def _blur(image: Tensor, sigma: float) -> Tensor:
    reach = math.ceil(3 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1.0) / sigma) ** 2)
    weights = (weights / weights.sum()).expand(3, 1, 1, -1)
    padded = functional.pad(image[None], (reach,) * 4, mode="replicate")
    across = functional.conv2d(padded, weights, groups=3)
    return functional.conv2d(across, weights.transpose(2, 3), groups=3)[0]


def _coarsen(image: Tensor, share: float) -> Tensor:
    """Keep a share of the pixels in each direction (nearest), then enlarge the image again bicubically."""
    size = [max(1, round(side * share)) for side in image.shape[1:]]
    small = functional.interpolate(image[None], size=size, mode="nearest-exact")
    return functional.interpolate(small, size=list(image.shape[1:]), mode="bicubic", align_corners=False)[0]


def _gamma(image: Tensor, exponent: float) -> Tensor:
    """Apply an exponent to an image scaled to its range; mean and standard deviation stay the same."""
    low, span = image.min(), image.max() - image.min()
    if not span > 0:
        return image
    curved = ((image - low) / span) ** exponent * span + low
    return (curved - curved.mean()) / curved.std().clamp_min(1e-8) * image.std() + image.mean()
