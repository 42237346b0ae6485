"""Reads a checkpoint of any family as a BioVFM configuration and tensors under our names.

A conversion is whole or fails: a tensor of the model that the source does not fill, or a tensor of the source that the
model does not read, stops it with the tensor's name. Only heads that the target has no place for are left out; they
are named too.
"""

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..cards.provenance import Provenance, read_provenance
from ..errors import UserError, one_line
from ..imagenet import IMAGENET_MEAN, IMAGENET_STD
from ..sizes import SIZES, swiglu_width
from .place import FAMILIES, UnknownFamilyError, check_readable, read_object, stated_config
from .provenance import licences_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ..configuration_biovfm import BioVFMConfig

IMAGENET = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
# attention heads of the released models, by width, because the weights do not state them
_RELEASED = [SIZES[f"vit-{name}"] for name in ("tiny", "small", "base", "large", "huge", "giant")]
_HEADS = {size.hidden_size: size.num_attention_heads for size in _RELEASED}
_MAE_DECODER_WIDTH, _MAE_DECODER_HEADS = 512, 16  # of all three released models
_LEFT_OUT = re.compile(
    r"(dino_head|ibot_head|decoder|head|head_dist|pre_logits|classifier|pooler|lm_head)\.|linear_eval|(student|ema)_.*loss"
)


@dataclass(frozen=True)
class HeadCounts:
    """Attention heads of encoder and decoder, for files that do not state them; None if unknown to the caller too."""

    encoder: int | None = None
    decoder: int | None = None


@dataclass(frozen=True)
class ConvertedEncoder:
    """A converted vision transformer: its configuration, its tensors by our names, what was left out or assumed."""

    config: "BioVFMConfig"
    tensors: "dict[str, Tensor]"
    left_out: list[str]
    normalisation: dict[str, Any]
    processor: dict[str, Any]  # what the source's own preprocessor_config.json says
    notes: tuple[str, ...] = ()  # assumptions about what the source does not state
    provenance: Provenance = field(default_factory=Provenance)  # the source's, passed on to the written folder

    @property
    def has_decoder(self) -> bool:
        """Whether the MAE decoder's tensors are there (names then start with `biovfm.` or `decoder.`)."""
        return any(name.startswith("decoder.") for name in self.tensors)


def read_encoder(source: str, num_heads: int | None = None, decoder_heads: int | None = None) -> ConvertedEncoder:
    """Read a checkpoint of any family.

    Args:
        source: a `.pth`, `.pt`, `.bin` or `.safetensors` file, a model folder (BioVFM, transformers' dinov2,
            dinov2_with_registers, dinov3_vit, vit_mae or vit, timm), or a Hub repo id.
        num_heads: attention heads, for files without a configuration whose width is not one of the released models'.
        decoder_heads: the same for MAE's decoder, if its width is not that of the released models.

    Raises:
        UserError: unreadable, unsafe, of another architecture, or not fitting tensor for tensor.
    """
    check_readable(source)  # before the import of torch
    from . import dinov3
    from .weights import locate, read_tensors

    path = locate(source)
    folder = path if path.is_dir() else path.parent
    stated = stated_config(source, path)
    tensors = read_tensors(path)
    processor = read_object(folder / "preprocessor_config.json") if path.is_dir() else {}
    timm = stated.get("pretrained_cfg", {})
    settings = {"image_mean": timm.get("mean"), "image_std": timm.get("std"), **processor}
    normalisation = {key: list(settings.get(key) or IMAGENET[key]) for key in IMAGENET}
    if stated.get("model_type"):
        (config, *fitting), notes = _from_transformers(source, stated, tensors), []
    else:
        config, *fitting, notes = _from_meta_names(source, stated, tensors, HeadCounts(num_heads, decoder_heads))
    provenance = (read_provenance(folder) if path.is_dir() else Provenance()) | licences_of(stated, tensors)
    if dinov3.LICENCE in provenance.licences:
        notes = [*notes, dinov3.LICENCE_NOTE]
    ours, left_out = _fit(source, config, *fitting)
    return ConvertedEncoder(config, ours, left_out, normalisation, processor, tuple(notes), provenance)


def _from_transformers(source: str, stated: dict[str, Any], tensors: "dict[str, Tensor]") -> tuple:
    from ..configuration_biovfm import BioVFMConfig
    from . import dinov3
    from . import names as tables

    family = stated["model_type"]
    if family == "biovfm":
        return _checked(source, lambda: BioVFMConfig.from_dict(stated)), tensors, None
    if family == dinov3.MODEL_TYPE:
        tensors = dinov3.plain_transformers(tensors)
        fields = dinov3.transformers_fields(source, stated, tensors)
        return _config(source, fields), tensors, tables.HF_DINOV3
    table, prefix = getattr(tables, FAMILIES[family].table), FAMILIES[family].prefix
    tensors = {tables.hub_name(name.removeprefix(prefix)): tensor for name, tensor in tensors.items()}
    if family == "vit_mae" and not any(name.startswith("vit.") for name in tensors):
        tensors = {f"vit.{name}": tensor for name, tensor in tensors.items()}
    if family in ("vit", "vit_mae"):  # their MLPs have other names in memory
        tensors = {_vit_mlp_name(name): tensor for name, tensor in tensors.items()}
    return _config_from_transformers(source, stated, tensors), tensors, table


