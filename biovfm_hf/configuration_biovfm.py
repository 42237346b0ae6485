"""Configuration of the BioVFM vision transformers: one ViT that covers the architectures of DINOv2, DINOv3 and MAE."""

import hashlib
import re
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

from .architecture import FAMILY_FIELDS, Architecture
from .sizes import named

# `save_pretrained` writes a digest of the code beside it into its copy of this file: otherwise transformers, which
# finds a model's class by its configuration's, would run the code of one folder for another of the same name
SHIPPED_CODE = ""

AUTO_MAP = {
    "AutoConfig": "configuration_biovfm.BioVFMConfig",
    "AutoModel": "modeling_biovfm.BioVFMModel",
    "AutoBackbone": "modeling_biovfm.BioVFMBackbone",
    "AutoModelForImageClassification": "modeling_biovfm.BioVFMForImageClassification",
    "AutoModelForMaskedImageModeling": "modeling_biovfm.BioVFMForMaskedImageModeling",
    "AutoModelForPreTraining": "modeling_biovfm.BioVFMForMaskedAutoencoding",
    "AutoModelForSemanticSegmentation": "modeling_biovfm.BioVFMForSemanticSegmentation",
}


@strict
class BioVFMConfig(Architecture, BackboneConfigMixin, PreTrainedConfig):
    """Sizes and switches of a BioVFM vision transformer. `from_size` builds the named sizes.

    Args:
        image_size: side in pixels of the square images that the position embeddings are made for.
        patch_size: side of a patch in pixels; must divide `image_size`.
        num_channels: image channels.
        hidden_size: width D of the tokens.
        num_hidden_layers: number of blocks.
        num_attention_heads: attention heads per block; must divide `hidden_size`.
        mlp_ratio: hidden width of the feed-forward as a multiple of D (SwiGLU keeps two thirds of it, rounded up
            to a multiple of 8, as DINOv2 does).
        ffn_type: "mlp" (GELU) or "swiglu" (fused, DINOv2's huge and giant models).
        hidden_act: activation of the MLP.
        qkv_bias: biases in the query, key and value projections.
        mask_key_bias: leave the keys' bias out of the attention, as DINOv3 does: it stays in the weights, without
            effect and without gradient.
        layerscale_value: initial value of LayerScale; None for a model without it (MAE).
        drop_path_rate: stochastic depth, the same in every block; drops whole images of a batch (never the last one),
            in training mode only.
        num_register_tokens: register tokens between the class token and the patch tokens.
        use_mask_token: add a mask token (DINOv2's pretraining). Heads and the backbone leave it out, since it would
            not be trained; masked image modelling always has one.
        position_embedding_type: "learned", "sincos" (fixed, MAE) or "rope" (DINOv3: queries and keys of the patch
            tokens are turned by angles that grow with the patch's place in the image).
        rope_base: periods of "rope" run from 1 to almost this, geometrically.
        rope_min_period, rope_max_period: if both are given, periods run from one to the other instead.
        rope_normalize_coords: length that coordinates are divided by before they run from -1 to 1: each by its own
            side ("separate"), or both by the longer ("max") or the shorter side ("min").
        rope_dtype: dtype of angles and rotation: "float32", or "bfloat16" as in DINOv3's own training.
        rope_shift_coords: in training, shift coordinates by up to this, drawn for rows and for columns.
        rope_jitter_coords: in training, multiply them by 1/this to this, drawn for rows and for columns.
        rope_rescale_coords: in training, multiply both by one such factor (DINOv3: 2). All three are drawn anew in
            every block and for every size of crops.
        interpolate_offset: added to the patch grid when position embeddings are resized. 0.1 reproduces DINOv2's
            training, 0 transformers' Dinov2Model.
        interpolate_antialias: antialias that resize (DINOv2 with registers does).
        layer_norm_eps: epsilon of every LayerNorm.
        untie_cls_and_patch_norms: the final norm of class and register tokens has weights of its own.
        untie_global_and_local_cls_norm: local crops in training, too, have a norm of their own (`forward_packed`).
        initializer_range: standard deviation of the normal initialisations.
        initialization: "dinov2", "dinov3" or "mae": how weights start; see `BioVFMPreTrainedModel`.
        pooling: what the image classifier reads: "cls", "mean" (of patch tokens) or "both".
        apply_layernorm: final norm on the backbone's feature maps.
        reshape_hidden_states: backbone feature maps as (B, D, H/p, W/p) instead of (B, tokens, D).
        segmentation_head: "linear" or "unet", see `BioVFMForSemanticSegmentation`.
        semantic_loss_ignore_index: label that the segmentation loss leaves out.
        encoder_stride: pixels that masked image modelling (SimMIM) predicts along each side of a patch token; it must
            be the patch size, which None stands for.
        mask_ratio: share of patches that the masked autoencoder hides.
        norm_pix_loss: the masked autoencoder predicts each patch normalised by its own mean and variance.
        decoder_hidden_size, decoder_num_hidden_layers, decoder_num_attention_heads: the MAE decoder.
    """

    model_type = "biovfm"

    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.stage_names = ["stem"] + [f"stage{index}" for index in range(1, self.num_hidden_layers + 1)]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        # whichever class is saved, its folder serves all of them under trust_remote_code=True
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        super().__post_init__(**kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As in transformers; the code saved beside the configuration is named by its content."""
        super().save_pretrained(save_directory, *args, **kwargs)
        _name_code_by_content(Path(save_directory))

    @property
    def num_patches(self) -> int:
        """Patches of an image of `image_size`."""
        return (self.image_size // self.patch_size) ** 2

    @classmethod
    def from_size(cls, name: str, family: str = "dinov2", **overrides: Any) -> "BioVFMConfig":
        """The configuration of a named size, from "vit-tiny" (5.5M parameters) to "vit-7b" (6.7B).

        Args:
            name: one of `sizes.SIZES`.
            family: "dinov2" (LayerScale, learned positions, SwiGLU in huge and giant), "dinov3" (rotary positions,
                four register tokens, no key bias) or "mae".
            **overrides: any field.

        Raises:
            ValueError: the size or family does not exist; the message lists the known ones.
        """
        size = named(name)
        if family not in FAMILY_FIELDS:
            raise ValueError(f"there is no family {family!r}; choose one of {', '.join(FAMILY_FIELDS)}")
        return cls(**{**size._asdict(), **FAMILY_FIELDS[family], **overrides})


def _name_code_by_content(folder: Path) -> None:
    file = folder / "configuration_biovfm.py"
    if not file.is_file():
        return
    line = re.compile(r'^SHIPPED_CODE = ".*"$', flags=re.MULTILINE)
    code = {path.name: line.sub("", path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.py"))}
    digest = hashlib.sha256(repr(code).encode()).hexdigest()[:16]
    file.write_text(line.sub(f'SHIPPED_CODE = "{digest}"', file.read_text(encoding="utf-8")), encoding="utf-8")


BioVFMConfig.register_for_auto_class()

__all__ = ["BioVFMConfig"]
