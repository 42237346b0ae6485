"""Fingerprints of a picture: an exact hash of its pixels, a 64-bit perceptual hash, and a tiny thumbnail."""

import hashlib
from itertools import combinations, pairwise

import cv2
import numpy as np

THUMBNAIL = 16  # side of the thumbnail that confirms what a perceptual hash suspects

# The 64 lowest spatial frequencies of a 32 x 32 DCT without the mean, nearest to the origin first.
_FREQUENCIES = sorted(
    ((u, v) for u in range(12) for v in range(12) if u + v), key=lambda f: (f[0] ** 2 + f[1] ** 2, f)
)
_ROWS, _COLUMNS = np.array(_FREQUENCIES[:64]).T
_BITS = np.uint64(1) << np.arange(63, -1, -1, dtype=np.uint64)


def sha256_of_pixels(pixels: np.ndarray) -> str:
    """SHA-256 (hex) of uint8 pixels: of the shape as three 32-bit little-endian numbers, then of the values."""
    shape = np.array([*pixels.shape, 1][:3], dtype="<u4")
    digest = hashlib.sha256(shape.tobytes())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def grey(pixels: np.ndarray) -> np.ndarray:
    """Luma of uint8 (H, W, 3) as uint8 (H, W); grey pixels are returned as they are."""
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.ndim == 3 else pixels


def perceptual_hash(pixels: np.ndarray) -> int:
    """64 bits (unsigned): which of the 64 lowest frequencies of the picture squashed to 32 x 32 exceed their median.

    `pixels`: uint8 (H, W) or (H, W, 3), without padding. The most significant bit is the lowest frequency. Contrast
    and brightness do not change the hash; mirroring and turning do. After Zauner, Implementation and Benchmarking of
    Perceptual Image Hash Functions (2010), with AC coefficients only.
    """
    small = shrink(grey(pixels), 32).astype(np.float32)
    coefficients = cv2.dct(small)[_ROWS, _COLUMNS]
    return int((_BITS * (coefficients > np.median(coefficients))).sum(dtype=np.uint64))


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """The picture squashed to uint8 (THUMBNAIL, THUMBNAIL), grey."""
    return shrink(grey(pixels), THUMBNAIL)


def shrink(pixels: np.ndarray, side: int) -> np.ndarray:
    """Squash a grey picture to (side, side): area averaging where it shrinks, linear where it grows."""
    return cv2.resize(np.ascontiguousarray(pixels), (side, side), interpolation=cv2.INTER_AREA)


def similarity(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Correlation (-1 to 1) of thumbnail `one` (n,) with each of `others` (m, n); 0 where one of them is constant."""
    a = one.astype(np.float32) - one.mean(dtype=np.float32)
    b = others.astype(np.float32) - others.mean(axis=1, keepdims=True, dtype=np.float32)
    norms = np.linalg.norm(a) * np.linalg.norm(b, axis=1)
    return (b @ a) / np.where(norms > 0, norms, np.inf)


def neighbours(left: np.ndarray, right: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (i, j) with at most `radius` differing bits between left[i] and right[j], both uint64.

    The 64 bits are cut into `radius + k` blocks: two hashes within the radius agree on at least k blocks, so each
    choice of k blocks is looked up in a sorted table (Manku et al., Detecting Near-Duplicates for Web Crawling, 2007).
    k grows with the size of `right`, which keeps the lookup sub-linear: work is the matches plus
    C(radius + k, k) * n * log(m).

    Returns:
        i and j (int64, same length), ordered by i, then j.
    """
    if not len(left) or not len(right):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    k = next(k for k in (1, 2, 3) if k == 3 or 64 * k / (radius + k) >= np.log2(len(right)) + 4)
    edges = np.linspace(0, 64, radius + k + 1).round().astype(int)
    blocks = [((1 << int(b - a)) - 1) << int(a) for a, b in pairwise(edges)]
    found = [_within(left, right, np.uint64(sum(chosen)), radius) for chosen in combinations(blocks, k)]
    pairs = np.unique(np.concatenate(found), axis=0)
    return pairs[:, 0], pairs[:, 1]


def _within(left: np.ndarray, right: np.ndarray, mask: np.uint64, radius: int) -> np.ndarray:
    """Pairs (n, 2) that agree under `mask` and differ in at most `radius` bits."""
    order = np.argsort(right & mask, kind="stable")
    keys = (right & mask)[order]
    first = np.searchsorted(keys, left & mask, side="left")
    last = np.searchsorted(keys, left & mask, side="right")
    counts = last - first
    pairs = []
    # In pieces of about four million candidates, so that a crowded block costs time and not memory.
    ends = np.searchsorted(np.cumsum(counts), np.arange(0, counts.sum(), 2**22), side="left")
    starts = np.unique(np.append(ends, len(left)))
    for start, stop in zip(np.append(0, starts), starts, strict=False):
        n = counts[start:stop]
        i = np.repeat(np.arange(start, stop), n)
        within_run = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        j = order[np.repeat(first[start:stop], n) + within_run]
        close = np.bitwise_count(left[i] ^ right[j]) <= radius
        pairs.append(np.stack([i[close], j[close]], axis=1))
    return np.concatenate(pairs) if pairs else np.empty((0, 2), np.int64)
