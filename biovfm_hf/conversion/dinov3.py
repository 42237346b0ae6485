"""Conversion of DINOv3's weights: configuration and tensors from its files, and back.

It reads facebookresearch's `.pth` files (of a released backbone or of a training run) and transformers' folders of
`DINOv3ViTModel`, and writes the latter.
"""

from typing import TYPE_CHECKING, Any

import torch

from ..cards.provenance import WEIGHT_LICENCES
from ..errors import UserError
from ..positions import rotary_periods

if TYPE_CHECKING:
    from torch import Tensor

    from ..configuration_biovfm import BioVFMConfig

LICENCE = "dinov3-license"  # of its code and its weights, and of what is made from them
LICENCE_NOTE = (
    f"DINOv3's weights, and all that is continued or distilled from them, are under the DINOv3 licence "
    f"({WEIGHT_LICENCES[LICENCE]}): pass them on only under it, with a copy of it; provenance.json takes it along"
)
FAMILY, MODEL_TYPE = "dinov3_", "dinov3_vit"  # how its model types begin in transformers, and that of its ViT
PERIODS, KEY_MASK = "rope_embed.periods", "attn.qkv.bias_mask"
RELEASED_BASE, RELEASED_EPS = 100.0, 1e-5


def is_dinov3(tensors: "dict[str, Tensor]") -> bool:
    """Whether the tensors carry DINOv3's names."""
    return PERIODS in tensors


def dinov3_fields(source: str, tensors: "dict[str, Tensor]", heads: int | None) -> tuple[dict[str, Any], list[str]]:
    """Fields of `BioVFMConfig` besides sizes, and notes on assumptions, from the tensors of a `.pth` file.

    Raises:
        UserError: the model cannot have these periods or this mask of the keys' bias.
    """
    periods = tensors[PERIODS]
    registers = tensors.get("storage_tokens")
    notes = [f"layer_norm_eps {RELEASED_EPS}, as the released models have; the file does not state it"]
    fields = {
        "position_embedding_type": "rope",
        "initialization": "dinov3",
        "layer_norm_eps": RELEASED_EPS,
        "use_mask_token": "mask_token" in tensors,
        "num_register_tokens": 0 if registers is None else registers.shape[1],
        "mask_key_bias": _key_bias_is_masked(source, tensors),
        "untie_cls_and_patch_norms": "cls_norm.weight" in tensors,
        "untie_global_and_local_cls_norm": "local_cls_norm.weight" in tensors,
        **_rotary_fields(source, periods),
    }
    width = tensors["patch_embed.proj.weight"].shape[0]
    implied = width // (4 * len(periods))  # a head has four numbers for each period
    if implied * 4 * len(periods) != width or heads not in (None, implied):
        raise UserError(
            f"{source}: {len(periods)} periods and width {width} belong to {implied} attention heads, not {heads}; "
            "leave --num-heads out"
        )
    return {**fields, "num_attention_heads": implied}, notes


