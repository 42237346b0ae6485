"""The projection head of DINO and iBOT: tokens to unit vectors, and their scores against prototypes."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Prototypes(nn.Module):
    """K vectors that unit vectors are compared with.

    DINOv2's have separate parameters for direction and length: row k is `weight_g[k] * weight_v[k] / |weight_v[k]|`,
    and both tensors are trained. DINOv3's are plain rows of `weight`. The names are those of the checkpoints.
    `weight_g` (K, 1) starts at 1, `weight_v` or `weight` (K, D) like the weight of torch's Linear.
    """

    def __init__(self, count: int, width: int, weight_norm: bool = True) -> None:
        super().__init__()
        rows = nn.Parameter(torch.empty(count, width).uniform_(-(width**-0.5), width**-0.5))
        if weight_norm:
            self.weight_g = nn.Parameter(torch.ones(count, 1))
            self.weight_v = rows
        else:
            self.weight = rows

    @property
    def rows(self) -> Tensor:
        """(K, D), before they are scaled to `lengths`."""
        return self.weight_v if hasattr(self, "weight_v") else self.weight

    @property
    def lengths(self) -> Tensor | None:
        """(K, 1), the lengths of the prototypes; None if the rows keep their own."""
        return getattr(self, "weight_g", None)

    def forward(self, vectors: Tensor) -> Tensor:
        """(M, D) vectors to their scores (M, K)."""
        scores = F.linear(vectors, self.rows)
        if self.lengths is None:
            return scores
        length = torch.linalg.vector_norm(self.rows, dim=1)
        scale = (self.lengths[:, 0] / length).to(scores.dtype)
        # scaling scores rather than weights saves a copy of the weights, the largest tensor of the heads
        return scores * scale if torch.is_grad_enabled() else scores.mul_(scale)


class DINOHead(nn.Module):
    """MLP with GELU, then L2 normalisation; `last_layer` turns the unit vectors into scores.

    Args:
        in_features: width of the backbone.
        prototypes: their number K.
        hidden: width of the MLP's hidden layers.
        bottleneck: width D of the unit vectors and the prototypes.
        layers: linear layers of the MLP, at least 1; with 1, tokens go straight to the bottleneck.
        weight_norm: see `Prototypes`.
    """

    def __init__(
        self,
        in_features: int,
        prototypes: int,
        hidden: int = 2048,
        bottleneck: int = 256,
        layers: int = 3,
        weight_norm: bool = True,
    ) -> None:
        super().__init__()
        widths = [in_features, *[hidden] * (layers - 1), bottleneck]
        linears = [nn.Linear(a, b) for a, b in pairwise(widths)]
        for linear in linears:
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        between = [module for linear in linears[:-1] for module in (linear, nn.GELU())]
        self.mlp = nn.Sequential(*between, linears[-1]) if between else linears[-1]
        self.last_layer = Prototypes(prototypes, bottleneck, weight_norm)

    def forward(self, tokens: Tensor) -> Tensor:
        """(M, in_features) tokens to unit vectors (M, D). M may be 0.

        The caller applies `last_layer`, because the student's loss never needs all scores at once.
        """
        vectors = self.mlp(tokens)
        eps = 1e-6 if vectors.dtype == torch.float16 else 1e-12
        return F.normalize(vectors, dim=-1, eps=eps)