def _vit_mlp_name(name: str) -> str:
    return name.replace(".mlp.fc1.", ".intermediate.dense.").replace(".mlp.fc2.", ".output.dense.")


def _config_from_transformers(source: str, stated: dict[str, Any], tensors: "dict[str, Tensor]") -> "BioVFMConfig":
    family = stated["model_type"]
    dinov2 = family.startswith("dinov2")
    size = stated.get("image_size", 224)
    patch = stated.get("patch_size", 14 if dinov2 else 16)
    hidden = stated.get("hidden_size", 768)
    ratio = stated.get("mlp_ratio", 4) if dinov2 else stated.get("intermediate_size", 3072) / hidden
    registers = stated.get("num_register_tokens", 4) if family == "dinov2_with_registers" else 0
    fields = {
        "image_size": size,
        "patch_size": patch,
        "num_channels": stated.get("num_channels", 3),
        "hidden_size": hidden,
        "num_hidden_layers": stated.get("num_hidden_layers", 12),
        "num_attention_heads": stated.get("num_attention_heads", 12),
        "mlp_ratio": ratio,
        "hidden_act": stated.get("hidden_act", "gelu"),
        "ffn_type": "swiglu" if stated.get("use_swiglu_ffn") else "mlp",
        "qkv_bias": stated.get("qkv_bias", True),
        "layerscale_value": float(stated.get("layerscale_value", 1.0)) if dinov2 else None,
        "drop_path_rate": stated.get("drop_path_rate", 0.0),
        "num_register_tokens": registers,
        "use_mask_token": "embeddings.mask_token" in tensors,
        "position_embedding_type": "sincos" if family == "vit_mae" else "learned",
        "initialization": "mae" if family == "vit_mae" else "dinov2",
        "interpolate_antialias": family == "dinov2_with_registers",
        "layer_norm_eps": stated.get("layer_norm_eps", 1e-6 if dinov2 else 1e-12),
    }
    for name in ("mask_ratio", "norm_pix_loss", "decoder_hidden_size"):
        fields[name] = stated.get(name, {"mask_ratio": 0.75, "norm_pix_loss": False, "decoder_hidden_size": 512}[name])
    fields["decoder_num_hidden_layers"] = stated.get("decoder_num_hidden_layers", 8)
    fields["decoder_num_attention_heads"] = stated.get("decoder_num_attention_heads", 16)
    return _config(source, fields)


def _from_meta_names(source: str, stated: dict[str, Any], tensors: "dict[str, Tensor]", heads: HeadCounts) -> tuple:
    """Read DINOv2's, DINOv3's, MAE's and timm's files, whose sizes follow from the tensors."""
    from . import dinov3
    from . import names as tables

    rotary = dinov3.is_dinov3(tensors)
    if not {"cls_token", "patch_embed.proj.weight"} <= set(tensors) or not (rotary or "pos_embed" in tensors):
        some = ", ".join(list(tensors)[:4])
        ours = any(name.endswith("embeddings.position_embeddings") for name in tensors)
        hint = "; name the folder, whose config.json states the architecture" if ours else ""
        raise UnknownFamilyError(
            f"{source}: no vision transformer that convert knows; its tensors are named {some} ...{hint}"
        )
    if rotary:
        more, notes = dinov3.dinov3_fields(source, tensors, heads.encoder)
        fields = {**_fields_of_shapes(source, tensors, more["num_attention_heads"])[0], **more}
        return _config(source, fields), dinov3.plain_dinov3(tensors), tables.DINOV3, notes
    if "architecture" in stated:
        tensors = _timm_positions(source, tensors)
        fields, notes = _timm_fields(source, tensors, stated, heads)
        return _config(source, fields), tensors, tables.timm_table(fields["ffn_type"]), notes
    if "decoder_pos_embed" in tensors:
        fields, notes = _mae_fields(source, tensors, heads)
        return _config(source, fields), tensors, tables.MAE, notes
    fields, notes = _dinov2_fields(source, tensors, heads)
    return _config(source, fields), tensors, tables.DINOV2, notes


