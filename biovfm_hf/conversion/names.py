"""Tensor names of other projects' vision transformers: one table per family.

A table maps our tensor (without `.weight` or `.bias`, `*` for the block's number) to theirs. If there are several
names, their tensors are stacked along the first axis: query, key and value of the fused projection.
"""

import re
from collections.abc import Iterable

import torch
from torch import Tensor

Table = dict[str, tuple[str, ...]]


def _table(names: dict[str, str | tuple[str, ...]]) -> Table:
    return {ours: (theirs,) if isinstance(theirs, str) else theirs for ours, theirs in names.items()}


# DINOv2's own files, MAE's (whose mask token belongs to the decoder) and timm's share these names.
_META_BLOCK = {
    "norm1": "norm1",
    "attention.qkv": "attn.qkv",
    "attention.proj": "attn.proj",
    "layer_scale1.gamma": "ls1.gamma",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.w12": "mlp.w12",
    "mlp.w3": "mlp.w3",
    "layer_scale2.gamma": "ls2.gamma",
}
_META_ENCODER = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    **{f"layers.*.{ours}": f"blocks.*.{theirs}" for ours, theirs in _META_BLOCK.items()},
    "norm": "norm",
}
DINOV2 = _table(
    {**_META_ENCODER, "embeddings.mask_token": "mask_token", "embeddings.register_tokens": "register_tokens"}
)
DINOV3 = _table(
    {
        **_META_ENCODER,
        "embeddings.mask_token": "mask_token",
        "embeddings.register_tokens": "storage_tokens",
        "layers.*.mlp.w12": ("blocks.*.mlp.w1", "blocks.*.mlp.w2"),
        "cls_norm": "cls_norm",
        "local_cls_norm": "local_cls_norm",
    }
)
MAE = _table(
    {
        **_META_ENCODER,
        "decoder.embed": "decoder_embed",
        "decoder.mask_token": "mask_token",
        "decoder.position_embeddings": "decoder_pos_embed",
        **{f"decoder.layers.*.{ours}": f"decoder_blocks.*.{theirs}" for ours, theirs in _META_BLOCK.items()},
        "decoder.norm": "decoder_norm",
        "decoder.pred": "decoder_pred",
    }
)
_TIMM = _table(
    {
        **_META_ENCODER,
        "embeddings.register_tokens": "reg_token",
        "layers.*.mlp.w12": "blocks.*.mlp.fc1",
        "layers.*.mlp.w3": "blocks.*.mlp.fc2",
    }
)


def timm_table(ffn_type: str) -> Table:
    """timm's names for a model with this feed-forward: its packed SwiGLU reuses the MLP's."""
    unused = ("mlp.fc1", "mlp.fc2") if ffn_type == "swiglu" else ("mlp.w12", "mlp.w3")
    return {ours: theirs for ours, theirs in _TIMM.items() if not ours.endswith(unused)}


# transformers' files on disk and on the Hub; since 5.12 models in memory have other names, see `hub_name`.
_QKV = ("attention.attention.query", "attention.attention.key", "attention.attention.value")
_DINOV2_BLOCK: dict[str, str | tuple[str, ...]] = {
    "norm1": "norm1",
    "attention.qkv": _QKV,
    "attention.proj": "attention.output.dense",
    "layer_scale1.gamma": "layer_scale1.lambda1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.w12": "mlp.weights_in",
    "mlp.w3": "mlp.weights_out",
    "layer_scale2.gamma": "layer_scale2.lambda1",
}
_VIT_BLOCK: dict[str, str | tuple[str, ...]] = {
    "norm1": "layernorm_before",
    "attention.qkv": _QKV,
    "attention.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_SAME_EMBEDDINGS = {
    f"embeddings.{name}": f"embeddings.{name}"
    for name in ("cls_token", "mask_token", "register_tokens", "position_embeddings", "patch_embeddings.projection")
}


def _blocks(own_prefix: str, other_prefix: str, block: dict[str, str | tuple[str, ...]]) -> Table:
    return {
        f"{own_prefix}.*.{name}": tuple(
            f"{other_prefix}.*.{part}" for part in ((parts,) if isinstance(parts, str) else parts)
        )
        for name, parts in block.items()
    }


