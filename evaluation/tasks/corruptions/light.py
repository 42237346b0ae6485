"""Brightness, contrast, gamma and saturation, as MedMNIST-C changes them."""

import numpy as np
from PIL import Image, ImageEnhance


def change_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply every value by `factor`."""
    return np.array(ImageEnhance.Brightness(Image.fromarray(image)).enhance(factor))


def change_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply the distances from the image's mean grey by `factor`."""
    return np.array(ImageEnhance.Contrast(Image.fromarray(image)).enhance(factor))


def change_gamma(image: np.ndarray, gamma: float) -> np.ndarray:
    """Raise values, as shares of the range, to the power `gamma`, with torchvision's table for 8 bits."""
    table = [int((255 + 1 - 1e-3) * pow(value / 255.0, gamma)) for value in range(256)]
    return np.minimum(table, 255).astype(np.uint8)[image]


def add_saturation(image: np.ndarray, amount: float) -> np.ndarray:
    """Add `amount` to the saturation in HSV colour space."""
    from skimage.color import hsv2rgb, rgb2hsv

    hsv = rgb2hsv(image / 255.0)
    hsv[:, :, 1] = np.clip(hsv[:, :, 1] + amount, 0, 1)
    return (np.clip(hsv2rgb(hsv), 0, 1) * 255).astype(np.uint8)
