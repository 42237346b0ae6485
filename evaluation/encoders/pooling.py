"""Pools feature vectors of images into vectors of cases: slices into volumes, images into patients."""

from collections.abc import Callable

import numpy as np

Pool = Callable[[np.ndarray], np.ndarray]
POOLS: dict[str, Pool] = {
    "mean": lambda vectors: vectors.mean(axis=0),
    "max": lambda vectors: vectors.max(axis=0),
    "mean_max": lambda vectors: np.concatenate([vectors.mean(axis=0), vectors.max(axis=0)]),
    "middle": lambda vectors: vectors[len(vectors) // 2],
}
"""Each function turns the vectors of a case (n, D), n >= 1, into one vector (D or 2 D)."""
EACH_SLICE = "slices"
"""Instead of a pool: each slice is a case."""
POOL_HELP = (
    "pooling of a volume's slices: mean, max (which grows with their number), both side by side, or the middle slice"
)


def case_features(features: np.ndarray, case_of_image: np.ndarray | None, pool: str = "mean") -> np.ndarray:
    """One vector per case, (N_cases, D) float32, from the features of its images.

    Args:
        features: (N_images, D) features.
        case_of_image: (N_images,) index of each image's case; every case has an image. None means one image per case.
        pool: one of `POOLS`.
    """
    if case_of_image is None:
        return features
    if pool == "mean":
        counts = np.bincount(case_of_image).astype(np.float32)
        sums = np.zeros((len(counts), features.shape[1]), np.float32)
        np.add.at(sums, case_of_image, features)
        return sums / counts[:, None]
    rows = [features[case_of_image == case] for case in range(int(case_of_image.max()) + 1)]
    return np.stack([POOLS[pool](vectors) for vectors in rows]).astype(np.float32)
