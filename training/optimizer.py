"""AdamW over named parameter groups: which tensor learns how fast, which one decays, how gradients are clipped."""

import re
from collections.abc import Iterable

import torch
from torch import nn

from .schedule import StepValues

# Tensors of the backbone before the first block; they learn as layer 0 under layer-wise decay.
_EMBEDDING = re.compile(
    r"backbone\.embeddings\.(cls_token|mask_token|register_tokens|position_embeddings|patch_embeddings\.projection\..+)"
)
_BLOCK = re.compile(
    r"backbone\.layers\.(\d+)\.(norm[12]|attention\.(qkv|proj)|layer_scale[12]|mlp\.(fc1|fc2|w12|w3))\.(weight|bias|gamma)"
)
_FINAL = re.compile(
    r"backbone\.norm\.(weight|bias)"
    r"|(dino|ibot)_head\.(mlp\.(\d+\.)?(weight|bias)|last_layer\.(weight_g|weight_v))"
)


def dino_multipliers(
    name: str, layers: int, layerwise_decay: float, patch_embed_lr_mult: float
) -> tuple[float, float]:
    """(lr multiplier, weight-decay multiplier) of one student tensor, as DINOv2 trains it.

    `name` counts from the student: `backbone.layers.0.norm1.weight`, `dino_head.last_layer.weight_v`. Block i of
    `layers` learns at decay^(layers - i), the embeddings at decay^(layers + 1), the patch projection at
    `patch_embed_lr_mult` times that, the final norm and the heads at 1. Biases, norms and layer-scale do not decay;
    tokens, position embeddings and the last layer's direction and length do.

    Raises:
        ValueError: a name that no rule covers. DINOv2 matches substrings, which a renamed tensor escapes silently.
    """
    block = _BLOCK.fullmatch(name)
    if block:
        lr = layerwise_decay ** (layers - int(block[1]))
    elif _EMBEDDING.fullmatch(name):
        lr = layerwise_decay ** (layers + 1) * (patch_embed_lr_mult if "patch_embeddings" in name else 1.0)
    elif _FINAL.fullmatch(name):
        lr = 1.0
    else:
        raise ValueError(f"no learning-rate rule for the tensor {name!r}; add one to training/optimizer.py")
    undecayed = name.endswith((".bias", ".gamma")) or re.search(r"\.norm[12]?\.", name)
    return lr, 0.0 if undecayed else 1.0


def dino_parameter_groups(student: nn.Module, layerwise_decay: float, patch_embed_lr_mult: float) -> list[dict]:
    """AdamW groups for a DINO student (`backbone`, `dino_head`, maybe `ibot_head`), one per set of equal multipliers.

    Each group carries `lr_multiplier`, `wd_multiplier`, `is_last_layer` and `names`; `apply_schedule` reads the first
    three. Tensors that need no gradient are left out.
    """
    layers = len(student.get_submodule("backbone.layers"))  # type: ignore[arg-type]
    rules = []
    for name, parameter in _trainable(student):
        lr, decay = dino_multipliers(name, layers, layerwise_decay, patch_embed_lr_mult)
        rules.append((name, parameter, (lr, decay, "last_layer" in name)))
    return _grouped(rules)


def mae_parameter_groups(model: nn.Module) -> list[dict]:
    """AdamW groups for an MAE: 1-D tensors and biases do not decay, everything else does (tokens too)."""
    rules = []
    for name, parameter in _trainable(model):
        decay = 0.0 if parameter.ndim <= 1 or name.endswith(".bias") else 1.0
        rules.append((name, parameter, (1.0, decay, False)))
    return _grouped(rules)


def _trainable(module: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def _grouped(rules: Iterable[tuple[str, nn.Parameter, tuple[float, float, bool]]]) -> list[dict]:
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
        lr = values.last_layer_lr if group["is_last_layer"] else values.lr
        group["lr"] = lr * group["lr_multiplier"]
        group["weight_decay"] = values.weight_decay * group["wd_multiplier"]


@torch.no_grad()
def clip_per_submodule(module: nn.Module, max_norm: float | None) -> dict[str, torch.Tensor]:
    """Clip the gradients of each child of `module` to `max_norm` on its own, as DINOv2 does per backbone and head.

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
