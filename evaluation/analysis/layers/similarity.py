"""Centred kernel alignment (CKA): similarity of two layers on the same images, up to rotation and scale."""

from collections.abc import Iterable

import numpy as np

from biovfm_hf.errors import UserError

LEAST_IMAGES = 4  # the unbiased estimate needs four


def hsic(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased estimate of HSIC with linear kernels (Song et al. 2012) for features (n, D1) and (n, D2).

    Raises:
        UserError: there are fewer than `LEAST_IMAGES` rows, or the two have different numbers of rows.
    """
    return _hsic(_gram(a), _gram(b))


def _gram(features: np.ndarray) -> np.ndarray:
    """Inner products (n, n) of the features, with a zero diagonal; centring only improves their precision."""
    if len(features) < LEAST_IMAGES:
        raise UserError(f"{len(features)} images; similarity of layers needs {LEAST_IMAGES} or more")
    wide = features.astype(np.float64)
    wide -= wide.mean(axis=0)
    gram = wide @ wide.T
    np.fill_diagonal(gram, 0.0)
    return gram


def _hsic(k: np.ndarray, m: np.ndarray) -> float:
    n = len(k)
    if len(m) != n:
        raise UserError(f"layers of {n} and {len(m)} images; compare them on the same images in the same order")
    sums_k, sums_m = k.sum(axis=0), m.sum(axis=0)
    total = np.sum(k * m) + sums_k.sum() * sums_m.sum() / ((n - 1) * (n - 2)) - 2 * sums_k @ sums_m / (n - 2)
    return float(total / (n * (n - 3)))


def cka_map(layers: list[np.ndarray], others: list[np.ndarray] | None = None, batch: int | None = None) -> np.ndarray:
    """Debiased linear CKA between layers: (L1, L2), NaN if a layer hardly varies; small values may be negative.

    With a `batch`, HSIC is summed over batches of that many images before dividing, so that memory does not grow with
    the number of images (Nguyen et al. 2021). This is not the average of the batches' CKA.

    Args:
        layers: L1 arrays of features (n, D) of the same images.
        others: L2 such arrays; None compares `layers` with themselves.
        batch: images per batch; None takes all at once.

    Raises:
        UserError: as `hsic`.
    """
    right = layers if others is None else others
    n = len(layers[0])
    cross, left_self, right_self = np.zeros((len(layers), len(right))), np.zeros(len(layers)), np.zeros(len(right))
    for rows in _batches(n, batch or n):
        left = [_gram(layer[rows]) for layer in layers]
        own = left if others is None else [_gram(layer[rows]) for layer in right]
        cross += [[_hsic(k, m) for m in own] for k in left]
        left_self += [_hsic(k, k) for k in left]
        right_self += [_hsic(m, m) for m in own]
    scale = np.maximum(left_self, 0)[:, None] * np.maximum(right_self, 0)[None]
    return np.divide(cross, np.sqrt(scale), out=np.full(cross.shape, np.nan), where=scale > 0)


def _batches(n: int, size: int) -> Iterable[slice]:
    """Slices of whole batches; a last batch of fewer than `LEAST_IMAGES` is dropped as too small to compare."""
    for start in range(0, n, size):
        if start == 0 or n - start >= LEAST_IMAGES:
            yield slice(start, start + size)


def cka_interval(a: np.ndarray, b: np.ndarray, resamples: int, seed: int = 0) -> tuple[float, float]:
    """A 95 % interval of the debiased CKA: percentiles over halves of the images drawn without replacement.

    A bootstrap would draw images twice, and their products with themselves would not be left out. Halves of n images
    drawn without replacement scatter around the value of the whole as estimates from n images scatter around the true
    value (Politis & Romano 1994), so their deviations are used unscaled.
    """
    whole = float(cka_map([a], [b])[0, 0])
    rng, half = np.random.default_rng(seed), max(len(a) // 2, LEAST_IMAGES)
    drawn = []
    for _ in range(resamples):
        rows = rng.permutation(len(a))[:half]
        drawn.append(float(cka_map([a[rows]], [b[rows]])[0, 0]) - whole)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return whole + float(low), whole + float(high)