def _timm_positions(source: str, tensors: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """timm's position embeddings as ours: a row for the class token, none for registers (theirs join the tokens)."""
    import torch

    tensors = dict(tensors)
    positions = tensors["pos_embed"]
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    rows = positions.shape[1]
    if math.isqrt(rows) ** 2 == rows:  # no_embed_class
        tensors["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    elif registers and math.isqrt(rows - 1 - registers) ** 2 == rows - 1 - registers:
        tensors["reg_token"] = tensors["reg_token"] + positions[:, 1 : 1 + registers]
        tensors["pos_embed"] = torch.cat([positions[:, :1], positions[:, 1 + registers :]], dim=1)
    elif math.isqrt(rows - 1) ** 2 != rows - 1:
        raise UserError(f"{source}: pos_embed has {rows} rows, which is not a square grid of patches")
    return tensors


def _dinov2_fields(source: str, tensors: "dict[str, Tensor]", heads: HeadCounts) -> tuple[dict[str, Any], list[str]]:
    """Fields of a file with DINOv2's names: from its training, its hub, or the encoder of a plain ViT or MAE."""
    fields, notes = _fields_of_shapes(source, tensors, heads.encoder)
    fields["use_mask_token"] = "mask_token" in tensors
    registers = tensors.get("register_tokens")
    trained = any(name.startswith("dino_head.") for name in tensors)
    if registers is not None:
        fields["num_register_tokens"] = registers.shape[1]
        which = "training code does (offset 0.1)" if trained else "released models with registers do (antialias)"
        notes.append(f"position embeddings are resized as DINOv2's {which}; the file does not state it")
    if registers is not None and not trained:
        fields["interpolate_antialias"] = True
    elif fields["layerscale_value"] is not None:  # the default of its training code, which its first models keep
        fields["interpolate_offset"] = 0.1
    return fields, notes


def _mae_fields(source: str, tensors: "dict[str, Tensor]", heads: HeadCounts) -> tuple[dict[str, Any], list[str]]:
    """Fields of MAE's file of encoder and decoder, which states the heads of neither."""
    fields, notes = _fields_of_shapes(source, tensors, heads.encoder)
    width = tensors["decoder_pos_embed"].shape[-1]
    decoder_heads = heads.decoder
    if decoder_heads is None:
        if width != _MAE_DECODER_WIDTH:
            raise UserError(
                f"{source}: a decoder {width} wide does not determine its attention heads; give --decoder-heads"
            )
        decoder_heads = _MAE_DECODER_HEADS
        notes.append(
            f"{decoder_heads} attention heads in the decoder, as MAE's of width {width} have; --decoder-heads"
        )
    fields["decoder_hidden_size"] = width
    fields["decoder_num_hidden_layers"] = _blocks("decoder_blocks", tensors)
    fields["decoder_num_attention_heads"] = decoder_heads
    return fields, notes


def _timm_fields(
    source: str, tensors: "dict[str, Tensor]", stated: dict[str, Any], heads: HeadCounts
) -> tuple[dict[str, Any], list[str]]:
    """Fields of a timm folder, whose configuration may state the heads."""
    stated_heads = stated.get("model_args", {}).get("num_heads")
    fields, notes = _fields_of_shapes(source, tensors, stated_heads or heads.encoder)
    fields["interpolate_antialias"] = True
    if "reg_token" in tensors:
        fields["num_register_tokens"] = tensors["reg_token"].shape[1]
    return fields, notes


def _fields_of_shapes(
    source: str, tensors: "dict[str, Tensor]", heads: int | None
) -> tuple[dict[str, Any], list[str]]:
    """Fields that follow from the tensors in all these families, and notes on assumptions."""
    hidden, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
    notes = []
    if heads is None:
        heads = _HEADS.get(hidden)
        if heads is None:
            raise UserError(
                f"{source}: width {hidden} does not determine the number of attention heads; give --num-heads"
            )
        notes.append(f"{heads} attention heads, as the released models of width {hidden} have; --num-heads")
    scaled = "blocks.0.ls1.gamma" in tensors
    positions = tensors.get("pos_embed")  # DINOv3 has none, and takes any size
    fixed = not scaled and positions is not None and _is_sincos(positions)
    fields = {
        "image_size": math.ceil(224 / patch) * patch if positions is None else _side(positions) * patch,
        "patch_size": patch,
        "num_channels": channels,
        "hidden_size": hidden,
        "num_hidden_layers": _blocks("blocks", tensors),
        "num_attention_heads": heads,
        "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
        "layerscale_value": 1e-5 if scaled else None,
        "position_embedding_type": "sincos" if fixed else "learned",
        "initialization": "mae" if fixed else "dinov2",
        **_feed_forward(source, tensors, hidden),
    }
    return fields, notes


def _side(positions: "Tensor") -> int:
    return math.isqrt(positions.shape[1] - 1)


def _blocks(stem: str, tensors: "dict[str, Tensor]") -> int:
    numbers = [int(match[1]) for name in tensors if (match := re.match(rf"{stem}\.(\d+)\.", name))]
    return max(numbers, default=-1) + 1


def _feed_forward(source: str, tensors: "dict[str, Tensor]", hidden: int) -> dict[str, Any]:
    from . import dinov3

    fused = "blocks.0.mlp.w12.weight" in tensors
    gated = fused or "blocks.0.mlp.w1.weight" in tensors  # DINOv3 keeps gate and value apart
    name = "w12" if fused else "w1" if gated else "fc1"
    first = tensors.get(f"blocks.0.mlp.{name}.weight")
    second = tensors.get(f"blocks.0.mlp.{'w3' if gated else 'fc2'}.weight")
    if first is None or second is None:
        raise UserError(f"{source}: its blocks have no feed-forward layers that convert knows")
    if gated or len(first) == 2 * second.shape[1]:  # gate and value stacked
        dinov3.check_gated_width(source, second.shape[1])
        return {"ffn_type": "swiglu", "mlp_ratio": _swiglu_ratio(second.shape[1], hidden)}
    return {"ffn_type": "mlp", "mlp_ratio": len(first) / hidden}


def _is_sincos(positions: "Tensor") -> bool:
    import torch

    from ..positions import sincos_position_embeddings

    width, side = positions.shape[-1], math.isqrt(positions.shape[1] - 1)
    return width % 4 == 0 and torch.allclose(positions.float(), sincos_position_embeddings(width, side), atol=1e-3)


def _swiglu_ratio(width: int, hidden: int) -> float:
    """The mlp_ratio whose SwiGLU layer is `width` wide: DINOv2's 4, DINOv3's 6 or 3, else the exact one."""
    for ratio in (4.0, 6.0, 3.0):
        if swiglu_width(hidden, ratio) == width:
            return ratio
    return (width * 1.5 + 0.5) / hidden


def _config(source: str, fields: dict[str, Any]) -> "BioVFMConfig":
    from ..configuration_biovfm import BioVFMConfig

    return _checked(source, lambda: BioVFMConfig(**fields))


def _checked(source: str, build: "Callable[[], BioVFMConfig]") -> "BioVFMConfig":
    from huggingface_hub.errors import StrictDataclassError

    try:
        return build()
    except (ValueError, StrictDataclassError) as error:
        raise UserError(f"{source}: {one_line(error.__cause__ or error)}") from error


def _shapes(config: "BioVFMConfig", decoder: bool) -> dict[str, tuple[int, ...]]:
    import torch

    from ..modeling_biovfm import BioVFMForMaskedAutoencoding, BioVFMModel

    with torch.device("meta"):
        model = BioVFMForMaskedAutoencoding(config) if decoder else BioVFMModel(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _fit(
    source: str,
    config: "BioVFMConfig",
    tensors: "dict[str, Tensor]",
    table: dict[str, tuple[str, ...]] | None,
) -> tuple["dict[str, Tensor]", list[str]]:
    """Our tensors, all filled from theirs, and the names of their tensors that were left out."""
    from .names import rename_to_ours

    decoder = any(name.endswith(("decoder.pred.weight", "decoder_pred.weight")) for name in tensors)
    shapes = _shapes(config, decoder)
    if table is None:  # our own names
        prefixed = not decoder and any(name.startswith("biovfm.") for name in tensors)
        if prefixed:
            tensors = {name.removeprefix("biovfm."): tensor for name, tensor in tensors.items()}
        ours = {name: tensors[name] for name in shapes if name in tensors}
        unfilled = [name for name in shapes if name not in tensors]
        unread = [name for name in tensors if name not in shapes]
    else:
        plain = {name.removeprefix("biovfm."): name for name in shapes}
        renamed, missing, unread = rename_to_ours(plain, tensors, table)
        ours = {plain[name]: tensor for name, tensor in renamed.items()}
        unfilled = [plain[name] for name in missing]
    left_out = [name for name in unread if _LEFT_OUT.match(name)]
    unread = [name for name in unread if name not in left_out]
    if unfilled or unread:
        raise UserError(f"{source}: does not fit. {_list('unfilled', unfilled)}{_list('unread', unread)}".strip())
    for name, shape in shapes.items():
        if tuple(ours[name].shape) != shape:
            raise UserError(
                f"{source}: {name} has shape {tuple(ours[name].shape)} where its configuration "
                f"(image_size {config.image_size}, patch_size {config.patch_size}, "
                f"hidden_size {config.hidden_size}) asks for {shape}"
            )
    return ours, left_out


def _list(what: str, names: list[str]) -> str:
    return f"{what}: {', '.join(names)}. " if names else ""