def _key_bias_is_masked(source: str, tensors: "dict[str, Tensor]") -> bool:
    """Whether the file was trained with the keys' bias masked; a mask that was never filled (NaN) is one, too."""
    masks = [tensor for name, tensor in tensors.items() if name.endswith(KEY_MASK)]
    if not masks:
        return False
    mask = torch.stack(masks).float()
    key = torch.ones(3, mask.shape[1] // 3)
    key[1] = 0
    if mask.isnan().all() or (mask == key.flatten()).all():
        return True
    if (mask == 1).all():
        return False
    raise UserError(f"{source}: {KEY_MASK} leaves out something other than the keys' bias, which this model cannot do")


def _rotary_fields(source: str, periods: "Tensor") -> dict[str, Any]:
    """The settings that give these periods: the released base, another base, or a shortest and a longest period."""
    head, dtype = 4 * len(periods), periods.dtype
    first, last = (float(periods[index]) for index in (0, -1))
    fields: dict[str, Any] = {"rope_dtype": str(dtype).removeprefix("torch.")}
    if dtype not in (torch.float32, torch.bfloat16):
        periods, dtype, fields = periods.float(), torch.float32, {"rope_dtype": "float32"}
    bases = [RELEASED_BASE]
    if len(periods) > 1 and last > 0:
        bases.append(round(last ** (len(periods) / (len(periods) - 1)), 3))
    forms = [{"rope_base": base} for base in bases if base > 0]
    forms.append({"rope_min_period": first, "rope_max_period": last})
    for form in forms:
        base, shortest, longest = (form.get(f"rope_{name}") for name in ("base", "min_period", "max_period"))
        made = rotary_periods(head, base or 1.0, shortest, longest, dtype)
        if torch.allclose(made.float(), periods.float(), rtol=1e-5 if dtype == torch.float32 else 1e-2):
            return {**fields, **form}
    raise UserError(f"{source}: {PERIODS} are neither powers of one base nor a geometric row")


def plain_dinov3(tensors: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """The tensors to convert: without the buffers that follow from the configuration."""
    return {name: tensor for name, tensor in tensors.items() if name != PERIODS and not name.endswith(KEY_MASK)}


def transformers_fields(source: str, stated: dict[str, Any], tensors: "dict[str, Tensor]") -> dict[str, Any]:
    """Fields of `BioVFMConfig` from the config.json of a `DINOv3ViTModel`; absent fields take that class's defaults.

    Raises:
        UserError: a gated feed-forward with an activation other than SiLU, or of a width that the model cannot have.
    """
    width = stated.get("hidden_size", 384)
    hidden = stated.get("intermediate_size", 1536)
    gated, activation = stated.get("use_gated_mlp", False), stated.get("hidden_act", "gelu")
    if gated and activation not in ("silu", "swish"):
        raise UserError(f"{source}: a gated feed-forward with {activation!r}; the model has SiLU")
    if gated:
        check_gated_width(source, hidden)
    return {
        "image_size": stated.get("image_size", 224),
        "patch_size": stated.get("patch_size", 16),
        "num_channels": stated.get("num_channels", 3),
        "hidden_size": width,
        "num_hidden_layers": stated.get("num_hidden_layers", 12),
        "num_attention_heads": stated.get("num_attention_heads", 6),
        "ffn_type": "swiglu" if gated else "mlp",
        "mlp_ratio": (1.5 * hidden if gated else hidden) / width,
        "hidden_act": "gelu" if gated else activation,
        "qkv_bias": any(f"layer.0.attention.{part}_proj.bias" in tensors for part in "qkv"),
        "mask_key_bias": "layer.0.attention.k_proj.bias" not in tensors,
        "layerscale_value": float(stated.get("layerscale_value", 1.0)),
        "drop_path_rate": stated.get("drop_path_rate", 0.0),
        "num_register_tokens": stated.get("num_register_tokens", 0),
        "use_mask_token": True,
        "position_embedding_type": "rope",
        "rope_base": _rope_theta(stated),
        "rope_shift_coords": stated.get("pos_embed_shift"),
        "rope_jitter_coords": stated.get("pos_embed_jitter"),
        "rope_rescale_coords": stated.get("pos_embed_rescale", 2.0),
        "initialization": "dinov3",
        "initializer_range": stated.get("initializer_range", 0.02),
        "layer_norm_eps": stated.get("layer_norm_eps", 1e-5),
    }


def check_gated_width(source: str, width: int) -> None:
    """Refuse a gated feed-forward of a width that this model cannot have.

    Raises:
        UserError: the width is no multiple of 8.
    """
    if width % 8:
        raise UserError(
            f"{source}: its gated feed-forward is {width} wide; this model rounds the width up to a multiple of 8, as "
            "all released models have it, so it cannot hold these weights"
        )


def _rope_theta(stated: dict[str, Any]) -> float:
    parameters = stated.get("rope_parameters") or {}
    return float(stated.get("rope_theta") or parameters.get("rope_theta") or RELEASED_BASE)


def plain_transformers(tensors: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """The folder's tensors, named as on the Hub and in our shapes; missing biases become zeros."""
    tensors = {
        name.removeprefix("dinov3_vit.").replace("model.layer.", "layer.", 1): tensor
        for name, tensor in tensors.items()
    }
    if (token := tensors.get("embeddings.mask_token")) is not None:
        tensors["embeddings.mask_token"] = token.reshape(1, -1)
    if (registers := tensors.get("embeddings.register_tokens")) is not None and not registers.numel():
        del tensors["embeddings.register_tokens"]
    biased = any(f"layer.0.attention.{part}_proj.bias" in tensors for part in "qkv")
    for name, weight in [item for item in tensors.items() if item[0].startswith("layer.")]:
        stem, _, leaf = name.rpartition(".")
        projection = stem.endswith(("q_proj", "k_proj", "v_proj"))
        if leaf == "weight" and "norm" not in stem and (biased or not projection):
            tensors.setdefault(f"{stem}.bias", weight.new_zeros(len(weight)))
    return tensors


def why_not_in_transformers(config: "BioVFMConfig") -> str | None:
    """Why `DINOv3ViTModel` cannot hold this model; None if it can."""
    if config.position_embedding_type != "rope":
        return f"its positions are {config.position_embedding_type}, not rotary; use --format dinov2"
    if config.rope_min_period is not None:
        return "its rotary positions have a shortest and a longest period, not a base"
    if config.rope_normalize_coords != "separate":
        return f"its coordinates are divided by the {config.rope_normalize_coords} of the sides"
    if config.untie_cls_and_patch_norms:
        return "its class token has a final norm of its own"
    if config.layerscale_value is None:
        return "it has no LayerScale"
    if config.ffn_type == "swiglu" and config.hidden_act != "gelu":
        return f"its activation is {config.hidden_act}"
    return None


def transformers_config(config: "BioVFMConfig", hidden: int) -> dict[str, Any]:
    """The config.json of a `DINOv3ViTModel`; `hidden` is the width of the feed-forward."""
    gated = config.ffn_type == "swiglu"
    return {
        "architectures": ["DINOv3ViTModel"],
        "model_type": MODEL_TYPE,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": config.num_channels,
        "hidden_size": config.hidden_size,
        "intermediate_size": hidden,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else config.hidden_act,
        "query_bias": config.qkv_bias,
        "key_bias": config.qkv_bias and not config.mask_key_bias,
        "value_bias": config.qkv_bias,
        "proj_bias": True,
        "mlp_bias": True,
        "layerscale_value": config.layerscale_value,
        "drop_path_rate": config.drop_path_rate,
        "num_register_tokens": config.num_register_tokens,
        "rope_theta": float(config.rope_base),
        "pos_embed_shift": config.rope_shift_coords,
        "pos_embed_jitter": config.rope_jitter_coords,
        "pos_embed_rescale": config.rope_rescale_coords,
        "initializer_range": config.initializer_range,
        "layer_norm_eps": config.layer_norm_eps,
        "dtype": "float32",
    }


def transformers_tensors(config: "BioVFMConfig", renamed: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Our tensors under the Hub's names, in their shapes, without a bias that is not used."""
    tensors = {
        name: tensor for name, tensor in renamed.items() if not (config.mask_key_bias and name.endswith("k_proj.bias"))
    }
    token = tensors.get("embeddings.mask_token", torch.zeros(config.hidden_size))
    tensors["embeddings.mask_token"] = token.reshape(1, 1, -1)
    tensors.setdefault("embeddings.register_tokens", torch.zeros(1, 0, config.hidden_size))
    return tensors