HF_DINOV2 = {
    **_table({**_SAME_EMBEDDINGS, "norm": "layernorm"}),
    **_blocks("layers", "encoder.layer", _DINOV2_BLOCK),
}
HF_VIT = {
    **_table({**_SAME_EMBEDDINGS, "norm": "layernorm"}),
    **_blocks("layers", "encoder.layer", _VIT_BLOCK),
}
_HF_DINOV3_BLOCK: dict[str, str | tuple[str, ...]] = {
    "norm1": "norm1",
    "attention.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attention.proj": "attention.o_proj",
    "layer_scale1.gamma": "layer_scale1.lambda1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.up_proj",
    "mlp.fc2": "mlp.down_proj",
    "mlp.w12": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.w3": "mlp.down_proj",
    "layer_scale2.gamma": "layer_scale2.lambda1",
}
HF_DINOV3 = {
    **_table(
        {
            **{f"embeddings.{name}": f"embeddings.{name}" for name in ("cls_token", "mask_token", "register_tokens")},
            "embeddings.patch_embeddings.projection": "embeddings.patch_embeddings",
            "norm": "norm",
        }
    ),
    **_blocks("layers", "layer", _HF_DINOV3_BLOCK),
}
HF_VIT_MAE = {
    **{ours: tuple(f"vit.{part}" for part in theirs) for ours, theirs in HF_VIT.items()},
    **_blocks("decoder.layers", "decoder.decoder_layers", _VIT_BLOCK),
    **_table(
        {
            "decoder.embed": "decoder.decoder_embed",
            "decoder.mask_token": "decoder.mask_token",
            "decoder.position_embeddings": "decoder.decoder_pos_embed",
            "decoder.norm": "decoder.decoder_norm",
            "decoder.pred": "decoder.decoder_pred",
        }
    ),
}

# names of transformers models in memory (5.12 and later) -> names in files
_IN_MEMORY = [
    (r"\battention\.q_proj\b", "attention.attention.query"),
    (r"\battention\.k_proj\b", "attention.attention.key"),
    (r"\battention\.v_proj\b", "attention.attention.value"),
    (r"\battention\.o_proj\b", "attention.output.dense"),
    (r"\bdecoder_encoder\.layer\.", "decoder_layers."),
    (r"^(vit\.)?layers\.", r"\1encoder.layer."),
]


def hub_name(name: str) -> str:
    """The name in transformers' files of a tensor that may have its in-memory name."""
    for pattern, replacement in _IN_MEMORY:
        name = re.sub(pattern, replacement, name)
    return name


def their_names(ours: str, table: Table) -> tuple[str, ...]:
    """The table's names for one of our tensors; empty if it has no place for it."""
    number = re.search(r"\.(\d+)\.", ours)
    pattern = ours if number is None else ours.replace(number[0], ".*.", 1)
    stem, _, leaf = pattern.rpartition(".")
    names = table.get(pattern)
    suffix = ""
    if names is None and leaf in ("weight", "bias"):
        names, suffix = table.get(stem), f".{leaf}"
    if names is None:
        return ()
    return tuple(name.replace("*", number[1] if number else "*") + suffix for name in names)


def rename_to_ours(
    our_names: Iterable[str], tensors: dict[str, Tensor], table: Table
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Fill our tensors from theirs.

    Returns:
        our tensors by name, our names that theirs do not fill, and their names that we do not read.
    """
    filled: dict[str, Tensor] = {}
    unfilled: list[str] = []
    read: set[str] = set()
    for ours in our_names:
        names = their_names(ours, table)
        if not names or any(name not in tensors for name in names):
            unfilled.append(ours)
            continue
        parts = [tensors[name] for name in names]
        filled[ours] = parts[0] if len(parts) == 1 else torch.cat(parts)
        read.update(names)
    return filled, unfilled, [name for name in tensors if name not in read]


def rename_to_theirs(ours: dict[str, Tensor], table: Table) -> tuple[dict[str, Tensor], list[str]]:
    """Give our tensors their names.

    Returns:
        their tensors by name, and our names that the table has no place for.
    """
    renamed: dict[str, Tensor] = {}
    homeless = []
    for name, tensor in ours.items():
        names = their_names(name, table)
        if not names:
            homeless.append(name)
        for theirs, part in zip(names, tensor.chunk(max(len(names), 1)), strict=False):
            renamed[theirs] = part.contiguous()
    return renamed, homeless
