"""Noise of MedMNIST-C. Images are uint8 (H, W, 3); values are drawn for each channel; results are truncated."""

import numpy as np

from .draws import RandomSources


def _to_bytes(shares: np.ndarray) -> np.ndarray:
    return (np.clip(shares, 0, 1) * 255).astype(np.uint8)


def draw_normal(draws: RandomSources, image: np.ndarray, scale: float) -> np.ndarray:
    """Normal values in the shape of an image."""
    return draws.legacy.normal(size=image.shape, scale=scale)


def add_gaussian(image: np.ndarray, scale: float, normal: np.ndarray) -> np.ndarray:
    """Gaussian noise with standard deviation `scale`, as a share of the range."""
    return _to_bytes(image / 255.0 + normal)


def add_speckle(image: np.ndarray, scale: float, normal: np.ndarray) -> np.ndarray:
    """Noise in proportion to the pixel value."""
    shares = image / 255.0
    return _to_bytes(shares + shares * normal)


def draw_photons(draws: RandomSources, image: np.ndarray, photons: float) -> np.ndarray:
    """Poisson counts with the mean value times `photons`."""
    return draws.legacy.poisson(image / 255.0 * photons)


def add_shot(image: np.ndarray, photons: float, counts: np.ndarray) -> np.ndarray:
    """Shot noise of a detector that counts `photons` at full brightness."""
    return _to_bytes(counts / photons)


def draw_flips(draws: RandomSources, image: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Which values flip, and which of these become white: bool arrays in the shape of an image."""
    flips = draws.generator.random(image.shape) <= share
    return flips, draws.generator.random(image.shape) <= 0.5


def add_impulses(image: np.ndarray, share: float, drawn: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Salt and pepper on `share` of all values, in each channel independently."""
    flips, salt = drawn
    return np.where(flips, np.where(salt, 255, 0), _to_bytes(image / 255.0)).astype(np.uint8)
