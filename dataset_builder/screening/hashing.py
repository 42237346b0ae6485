"""Fingerprints of a picture: an exact hash of its pixels, a 64-bit perceptual hash, and a tiny thumbnail."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

THUMBNAIL = 28  # side of the thumbnail that confirms a match of perceptual hashes; MedMNIST's smallest size
REDUCED = 112  # longer side of pictures for fingerprints
SIMILARITY = 0.99  # least correlation between the textures of thumbnails of the same picture

_TOGETHER = 32  # pictures blurred together, always as many, so that a texture does not depend on the others

# The 64 lowest spatial frequencies of a 32 x 32 DCT without the mean, nearest to the origin first.
_LOWEST = 12
_FREQUENCIES = sorted(
    ((u, v) for u in range(_LOWEST) for v in range(_LOWEST) if u + v), key=lambda f: (f[0] ** 2 + f[1] ** 2, f)
)
_ROWS, _COLUMNS = np.array(_FREQUENCIES[:64]).T


class Rows(Protocol):
    """Thumbnails indexed by number: an array, or files."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows, and bytes of each."""
        ...

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Some of the thumbnails, uint8."""
        ...


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_pixels(pixels: np.ndarray) -> str:
    """SHA-256 (hex) of uint8 pixels: of the shape as three 32-bit little-endian numbers, then of the values."""
    shape = np.array([*pixels.shape, 1][:3], dtype="<u4")
    digest = hashlib.sha256(shape.tobytes())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def grey(pixels: np.ndarray) -> np.ndarray:
    """Luma of uint8 (H, W, 3) as uint8 (H, W); grey pixels are returned as they are."""
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.ndim == 3 else pixels


def reduced(pixels: np.ndarray) -> np.ndarray:
    """The picture in grey, its longer side at most REDUCED: the input of both fingerprints below."""
    picture = grey(pixels)
    scale = REDUCED / max(picture.shape)
    if scale >= 1:
        return np.ascontiguousarray(picture)
    height, width = (max(1, round(side * scale)) for side in picture.shape)
    return cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=cv2.INTER_AREA)


def fingerprint(picture: np.ndarray) -> tuple[int, np.ndarray]:
    """The perceptual hash (unsigned, 64 bits) and the thumbnail (uint8, THUMBNAIL ** 2) of a picture.

    The hash: the picture squashed to 32 x 32 by area averaging, its two-dimensional DCT, the 64 lowest frequencies
    without the mean, a bit for each that exceeds their median, the lowest frequency first. Contrast and brightness do
    not change it; mirroring and turning do. After Zauner, Implementation and Benchmarking of Perceptual Image Hash
    Functions (2010). The thumbnail: the picture squashed by an antialiased bicubic filter, as MedMNIST does it.

    Args:
        picture: uint8 (h, w) from `reduced`, without padding.
    """
    height, width = picture.shape
    # Both are linear and separable: one product with (12 + 28) rows of weights on each side gives them together.
    product = _weights(height) @ picture.astype(np.float32) @ _weights(width).T
    coefficients = product[_ROWS, _COLUMNS]
    bits = coefficients > np.partition(coefficients, 31)[31]
    shown = np.clip(np.rint(product[_LOWEST:, _LOWEST:]), 0, 255).astype(np.uint8)
    return int.from_bytes(np.packbits(bits).tobytes(), "big"), shown.ravel()


@lru_cache(maxsize=REDUCED)
def _weights(size: int) -> np.ndarray:
    """Weights (_LOWEST + THUMBNAIL, size) from a line of `size` pixels to DCT coefficients and to a thumbnail."""
    cosines = np.cos(np.pi / 32 * (np.arange(32) + 0.5) * np.arange(_LOWEST)[:, None])
    cosines[0] *= np.sqrt(0.5)
    return np.concatenate([cosines @ _area(size, 32), _bicubic(size, THUMBNAIL)]).astype(np.float32)


def _area(size: int, target: int) -> np.ndarray:
    """Weights (target, size) of an average over the part of the line that each target pixel covers."""
    edges = np.linspace(0, size, target + 1)
    left, right = np.arange(size), np.arange(1, size + 1)
    covered = np.minimum(edges[1:, None], right) - np.maximum(edges[:-1, None], left)
    weights = np.maximum(covered, 0)
    return weights / weights.sum(axis=1, keepdims=True)


def _bicubic(size: int, target: int) -> np.ndarray:
    """Weights (target, size) of Keys' cubic kernel (a = -0.5), widened when the line shrinks, as in Pillow."""
    scale = max(1.0, size / target)
    centres = (np.arange(target) + 0.5) * size / target
    x = np.abs((np.arange(size) + 0.5 - centres[:, None]) / scale)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)


def textures(thumbnails: np.ndarray) -> np.ndarray:
    """The texture that distinguishes a thumbnail from others of its kind: middle frequencies at equal local contrast.

    The difference of two Gaussians (0.9 and 2 pixels) removes the shape that all pictures of a kind share and the
    noise of JPEG. Division by the local deviation (2 pixels) keeps a few strong edges, such as a fundus camera's
    circle, from dominating.

    Args:
        thumbnails: uint8 (n, THUMBNAIL ** 2).

    Returns:
        float32 (n, THUMBNAIL ** 2), each row with mean 0 and length 1; 0 if a thumbnail has no texture.
    """
    fine = np.empty(thumbnails.shape, dtype=np.float32)
    for start in range(0, len(thumbnails), _TOGETHER):
        part = fine[start : start + _TOGETHER]
        stack = np.zeros((THUMBNAIL**2, _TOGETHER), dtype=np.float32)  # the pictures are its channels
        stack[:, : len(part)] = thumbnails[start : start + _TOGETHER].T
        picture = _blurred(stack, 0.9)
        band = picture - _blurred(picture, 2.0)
        deviation = np.sqrt(_blurred(band * band, 2.0))
        part[:] = (band / (deviation + 3.0))[:, : len(part)].T
    fine -= fine.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(fine, axis=1, keepdims=True)
    return fine / np.where(norms > 1e-3, norms, np.inf)


def _blurred(stack: np.ndarray, sigma: float) -> np.ndarray:
    """Pictures of THUMBNAIL ** 2 pixels, one in each column, blurred by a Gaussian."""
    shape = (THUMBNAIL, THUMBNAIL, stack.shape[1])
    return cv2.GaussianBlur(stack.reshape(shape), (0, 0), sigma).reshape(stack.shape)
