"""Shared parts of encoder training: parameter groups, a schedule, and copies of the best weights."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

HEAD_RATE = 1e-3  # least value of the head's highest learning rate
WEIGHT_DECAY = 0.05


def make_optimizer(encoder: nn.Module, head: nn.Module, rate: float) -> AdamW:
    """AdamW on an encoder's weights that have gradients, with decay on matrices only, and on the weights of a head."""
    weights = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": list(head.parameters()), "lr": max(rate, HEAD_RATE), "weight_decay": 0.0},
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=rate)


def optimised(optimizer: Optimizer) -> list[nn.Parameter]:
    """All weights that an optimizer trains."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def warmup_cosine(total: int) -> Callable[[int], float]:
    """The share of the highest rate at each of `total` steps: linear warm-up over a tenth, then cosine to 0."""
    warm = max(1, total // 10)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(total - warm, 1))))

    return factor


def shuffled(count: int, batch: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """Batches of indices below `count` from successive shuffled orders; a batch may span the end of an order."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.permutation(count) for _ in range(-(-steps * batch // count))])
    yield from rows[: steps * batch].reshape(steps, batch)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of everything that training changes: trained weights and buffers."""
    weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    return weights | {name: buffer.clone() for name, buffer in model.named_buffers()}


def count_weights(module: nn.Module, trained: bool = False) -> int:
    """Number of weights of a module, or of its trained weights."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)
