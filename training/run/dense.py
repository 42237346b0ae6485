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


def dense_warnings(localities: list[float], dices: list[float]) -> dict[str, str]:
    """Warnings by the measure that shows that patch features get worse; none if they do not.

    They get worse if the last two of at least four values are both below the best before: `dense_locality` below half
    of it, `dense_dice` below nine tenths.

    Args:
        localities: `dense_locality`, oldest first: of the weights that a run continues from on; of fresh weights only
            those after the warm-up, since what a random network shows is nothing to keep.
        dices: `dense_dice`, likewise.
    """
    remedy = (
        "Dense tasks suffer even if the loss improves: stop, and continue with Gram anchoring (dino_gram.yaml or "
        "dino_v3_gram.yaml, gram.teacher an export from before), or a higher gram.weight if the run is anchored"
    )
    warnings = {}
    if fall := _lasting_fall(dices, 0.9):
        warnings["dense_dice"] = (
            f"the linear segmentation probe falls: its Dice was {fall[0]:.3f}, now it is {fall[1]:.3f}. {remedy}"
        )
    if fall := _lasting_fall(localities, 0.5):
        warnings["dense_locality"] = (
            f"patches lose their localisation: neighbours were {fall[0]:.3f} more alike than others, now "
            f"{fall[1]:.3f}. {remedy}"
        )
    return warnings


def _lasting_fall(values: list[float], share: float) -> tuple[float, float] | None:
    """The best and the last of `values` after a lasting fall."""
    if len(values) < 4 or max(values[:-2]) <= 0 or max(values[-2:]) > share * max(values[:-2]):
        return None
    return max(values[:-2]), values[-1]
