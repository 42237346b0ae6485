"""Measures of patch tokens: the spatial frequencies that a layer keeps, and how much its tokens differ."""

import numpy as np

LOG_EPSILON = 1e-6


def relative_log_amplitude(grids: np.ndarray) -> np.ndarray:
    """Log amplitude of token grids' Fourier transform along the diagonal, minus that of frequency 0 (Park 2022).

    Args:
        grids: (B, h, w, D) tokens; the shorter side is used for both.

    Returns:
        (F,) natural logarithms from frequency 0 to the highest, averaged over channels and images; the first is 0. A
        low last value means that the layer smooths.
    """
    side = min(grids.shape[1:3])
    spectrum = np.fft.fft2(grids[:, :side, :side].astype(np.float64), axes=(1, 2))
    logs = np.fft.fftshift(np.log(np.abs(spectrum) + LOG_EPSILON).mean(axis=(0, 3)))
    half = np.diagonal(logs)[side // 2 :]
    return half - half[0]


def token_cosine(tokens: np.ndarray) -> np.ndarray:
    """Mean cosine similarity (B,) between the patch tokens (B, P, D) of each image; 1 if all are alike."""
    wide = tokens.astype(np.float64)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12)
    count = tokens.shape[1]
    total = (unit.sum(axis=1) ** 2).sum(axis=-1) - (unit**2).sum(axis=(1, 2))
    return total / max(count * (count - 1), 1)
