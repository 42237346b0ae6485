"""Writes a model in the folder formats that others load: BioVFM, transformers' DINOv2, DINOv3 and MAE, timm."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cards.provenance import Provenance, write_provenance
from ..errors import UserError
from ..flops import Architecture
from ..sizes import swiglu_width
from ..writing.files import atomic_path
from .read import ConvertedEncoder

if TYPE_CHECKING:
    from torch import Tensor

    from ..configuration_biovfm import BioVFMConfig
    from ..image_processing_biovfm import BioVFMImageProcessor


def write_biovfm(encoder: ConvertedEncoder, folder: Path) -> None:
    """Write a BioVFM model folder: weights, configuration, processor, and the code for trust_remote_code."""
    from ..modeling_biovfm import BioVFMForMaskedAutoencoding, BioVFMModel

    model = BioVFMForMaskedAutoencoding if encoder.has_decoder else BioVFMModel
    # from_pretrained with tensors in hand: no initialisation, the checkpoint's own dtype
    loaded = model.from_pretrained(None, config=encoder.config, state_dict=encoder.tensors)
    with atomic_path(folder) as temporary:
        loaded.save_pretrained(temporary)
        _biovfm_processor(encoder).save_pretrained(temporary)
        write_provenance(temporary, encoder.provenance)


def _biovfm_processor(encoder: ConvertedEncoder) -> "BioVFMImageProcessor":
    """The source's own processor if it is ours, else a new one with its size and normalisation."""
    from ..image_processing_biovfm import BioVFMImageProcessor

    if encoder.processor.get("image_processor_type") == "BioVFMImageProcessor":
        return BioVFMImageProcessor.from_dict(encoder.processor)
    size = {"height": encoder.config.image_size, "width": encoder.config.image_size}
    return BioVFMImageProcessor(size=size, **encoder.normalisation)


def write_transformers(encoder: ConvertedEncoder, folder: Path, target: str) -> list[str]:
    """Write transformers' `dinov2` (with registers if the model has them), `dinov3` or `vit_mae` folder.

    Returns:
        our tensors that the target has no place for (a decoder, under `dinov2`).

    Raises:
        UserError: the target's architecture cannot hold this model.
    """
    from . import names as tables

    config = encoder.config
    tensors = dict(encoder.tensors)
    dropped: list[str] = []
    if target == "dinov3":
        return _write_dinov3(encoder, folder)
    for rotary in (config.position_embedding_type == "rope", config.mask_key_bias, config.untie_cls_and_patch_norms):
        _refuse(rotary, target, "it has DINOv3's architecture; use --format dinov3")
    if target.startswith("dinov2"):
        bare = target == "dinov2_with_registers" and config.num_register_tokens == 0
        _refuse(bare, target, "it has no register tokens; use --format dinov2")
        _refuse(config.layerscale_value is None, target, "it has no LayerScale; use --format vit_mae")
        _refuse(config.mlp_ratio != int(config.mlp_ratio), target, f"its mlp_ratio {config.mlp_ratio} is not whole")
        dropped = [name for name in tensors if name.startswith("decoder.")]
        tensors = {k.removeprefix("biovfm."): v for k, v in tensors.items() if k not in dropped}
        stated, table = _hf_dinov2_config(config), tables.HF_DINOV2
    else:
        _refuse(config.layerscale_value is not None, target, "it has LayerScale; use --format dinov2")
        _refuse(config.num_register_tokens > 0, target, "it has register tokens")
        _refuse(config.ffn_type != "mlp", target, "it has SwiGLU layers")
        _refuse("embeddings.mask_token" in tensors, target, "its encoder has a mask token")
        tensors = {name.removeprefix("biovfm."): tensor for name, tensor in tensors.items()}
        stated, table = _hf_vit_mae_config(config, encoder.has_decoder), tables.HF_VIT_MAE
    renamed, homeless = tables.rename_to_theirs(tensors, table)
    _refuse(bool(homeless), target, f"it has no place for {', '.join(homeless)}")
    if target == "vit_mae" and not encoder.has_decoder:
        renamed = {name.removeprefix("vit."): tensor for name, tensor in renamed.items()}
    _write_folder(folder, renamed, stated, _bit_processor(encoder), encoder.provenance)
    return dropped


def _write_dinov3(encoder: ConvertedEncoder, folder: Path) -> list[str]:
    """Write a `DINOv3ViTModel` folder, which has no place for a decoder or for the norm of local crops."""
    from . import dinov3
    from .names import HF_DINOV3, rename_to_theirs

    config = encoder.config
    reason = dinov3.why_not_in_transformers(config)
    _refuse(reason is not None, "dinov3", str(reason))
    dropped = [name for name in encoder.tensors if name.startswith("decoder.") or "local_cls_norm" in name]
    tensors = {k.removeprefix("biovfm."): v for k, v in encoder.tensors.items() if k not in dropped}
    renamed, homeless = rename_to_theirs(tensors, HF_DINOV3)
    _refuse(bool(homeless), "dinov3", f"it has no place for {', '.join(homeless)}")
    processor = {
        "image_processor_type": "DINOv3ViTImageProcessor",
        "do_resize": True,
        "size": {"height": config.image_size, "width": config.image_size},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        **encoder.normalisation,
    }
    stated = dinov3.transformers_config(config, Architecture.of(config).encoder.hidden)
    _write_folder(folder, dinov3.transformers_tensors(config, renamed), stated, processor, encoder.provenance)
    return dropped


