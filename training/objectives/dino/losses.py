"""Losses and targets of DINO and iBOT: Sinkhorn-Knopp and centring, cross-entropy, KoLeo.

Batch statistics (Sinkhorn-Knopp, centres) are over all processes when torch.distributed runs, else over this process's
batch. Everything is computed in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from .heads import Prototypes

_CHUNK = 1 << 24  # scores in memory at once while the cross-entropy is computed
_BLOCK = 1 << 22  # numbers per piece of element-wise work, so that a piece fits in a cache


def all_reduce(tensor: Tensor, operation: Any = dist.ReduceOp.SUM) -> Tensor:
    """`tensor`, reduced in place over all processes if there are several."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(tensor, operation)
    return tensor


class _GatheredRows(torch.autograd.Function):
    """Rows of all processes, in their order; a row's gradient is the sum of all processes'."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce(gradient.contiguous()).chunk(dist.get_world_size())[dist.get_rank()]


def gather_rows(rows: Tensor) -> Tensor:
    """(B, D) of each of P processes, with equal B, to (P * B, D); gradients flow back."""
    return _GatheredRows.apply(rows)


@torch.no_grad()
def sinkhorn_knopp(scores: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Teacher scores (M, K) to assignments (M, K) that use all prototypes equally; each row sums to 1.

    Sinkhorn-Knopp as in SwAV and DINOv2: exp(scores / temperature), then alternately equal prototype sums and equal
    sample sums over the joint batch. M may differ between processes and be 0.

    The result equals DINOv2's. The two normalisations are kept as one factor per prototype and one per sample, so a
    pass reads the matrix and never rewrites it. Constant factors (DINOv2's K, B and total) cancel
    in the last normalisation and are left out. Each sample's largest score is subtracted before the exponential and
    returns as that sample's first factor: DINOv2 overflows at |score| > 88.7 * temperature; this function does not.
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
            # a prototype far from all samples gets no mass, where 0 / 0 would be NaN
            per_prototype = (1.0 / count) / used.clamp_min(torch.finfo(torch.float32).tiny)
            if iteration < iterations - 1:
                per_sample = 1.0 / (weights @ per_prototype)
        weights.mul_(per_prototype)
        return weights.div_(weights.sum(dim=1, keepdim=True))


@torch.no_grad()
def centred_softmax(scores: Tensor, center: Tensor, temperature: float) -> Tensor:
    """Teacher scores (M, K) to softmax((scores - center) / temperature), DINO's targets. `center` is (1, K)."""
    targets = torch.empty_like(scores, dtype=torch.float32)
    step = max(1, _BLOCK // scores.shape[1])
    for block, out in zip(scores.split(step), targets.split(step), strict=True):
        torch.sub(block, center, out=out).div_(temperature)
        out.sub_(out.amax(dim=-1, keepdim=True)).exp_()
        out.div_(out.sum(dim=-1, keepdim=True))
    return targets


@torch.no_grad()
def update_center(center: Tensor, scores: Tensor, momentum: float = 0.9) -> None:
    """Move `center` (1, K) in place towards the mean of the joint batch's teacher scores (M, K).

    It is called after the centre was used, so a batch is centred by the batches before it. DINOv2 averages iBOT's
    per-process means; here every masked token has the same weight, as in one process with the joint batch. A joint
    batch without rows does not change the centre.
    """
    total = scores.float().sum(dim=0, keepdim=True)
    packed = all_reduce(torch.cat([total, total.new_full((1, 1), len(scores))], dim=1))
    total, rows = packed[:, :-1], packed[:, -1:]
    center.lerp_(total / rows.clamp_min(1.0), (1.0 - momentum) * (rows > 0))


@dataclass(frozen=True)
class Part:
    """Student rows that share a set of targets: row i of the part is compared with target i % T.

    Attributes:
        rows: number of student rows, a multiple of T.
        targets: (T, K) float32, without gradient.
        weights: of each target's rows, (T,) float32, or one number for all.
        factor: weight of the part in the total.
    """

    rows: int
    targets: Tensor
    weights: Tensor | float
    factor: float = 1.0


def prototype_cross_entropy(
    vectors: Tensor, prototypes: Prototypes, parts: Sequence[Part], temperature: float
) -> tuple[Tensor, list[Tensor]]:
    """Cross-entropy between targets and softmax(prototypes(vectors) / temperature), for several sets of targets.

    The student's scores are the largest tensor of a DINO step. They are computed some rows at a time. A row's
    gradient (softmax minus target) is known as soon as its scores are, so the scores are freed at once. What is kept
    for the backward pass is as small as `vectors` and the prototypes, and the normalised prototypes are never copied.

    Args:
        vectors: (M, D), the rows of the parts one after the other.
        prototypes: the K prototypes.
        parts: see `Part`.
        temperature: the student's.

    Returns:
        The total, which is the sum over parts of factor * value and allows one call of `backward`; and each part's
        value, the weighted sum of its rows' cross-entropies, without gradient. All are float32 scalars.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        values = [torch.zeros((), device=vectors.device) for _ in parts]
        total = _PrototypeCrossEntropy.apply(
            vectors, prototypes.rows, prototypes.lengths, parts, values, temperature, _dtype(vectors)
        )
    return total, values


def _dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of matrix products here: autocast's, or the tensor's."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


class _PrototypeCrossEntropy(torch.autograd.Function):
    """Computes its gradients in the forward pass; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        vectors: Tensor,
        weights: Tensor,
        lengths: Tensor | None,
        parts: Sequence[Part],
        values: list[Tensor],
        temperature: float,
        dtype: torch.dtype,
    ) -> Tensor:
        # (K, 1), of scores before normalisation and temperature
        if lengths is None:
            norms, scale = None, weights.new_full((len(weights), 1), 1 / temperature, dtype=torch.float32)
        else:
            norms = torch.linalg.vector_norm(weights, dim=1, keepdim=True, dtype=torch.float32)
            scale = (lengths / norms / temperature).float()
        features, directions = vectors.to(dtype), weights.to(dtype)
        vectors_grad = torch.zeros_like(features)
        products = torch.zeros_like(weights, dtype=torch.float32)  # (K, D), score gradients.T @ vectors
        start = 0
        for part, value in zip(parts, values, strict=True):
            rows = slice(start, start + part.rows)
            value += _accumulate(part, features[rows], directions, scale.T, vectors_grad[rows], products)
            start += part.rows
        total = sum(
            (part.factor * value for part, value in zip(parts, values, strict=True)), start=scale.new_zeros(())
        )
        if norms is None or lengths is None:
            lengths_grad = None
            products.mul_(scale)
        else:
            lengths_grad = _prototype_gradients_(products, weights, norms, scale).div_(temperature).to(lengths.dtype)
        ctx.gradients = (vectors_grad.to(vectors.dtype), products.to(weights.dtype), lengths_grad)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("prototype_cross_entropy keeps its gradients for one backward pass")
        gradients, ctx.gradients = ctx.gradients, None
        scaled = [None if each is None else each.mul_(gradient) for each in gradients]
        return *scaled, None, None, None, None


