"""What the student is trained towards, and how far from it it is: targets, cross-entropy, KoLeo.

Statistics over the batch (Sinkhorn-Knopp, centres) are those of the joint batch of all processes when
torch.distributed runs, and of this process's batch when it does not. Everything here computes in float32.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 1 << 24  # scores held at once while the cross-entropy is computed


def all_reduce(tensor: Tensor, operation: Any = dist.ReduceOp.SUM) -> Tensor:
    """`tensor`, reduced in place over all processes if there are several."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(tensor, operation)
    return tensor


@torch.no_grad()
def sinkhorn_knopp(scores: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Teacher scores (M, K) to assignments (M, K) that use all prototypes alike; each row sums to 1.

    Sinkhorn-Knopp as in SwAV and DINOv2: exp(scores / temperature), then alternately equal prototype sums and equal
    sample sums over the joint batch. M may differ between processes and be 0.

    The same numbers as DINOv2's, computed otherwise. The two normalisations are kept as one factor per prototype and
    one per sample, so a pass reads the matrix and never rewrites it. Constant factors (DINOv2's K, B and total) cancel
    in the last normalisation and are left out. Each sample's largest score is subtracted before the exponential and
    returns as that sample's first factor: DINOv2 overflows at |score| > 88.7 * temperature, this does not.
    """
    with torch.autocast(scores.device.type, enabled=False):
        weights = torch.div(scores, temperature).float()
        if scores.shape[0]:
            largest = weights.amax(dim=1)
            top = largest.max()
        else:
            largest, top = weights.new_empty(0), weights.new_full((), -torch.inf)
        weights.sub_(largest[:, None]).exp_()
        per_sample = torch.exp(largest - all_reduce(top, dist.ReduceOp.MAX))
        count = scores.shape[1]
        for iteration in range(iterations):
            used = all_reduce(per_sample @ weights)  # (K,)
            # a prototype that no sample comes near gives no mass instead of 0 / 0
            per_prototype = (1.0 / count) / used.clamp_min(torch.finfo(torch.float32).tiny)
            if iteration < iterations - 1:
                per_sample = 1.0 / (weights @ per_prototype)
        weights.mul_(per_prototype)
        return weights.div_(weights.sum(dim=1, keepdim=True))


@torch.no_grad()
def centred_softmax(scores: Tensor, center: Tensor, temperature: float) -> Tensor:
    """Teacher scores (M, K) to softmax((scores - center) / temperature), DINO's targets. `center` is (1, K)."""
    return torch.softmax((scores.float() - center) / temperature, dim=-1)


@torch.no_grad()
def update_center(center: Tensor, scores: Tensor, momentum: float = 0.9) -> None:
    """Move `center` (1, K) in place towards the mean of the joint batch's teacher scores (M, K).

    Called after the centre was used, so a batch is centred by those before it. DINOv2 averages iBOT's per-process
    means; here every masked token weighs the same, which is what one process with the joint batch computes. A joint
    batch without any row leaves the centre as it is.
    """
    total = scores.float().sum(dim=0, keepdim=True)
    packed = all_reduce(torch.cat([total, total.new_full((1, 1), len(scores))], dim=1))
    total, rows = packed[:, :-1], packed[:, -1:]
    center.lerp_(total / rows.clamp_min(1.0), (1.0 - momentum) * (rows > 0))


def prototype_cross_entropy(
    vectors: Tensor, prototypes: Tensor, targets: Tensor, weights: Tensor | float, temperature: float
) -> Tensor:
    """Sum over rows of weight * cross-entropy between targets and softmax(vectors @ prototypes.T / temperature).

    The (rows, K) scores of the student are the largest tensor of a DINO step. They are computed some rows at a time
    and, since a row's gradient is known as soon as its scores are (softmax minus target), forgotten at once: what is
    kept for the backward pass is as small as `vectors` and `prototypes`.

    Args:
        vectors: (M, D), rows in whole repeats of the targets' rows: row i is compared with target i % T.
        prototypes: (K, D).
        targets: (T, K) float32, no gradient; T divides M.
        weights: (T,) float32 or one number.
        temperature: the student's.

    Returns:
        Scalar float32.
    """
    device = vectors.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        vectors, prototypes = vectors.to(dtype), prototypes.to(dtype)
    with torch.autocast(device, enabled=False):
        return _PrototypeCrossEntropy.apply(vectors, prototypes, targets, weights, temperature)


class _PrototypeCrossEntropy(torch.autograd.Function):
    """Computes its gradients in the forward pass; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any, vectors: Tensor, prototypes: Tensor, targets: Tensor, weights: Tensor | float, temperature: float
    ) -> Tensor:
        rows, count = targets.shape
        repeats = vectors.detach().view(len(vectors) // max(rows, 1), rows, vectors.shape[1])
        loss = torch.zeros((), device=vectors.device)
        vectors_grad = torch.zeros_like(repeats)
        prototypes_grad = torch.zeros_like(prototypes, dtype=torch.float32)
        step = max(1, _CHUNK // (max(len(repeats), 1) * count))
        for start in range(0, rows, step):
            part = repeats[:, start : start + step]  # (repeats, rows of this part, D)
            weight = weights[start : start + step, None] if isinstance(weights, Tensor) else weights
            scores = (part @ prototypes.T).float().div_(temperature)
            loss += _cross_entropy_(scores, targets[start : start + step], weight)
            gradient = scores.div_(temperature).to(vectors.dtype)
            vectors_grad[:, start : start + step] = gradient @ prototypes
            gradient, part = gradient.flatten(0, 1), part.flatten(0, 1)
            if gradient.dtype == torch.float32:
                prototypes_grad.addmm_(gradient.T, part)
            else:
                prototypes_grad += gradient.T @ part
        ctx.save_for_backward(vectors_grad.view_as(vectors), prototypes_grad.to(prototypes.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        vectors_grad, prototypes_grad = ctx.saved_tensors
        return vectors_grad * gradient, prototypes_grad * gradient, None, None, None


def _cross_entropy_(scores: Tensor, target: Tensor, weight: Tensor | float) -> Tensor:
    """Weighted sum of the cross-entropies of (..., M, K) scores with (M, K) targets.

    Leaves the gradient, weight * (mass * softmax(scores) - target), in `scores`.
    """
    mass = target.sum(dim=-1, keepdim=True)
    agreement = (scores * target).sum(dim=-1, keepdim=True)
    largest = scores.amax(dim=-1, keepdim=True)
    total = scores.sub_(largest).exp_().sum(dim=-1, keepdim=True)
    loss = (weight * (mass * (largest + total.log()) - agreement)).sum()
    scores.mul_(mass / total).sub_(target).mul_(weight)
    return loss


def koleo_loss(features: Tensor, eps: float = 1e-8) -> Tensor:
    """KoLeo (Sablayrolles et al. 2019): -mean log distance of each unit-length feature to its nearest other one.

    (B, D) with B >= 2, from this process alone, as in DINOv2. In float32 also under autocast: in float16 two equal
    images make it infinite.
    """
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.float(), dim=-1, eps=eps)
        with torch.no_grad():
            nearest = (unit @ unit.T).fill_diagonal_(-1.0).argmax(dim=1)
        distance = F.pairwise_distance(unit, unit[nearest], p=2, eps=eps)
        return -torch.log(distance + eps).mean()