def write_timm(encoder: ConvertedEncoder, folder: Path) -> list[str]:
    """Write a folder that `timm.create_model("local-dir:FOLDER")` loads. Returns our tensors that it leaves out."""
    import torch

    from .names import rename_to_theirs, timm_table

    config = encoder.config
    _refuse(config.position_embedding_type == "rope", "timm", "its positions are rotary; use --format dinov3")
    _refuse(config.hidden_act != "gelu", "timm", f"its activation is {config.hidden_act}, timm's GELU")
    _refuse(config.layer_norm_eps != 1e-6, "timm", f"its layer_norm_eps is {config.layer_norm_eps}, timm's 1e-6")
    dropped = [name for name in encoder.tensors if name.startswith("decoder.") or name.endswith("mask_token")]
    tensors = {k.removeprefix("biovfm."): v for k, v in encoder.tensors.items() if k not in dropped}
    renamed, homeless = rename_to_theirs(tensors, timm_table(config.ffn_type))
    _refuse(bool(homeless), "timm", f"it has no place for {', '.join(homeless)}")
    registers = config.num_register_tokens
    if registers:  # timm keeps a row of positions for every token before the patches
        positions = renamed["pos_embed"]
        rows = torch.zeros_like(positions[:, :1]).expand(-1, registers, -1)
        renamed["pos_embed"] = torch.cat([positions[:, :1], rows, positions[:, 1:]], dim=1)
    _write_folder(folder, renamed, _timm_config(encoder), None, encoder.provenance)
    return dropped


def _refuse(condition: bool, target: str, reason: str) -> None:
    if condition:
        raise UserError(f"this model cannot be written as {target}: {reason}")


def _hf_shared(config: "BioVFMConfig") -> dict[str, Any]:
    return {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": config.num_channels,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "hidden_act": config.hidden_act,
        "qkv_bias": config.qkv_bias,
        "layer_norm_eps": config.layer_norm_eps,
        "initializer_range": config.initializer_range,
        "torch_dtype": "float32",
    }


def _hf_dinov2_config(config: "BioVFMConfig") -> dict[str, Any]:
    registers = config.num_register_tokens
    name = "Dinov2WithRegistersModel" if registers else "Dinov2Model"
    stated = {
        **_hf_shared(config),
        "architectures": [name],
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        "mlp_ratio": int(config.mlp_ratio),
        "use_swiglu_ffn": config.ffn_type == "swiglu",
        "layerscale_value": config.layerscale_value,
        "drop_path_rate": config.drop_path_rate,
        "use_mask_token": config.use_mask_token,
    }
    return {**stated, "num_register_tokens": registers} if registers else stated


def _hf_vit_mae_config(config: "BioVFMConfig", decoder: bool) -> dict[str, Any]:
    return {
        **_hf_shared(config),
        "architectures": ["ViTMAEForPreTraining" if decoder else "ViTMAEModel"],
        "model_type": "vit_mae",
        "intermediate_size": int(config.hidden_size * config.mlp_ratio),
        "mask_ratio": config.mask_ratio if decoder else 0.0,  # a feature encoder masks nothing
        "norm_pix_loss": config.norm_pix_loss,
        "decoder_hidden_size": config.decoder_hidden_size,
        "decoder_num_hidden_layers": config.decoder_num_hidden_layers,
        "decoder_num_attention_heads": config.decoder_num_attention_heads,
        "decoder_intermediate_size": int(config.decoder_hidden_size * config.mlp_ratio),
    }


def _timm_config(encoder: ConvertedEncoder) -> dict[str, Any]:
    config = encoder.config
    swiglu = config.ffn_type == "swiglu"
    ratio = config.mlp_ratio
    if swiglu:  # timm takes the width of gate and value together
        ratio = 2 * swiglu_width(config.hidden_size, ratio) / config.hidden_size
    arguments = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": ratio,
        "qkv_bias": config.qkv_bias,
        "init_values": config.layerscale_value,
        "reg_tokens": config.num_register_tokens,
        "num_classes": 0,
        "dynamic_img_size": True,
    }
    mean, std = encoder.normalisation["image_mean"], encoder.normalisation["image_std"]
    pretrained = {
        "input_size": [config.num_channels, config.image_size, config.image_size],
        "mean": mean,
        "std": std,
        "interpolation": "bicubic",
        "num_classes": 0,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    return {
        "architecture": "vit_giant_patch14_dinov2" if swiglu else "vit_base_patch16_224",
        "num_classes": 0,
        "num_features": config.hidden_size,
        "model_args": arguments,
        "pretrained_cfg": pretrained,
    }


def _bit_processor(encoder: ConvertedEncoder) -> dict[str, Any]:
    side = encoder.config.image_size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        **encoder.normalisation,
    }


def _write_folder(
    folder: Path,
    tensors: "dict[str, Tensor]",
    config: dict[str, Any],
    processor: dict[str, Any] | None,
    provenance: Provenance,
) -> None:
    from safetensors.torch import save_file

    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_file(
            {name: tensor.contiguous().clone() for name, tensor in tensors.items()},
            temporary / "model.safetensors",
            metadata={"format": "pt"},
        )
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        if processor is not None:
            (temporary / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
        write_provenance(temporary, provenance)
