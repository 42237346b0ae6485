"""Pools the vectors of images to vectors of cases: volumes from slices, patients from pictures."""

from collections.abc import Callable

import numpy as np

Pool = Callable[[np.ndarray], np.ndarray]
POOLS: dict[str, Pool] = {
    "mean": lambda vectors: vectors.mean(axis=0),
    "max": lambda vectors: vectors.max(axis=0),
    "mean_max": lambda vectors: np.concatenate([vectors.mean(axis=0), vectors.max(axis=0)]),
    "middle": lambda vectors: vectors[len(vectors) // 2],
}
"""Each makes one vector (D or 2 D) of a case's vectors (n, D), n at least 1."""
POOL_HELP = (
    "pooling of a volume's slices: mean; max (which grows with their number), both side by side, or the middle one"
)


def case_features(features: np.ndarray, case_of_image: np.ndarray | None, pool: str = "mean") -> np.ndarray:
    """One vector for each case: (N_cases, D) float32 of the features (N_images, D) of its images.

    Args:
        features: (N_images, D).
        case_of_image: (N_images,) which case an image is of, each case some; None means one image each.
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
