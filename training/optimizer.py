"""AdamW over named parameter groups, with scheduled rates and gradient clipping."""

from collections.abc import Iterable

import torch
from torch import nn

from .schedule import StepValues


def parameter_groups(model: nn.Module) -> list[dict]:
    """AdamW groups as in MAE: 1-D tensors and biases do not decay, everything else does (tokens too)."""
    rules = []
    for name, parameter in trainable(model):
        decay = 0.0 if parameter.ndim <= 1 or name.endswith(".bias") else 1.0
        rules.append((name, parameter, (1.0, decay, False)))
    return grouped(rules)


def trainable(module: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    """The named parameters of `module` that need a gradient."""
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def grouped(rules: Iterable[tuple[str, nn.Parameter, tuple[float, float, bool]]]) -> list[dict]:
    """AdamW groups, one per set of equal rules.

    Args:
        rules: (name, parameter, (lr multiplier, weight-decay multiplier, whether it is the last layer of a head)).

    Returns:
        Groups with `lr_multiplier`, `wd_multiplier`, `is_last_layer` and `names`; `apply_schedule` reads the first
        three, checkpoints the last.
    """
    groups: dict[tuple[float, float, bool], dict] = {}
    for name, parameter, key in rules:
        fresh = {"params": [], "names": [], "lr_multiplier": key[0], "wd_multiplier": key[1], "is_last_layer": key[2]}
        group = groups.setdefault(key, fresh)
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def adamw(groups: list[dict], betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.AdamW:
    """AdamW (eps 1e-8) over parameter groups, in its fused form. Rates come from `apply_schedule` before each step."""
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, weight_decay=0.0, fused=True)


def apply_schedule(optimizer: torch.optim.Optimizer, values: StepValues) -> None:
    """Set every group's learning rate and weight decay to those of one step."""
    for group in optimizer.param_groups:
        lr = values.lr
        if group["is_last_layer"] and values.last_layer_lr is not None:
            lr = values.last_layer_lr
        group["lr"] = lr * group["lr_multiplier"]
        group["weight_decay"] = values.weight_decay * group["wd_multiplier"]


@torch.no_grad()
def clip_per_submodule(module: nn.Module, max_norm: float | None) -> dict[str, torch.Tensor]:
    """Clip the gradients of each child of `module` separately to `max_norm`, as DINOv2 does per backbone and head.

    Returns the norms before clipping, by child name (0-d tensors, no device synchronisation). `max_norm` None only
    measures. Sharded (DTensor) gradients give the norm over all shards.
    """
    norms = {}
    for name, child in module.named_children():
        parameters = [parameter for parameter in child.parameters() if parameter.grad is not None]
        if not parameters:
            continue
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if max_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        norms[name] = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return norms


@torch.no_grad()
def update_average(averages: list[torch.Tensor], values: list[torch.Tensor], momentum: float) -> None:
    """Exponential moving average in place: average <- momentum * average + (1 - momentum) * value."""
    torch._foreach_lerp_(averages, values, 1.0 - momentum)
