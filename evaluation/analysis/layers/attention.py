"""Measures of attention matrices: distance, entropy, and mutual information with the query's place.

All take attention whose rows sum to 1: (..., N, N) over all tokens, of which the last h * w are the patches, or
(..., P, P) among these. They return one value for each of the leading axes (images, heads).
"""

import numpy as np

NMI_EPSILON = 1e-8


def patch_attention(attention: np.ndarray, prefix: int) -> np.ndarray:
    """Attention (..., P, P) among patches: without class token and registers, rows rescaled to sum to 1."""
    among = attention[..., prefix:, prefix:].astype(np.float64)
    return among / np.maximum(among.sum(axis=-1, keepdims=True), 1e-12)


def patch_distances(grid: tuple[int, int], patch: int) -> np.ndarray:
    """Distances (P, P) between the centres of patches, in pixels."""
    places = np.stack(np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij"), -1).reshape(-1, 2) * patch
    return np.linalg.norm(places[:, None] - places[None], axis=-1)


def attention_distance(among: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Mean distance (...) in pixels between a patch and those it attends to (Raghu et al. 2021; Park et al. 2023).

    Args:
        among: (..., P, P) attention from `patch_attention`.
        distances: (P, P) pixels, from `patch_distances`.
    """
    return (among * distances).sum(axis=-1).mean(axis=-1)


def attention_entropy(attention: np.ndarray) -> np.ndarray:
    """Mean entropy (...) of the rows in nats: 0 if each looks at one token, ln N if it looks at all tokens equally.

    Registers that take much of the attention lower it.

    Args:
        attention: (..., N, N) over all tokens, class token and registers too.
    """
    wide = attention.astype(np.float64)
    return -(wide * np.log(np.where(wide > 0, wide, 1.0))).sum(axis=-1).mean(axis=-1)


def attention_nmi(among: np.ndarray) -> np.ndarray:
    """Normalised mutual information (...) between a patch and the patches it attends to (Park et al. 2023), 0 to 1.

    Near 0, every patch looks at the same place (collapse). Queries are taken to be equally likely.

    Args:
        among: (..., P, P) attention from `patch_attention`.
    """
    rows = among + NMI_EPSILON
    rows = rows / rows.sum(axis=-1, keepdims=True)
    joint = rows / rows.shape[-2]
    keys = joint.sum(axis=-2)
    information = (joint * np.log(joint / (keys[..., None, :] / rows.shape[-2]))).sum(axis=(-2, -1))
    entropy = -(keys * np.log(keys)).sum(axis=-1)
    return information / np.sqrt(np.log(rows.shape[-2]) * entropy)