def _accumulate(
    part: Part, features: Tensor, directions: Tensor, scale: Tensor, features_grad: Tensor, products: Tensor
) -> Tensor:
    """Value of one part; writes its rows of `features_grad` (rows, D) and adds to `products` (K, D)."""
    targets, weights = part.targets, part.weights
    shape = (part.rows // max(len(targets), 1), len(targets), features.shape[1])  # repeats of the targets' rows
    features, features_grad = features.view(shape), features_grad.view(shape)
    value = torch.zeros((), device=targets.device)
    step = max(1, _CHUNK // (max(shape[0], 1) * targets.shape[1]))
    for start in range(0, len(targets), step):
        rows = slice(start, start + step)
        weight = weights[rows, None] if isinstance(weights, Tensor) else weights
        some = features[:, rows].reshape(-1, shape[2])
        scores = (some @ directions.T).float().mul_(scale)
        together = scores.view(shape[0], -1, scores.shape[1])
        value += _cross_entropy_(together, targets[rows], weight, part.factor)
        if scores.dtype == some.dtype:
            products.addmm_(scores.T, some)
        else:
            products += scores.to(some.dtype).T @ some
        features_grad[:, rows] = (scores.mul_(scale).to(some.dtype) @ directions).view(shape[0], -1, shape[2])
    return value


def _cross_entropy_(scores: Tensor, targets: Tensor, weights: Tensor | float, factor: float) -> Tensor:
    """Weighted sum of the cross-entropies of (repeats, M, K) scores with (M, K) targets.

    Leaves the gradient, factor * weight * (mass * softmax(scores) - target), in `scores`.
    """
    value = torch.zeros((), device=scores.device)
    if not isinstance(weights, Tensor):
        weights = targets.new_full((1, 1), weights)  # filled on the device: a copy would wait for the GPU
    weights = weights.expand(len(targets), 1)
    step = max(1, _BLOCK // (len(scores) * scores.shape[2]))
    for block, target, weight in zip(scores.split(step, dim=1), targets.split(step), weights.split(step), strict=True):
        mass = target.sum(dim=-1, keepdim=True)
        agreement = torch.linalg.vecdot(block, target)[..., None]
        largest = block.amax(dim=-1, keepdim=True)
        total = block.sub_(largest).exp_().sum(dim=-1, keepdim=True)
        value += (weight * (mass * (largest + total.log()) - agreement)).sum()
        block.mul_(factor * weight * mass / total).addcmul_(target, weight, value=-factor)
    return value


def _prototype_gradients_(products: Tensor, weight_v: Tensor, length: Tensor, scale: Tensor) -> Tensor:
    """Turn `products` (K, D) into the gradient of `weight_v`, in place.

    Returns the gradient of `weight_g` (K, 1) times the temperature.
    """
    length_grad = torch.empty_like(length)
    step = max(1, _BLOCK // weight_v.shape[1])
    for products_, weight, length_, scale_, out in zip(
        *(tensor.split(step) for tensor in (products, weight_v, length, scale, length_grad)), strict=True
    ):
        along = (products_ * weight).sum(dim=1, keepdim=True)
        torch.div(along, length_, out=out)
        products_.addcmul_(weight, along / length_.square(), value=-1.0).mul_(scale_)
    return length_grad


def koleo_loss(features: Tensor, neighbours: int = 1, group: int = 0, eps: float = 1e-8) -> Tensor:
    """KoLeo (Sablayrolles et al. 2019): -mean log distance of each unit-length feature to its nearest other ones.

    It is computed in float32 even under autocast, because in float16 two equal images make it infinite.

    Args:
        features: (B, D) of this process, B >= 2.
        neighbours: number of nearest features from which each one is pushed away, fewer than the group has.
        group: number of features, over consecutive processes and a multiple of B, that are searched, as in DINOv3; 0
            searches only this process's, as in DINOv2.
        eps: added to lengths and distances.
    """
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.float(), dim=-1, eps=eps)
        if not group or group == len(unit):
            return _koleo(unit, unit, 0, neighbours, eps)
        everywhere = gather_rows(unit)
        place = dist.get_rank() * len(unit)
        first = place // group * group
        return _koleo(unit, everywhere[first : first + group], place - first, neighbours, eps)


def _koleo(unit: Tensor, others: Tensor, place: int, neighbours: int, eps: float) -> Tensor:
    """KoLeo of (B, D) unit vectors among `others` (G, D), whose rows from `place` on are these vectors."""
    with torch.no_grad():
        similarity = unit @ others.T
        similarity.diagonal(place).fill_(-1.0)
        nearest = similarity.topk(neighbours, dim=1).indices.flatten()
    distance = F.pairwise_distance(unit.repeat_interleave(neighbours, 0), others[nearest], p=2, eps=eps)
    return -torch.log(distance + eps).mean()
