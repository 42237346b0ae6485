"""Learning-rate and weight-decay rules for the tensors of a DINO student (`dinov2/utils/param_groups.py`)."""

import re

from torch import nn

from ...optimizer import grouped, trainable

# Tensors of the backbone before the first block; layer-wise decay counts them as layer 0.
_EMBEDDING = re.compile(
    r"backbone\.embeddings\.(cls_token|mask_token|register_tokens|position_embeddings|patch_embeddings\.projection\..+)"
)
_BLOCK = re.compile(
    r"backbone\.layers\.(\d+)\.(norm[12]|attention\.(qkv|proj)|layer_scale[12]|mlp\.(fc1|fc2|w12|w3))\.(weight|bias|gamma)"
)
_FINAL = re.compile(
    r"backbone\.(cls_|local_cls_)?norm\.(weight|bias)"
    r"|(dino|ibot)_head\.(mlp\.(\d+\.)?(weight|bias)|last_layer\.(weight|weight_g|weight_v))"
)


def dino_multipliers(
    name: str, layers: int, layerwise_decay: float, patch_embed_lr_mult: float
) -> tuple[float, float]:
    """(lr multiplier, weight-decay multiplier) of one student tensor, as DINOv2 trains it.

    `name` counts from the student: `backbone.layers.0.norm1.weight`, `dino_head.last_layer.weight_v`. The lr
    multiplier of block i is decay^(layers - i), that of the embeddings decay^(layers + 1), that of the patch
    projection `patch_embed_lr_mult` times as high, that of the final norm and the heads 1. Biases, norms and
    layer-scale do not decay; tokens, position embeddings and the last layer's direction and length do.

    Raises:
        ValueError: no rule covers the name. (DINOv2 matches substrings, so a renamed tensor would get no rule
            silently.)
    """
    block = _BLOCK.fullmatch(name)
    if block:
        lr = layerwise_decay ** (layers - int(block[1]))
    elif _EMBEDDING.fullmatch(name):
        lr = layerwise_decay ** (layers + 1) * (patch_embed_lr_mult if "patch_embeddings" in name else 1.0)
    elif _FINAL.fullmatch(name):
        lr = 1.0
    else:
        raise ValueError(f"no learning-rate rule for the tensor {name!r}; add one to objectives/dino/parameters.py")
    undecayed = name.endswith((".bias", ".gamma")) or re.search(r"norm[12]?\.", name)
    return lr, 0.0 if undecayed else 1.0


def dino_parameter_groups(student: nn.Module, layerwise_decay: float, patch_embed_lr_mult: float) -> list[dict]:
    """AdamW groups for a DINO student (`backbone`, `dino_head`, maybe `ibot_head`), one for each pair of multipliers.

    Each group carries `lr_multiplier`, `wd_multiplier`, `is_last_layer` and `names`; `apply_schedule` reads the first
    three. Tensors that need no gradient are left out.
    """
    layers = len(student.get_submodule("backbone.layers"))  # type: ignore[arg-type]
    rules = []
    for name, parameter in trainable(student):
        lr, decay = dino_multipliers(name, layers, layerwise_decay, patch_embed_lr_mult)
        rules.append((name, parameter, (lr, decay, "last_layer" in name)))
    return grouped(rules)
