"""Label-free measures of patch tokens for dense tasks, on fixed images during training.

In long runs patch tokens become similar to the class token and to one another, while the loss and the class tokens'
scores still improve (DINOv3, arXiv 2508.10104). Cosines are between tokens after the final norm.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_cosine(patches: Tensor) -> Tensor:
    """(B, N, D) patch tokens -> (B,), the mean cosine of two different patches of an image; 1 if all are equal."""
    unit = F.normalize(patches.double(), dim=-1)
    count = unit.shape[1]
    whole = unit.sum(dim=1).square().sum(dim=-1)  # over all pairs, including each patch with itself
    return (whole - unit.square().sum(dim=(1, 2))) / (count * (count - 1))


def class_cosine(class_tokens: Tensor, patches: Tensor) -> Tensor:
    """(B, D) class and (B, N, D) patch tokens -> (B,), their mean cosine in an image."""
    unit = F.normalize(patches.double(), dim=-1)
    return (unit @ F.normalize(class_tokens.double(), dim=-1)[..., None]).mean(dim=(1, 2))


def patch_rank(patches: Tensor) -> float:
    """Effective rank of patches (B, N, D) about their mean: exp of the entropy of the singular values' shares."""
    rows = patches.double().flatten(0, 1).cpu()
    values = torch.linalg.svdvals(rows - rows.mean(dim=0))
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def norm_ratio(patches: Tensor) -> float:
    """Largest over mean length of patches (B, N, D): far above 1 if a few have become artefacts (arXiv 2309.16588)."""
    lengths = patches.double().norm(dim=-1)
    return float(lengths.max() / lengths.mean())


def locality(patches: Tensor, grid: tuple[int, int]) -> float:
    """Mean cosine of neighbouring patches (B, N, D) minus that of any two patches of the image.

    It falls when similarity maps lose their localisation. `grid` is (rows, columns), at least one of them 2 or more.
    """
    maps = F.normalize(patches.double(), dim=-1).unflatten(1, grid)
    beside = [(maps[:, 1:] * maps[:, :-1]).sum(dim=-1), (maps[:, :, 1:] * maps[:, :, :-1]).sum(dim=-1)]
    return float(torch.cat([pairs.flatten() for pairs in beside]).mean() - patch_cosine(patches).mean())


def dense_signs(tokens: Tensor, first_patch: int, grid: tuple[int, int]) -> dict[str, float]:
    """All measures above for (B, 1 + R + N, D) normed tokens, by the names under which the watch logs them."""
    patches = tokens[:, first_patch:]
    return {
        "dense_patch_cosine": float(patch_cosine(patches).mean()),
        "dense_class_cosine": float(class_cosine(tokens[:, 0], patches).mean()),
        "dense_patch_rank": patch_rank(patches),
        "dense_norm_ratio": norm_ratio(patches),
        "dense_locality": locality(patches, grid),
    }


def dense_message(localities: list[float], dices: list[float]) -> str | None:
    """A warning if the dense values, measured since step 0, show that patch features get worse, else None.

    They get worse if the last two values are both below the best that training itself reached: `dense_locality` below
    half of it, `dense_dice` below nine tenths.
    """
    remedy = (
        "Dense tasks suffer even if the loss improves: stop, and continue with Gram anchoring (dino_gram.yaml or "
        "dino_v3_gram.yaml, gram.teacher an export from before)"
    )
    if fall := _lasting_fall(dices, 0.9):
        return f"the linear segmentation probe falls: its Dice was {fall[0]:.3f}, now it is {fall[1]:.3f}. {remedy}"
    if fall := _lasting_fall(localities, 0.5):
        return (
            f"patches lose their localisation: neighbours were {fall[0]:.3f} more alike than others, now "
            f"{fall[1]:.3f}. {remedy}"
        )
    return None


def _lasting_fall(values: list[float], share: float) -> tuple[float, float] | None:
    """The best and the last of `values` after a lasting fall; the first value is the run's start."""
    learned = values[1:]
    if len(learned) < 4 or max(learned[:-2]) <= 0 or max(learned[-2:]) > share * max(learned[:-2]):
        return None
    return max(learned[:-2]), learned[-1]
