"""Blur by a lens, by motion and by zoom, as MedMNIST-C makes it."""

import numpy as np

from .draws import RandomSources

DISK = 8  # radius of the lens kernel in pixels
MAGICK_SCALE = 257  # ImageMagick with 16 bits per value turns 255 into 65,535


def blur_gaussian(image: np.ndarray, size: int) -> np.ndarray:
    """Gaussian blur with a kernel of `size` pixels, torchvision's sigma for it, and reflected edges."""
    import torch
    from torch.nn import functional

    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    places = torch.linspace(-(size - 1) * 0.5, (size - 1) * 0.5, size)
    line = torch.exp(-0.5 * (places / sigma).pow(2))
    line = line / line.sum()
    kernel = (line[:, None] @ line[None]).expand(3, 1, size, size)
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    padded = functional.pad(pixels, [size // 2] * 4, mode="reflect")
    return functional.conv2d(padded, kernel, groups=3)[0].round().to(torch.uint8).permute(1, 2, 0).numpy()


def blur_defocus(image: np.ndarray, lens: tuple[float, float]) -> np.ndarray:
    """Blur with a disk; `lens` is its radius and the sigma that softens its edge."""
    import cv2

    radius, alias = lens
    reach, soft = (DISK, 3) if radius <= DISK else (int(radius), 5)
    places = np.arange(-reach, reach + 1)
    disk = (places[None] ** 2 + places[:, None] ** 2 <= radius**2).astype(np.float32)
    kernel = cv2.GaussianBlur(disk / disk.sum(), ksize=(soft, soft), sigmaX=alias)
    shares = cv2.filter2D(image / 255.0, -1, kernel)
    return (np.clip(shares, 0, 1) * 255).astype(np.uint8)


def draw_angle(draws: RandomSources, image: np.ndarray, motion: tuple[float, float]) -> float:
    """The direction of motion in degrees."""
    return float(draws.legacy.uniform(-45, 45))


def blur_motion(image: np.ndarray, motion: tuple[float, float], angle: float) -> np.ndarray:
    """ImageMagick's motion blur: half a Gaussian with `motion`'s radius and sigma along a line, edges repeated."""
    radius, sigma = motion
    steps = np.arange(2 * int(np.ceil(radius)) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    turn = np.deg2rad(angle)
    right = np.ceil(steps * np.cos(turn) - 0.5).astype(int)
    down = np.ceil(steps * np.sin(turn) - 0.5).astype(int)
    height, width = image.shape[:2]
    values = image.astype(np.float64) * MAGICK_SCALE
    total = np.zeros(image.shape)
    for weight, x, y in zip(weights, right, down, strict=True):
        rows = np.clip(np.arange(height) + y, 0, height - 1)
        columns = np.clip(np.arange(width) + x, 0, width - 1)
        total += weight * values[rows[:, None], columns]
    return (np.floor(total + 0.5).astype(np.int64) // MAGICK_SCALE).clip(0, 255).astype(np.uint8)


def blur_zoom(image: np.ndarray, zooms: tuple[float, float]) -> np.ndarray:
    """The mean of the image and its enlargements from 1 up to a limit, exclusive; `zooms` is (limit, step)."""
    shares = (image / 255.0).astype(np.float32)
    factors = np.arange(1, *zooms)
    total = np.zeros_like(shares)
    for factor in factors:
        total += _enlarged(shares, factor)
    return (np.clip((shares + total) / (len(factors) + 1), 0, 1) * 255).astype(np.uint8)


def _enlarged(shares: np.ndarray, factor: float) -> np.ndarray:
    """The middle of an image (H, W, 3), enlarged `factor` times."""
    from scipy.ndimage import zoom

    height, width = shares.shape[:2]
    rows, columns = (int(np.ceil(side / factor)) for side in (height, width))
    top, left = (height - rows) // 2, (width - columns) // 2
    larger = zoom(shares[top : top + rows, left : left + columns], (factor, factor, 1), order=1)
    top, left = (larger.shape[0] - height) // 2, (larger.shape[1] - width) // 2
    return larger[top : top + height, left : left + width]
