"""Configuration of the BioVFM vision transformers: one ViT that covers DINOv2's and MAE's architectures."""

import hashlib
import re
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

# hidden size, layers, heads, patch size, feed-forward of DINOv2's family (MAE keeps the plain MLP at every size)
SIZES: dict[str, tuple[int, int, int, int, str]] = {
    "vit-tiny": (192, 12, 3, 16, "mlp"),
    "vit-small": (384, 12, 6, 16, "mlp"),
    "vit-base": (768, 12, 12, 16, "mlp"),
    "vit-large": (1024, 24, 16, 16, "mlp"),
    "vit-huge": (1280, 32, 16, 14, "swiglu"),
    "vit-giant": (1536, 40, 24, 14, "swiglu"),
}

# what sets the two families apart; everything else is shared
FAMILIES: dict[str, dict[str, Any]] = {
    "dinov2": {"layerscale_value": 1e-5, "position_embedding_type": "learned", "initialization": "dinov2"},
    "mae": {
        "layerscale_value": None,
        "position_embedding_type": "sincos",
        "initialization": "mae",
        "ffn_type": "mlp",
    },
}

# `save_pretrained` writes into its copy of this file what the code beside it holds: transformers finds a model's class
# by its configuration's, and would run the code of the first of two folders of one name for the second
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
class BioVFMConfig(BackboneConfigMixin, PreTrainedConfig):
    """Sizes and switches of a BioVFM vision transformer. `from_size` gives the six named ones.

    Args:
        image_size: side in pixels of the square images that the position embeddings are laid out for.
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
        layerscale_value: initial value of LayerScale; None for a model without it (MAE).
        drop_path_rate: stochastic depth, the same in every block; drops whole images of a batch (never the last one),
            in training mode only.
        num_register_tokens: register tokens between the class token and the patch tokens.
        use_mask_token: hold a mask token (DINOv2's pretraining). Heads and the backbone leave it out, since nothing
            would train it; masked image modelling always has one.
        position_embedding_type: "learned", or "sincos" (fixed, MAE).
        interpolate_offset: added to the patch grid when position embeddings are resized. 0.1 reproduces DINOv2's
            training, 0 transformers' Dinov2Model.
        interpolate_antialias: antialias that resize (DINOv2 with registers does).
        layer_norm_eps: epsilon of every LayerNorm.
        initializer_range: standard deviation of the normal initialisations.
        initialization: "dinov2" or "mae": how weights start; see `BioVFMPreTrainedModel`.
        pooling: what the image classifier reads: "cls", "mean" (of patch tokens) or "both".
        apply_layernorm: final norm on the backbone's feature maps.
        reshape_hidden_states: backbone feature maps as (B, D, H/p, W/p) instead of (B, tokens, D).
        segmentation_head: "linear" or "unet", see `BioVFMForSemanticSegmentation`.
        semantic_loss_ignore_index: label that the segmentation loss leaves out.
        encoder_stride: pixels that masked image modelling (SimMIM) predicts along each side of a patch token; None, as
            it must be, is the patch size.
        mask_ratio: share of patches that the masked autoencoder hides.
        norm_pix_loss: the masked autoencoder predicts each patch normalised by its own mean and variance.
        decoder_hidden_size, decoder_num_hidden_layers, decoder_num_attention_heads: the MAE decoder.
    """

    model_type = "biovfm"

    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    hidden_size: int = 384
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    mlp_ratio: float | int = 4.0
    ffn_type: str = "mlp"
    hidden_act: str = "gelu"
    qkv_bias: bool = True
    layerscale_value: float | int | None = 1e-5
    drop_path_rate: float | int = 0.0
    num_register_tokens: int = 0
    use_mask_token: bool = False
    position_embedding_type: str = "learned"
    interpolate_offset: float | int = 0.0
    interpolate_antialias: bool = False
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    initialization: str = "dinov2"
    pooling: str = "both"
    apply_layernorm: bool = True
    reshape_hidden_states: bool = True
    segmentation_head: str = "linear"
    semantic_loss_ignore_index: int = 255
    encoder_stride: int | None = None
    mask_ratio: float | int = 0.75
    norm_pix_loss: bool = True
    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 8
    decoder_num_attention_heads: int = 16
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

    def validate_architecture(self) -> None:
        """Refuse sizes that cannot be built together; called on construction.

        Raises:
            ValueError: names the field, its value and what it must fit.
        """
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        for name in ("num_hidden_layers", "decoder_num_hidden_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if self.decoder_hidden_size % self.decoder_num_attention_heads or self.decoder_hidden_size % 4:
            raise ValueError(
                f"decoder_hidden_size {self.decoder_hidden_size} is not a multiple of decoder_num_attention_heads "
                f"{self.decoder_num_attention_heads} and of 4"
            )
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate {self.drop_path_rate} must be at least 0 and below 1")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio {self.mask_ratio} must lie between 0 and 1")
        if self.position_embedding_type == "sincos" and self.hidden_size % 4:
            raise ValueError(f"sincos position embeddings need hidden_size {self.hidden_size} to be a multiple of 4")
        choices = {
            "ffn_type": ("mlp", "swiglu"),
            "position_embedding_type": ("learned", "sincos"),
            "initialization": ("dinov2", "mae"),
            "pooling": ("cls", "mean", "both"),
            "segmentation_head": ("linear", "unet"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As transformers has it; the code that is saved beside is named by its content."""
        super().save_pretrained(save_directory, *args, **kwargs)
        _name_code_by_content(Path(save_directory))

    @property
    def num_patches(self) -> int:
        """Patches of an image of `image_size`."""
        return (self.image_size // self.patch_size) ** 2

    @classmethod
    def from_size(cls, name: str, family: str = "dinov2", **overrides: Any) -> "BioVFMConfig":
        """The configuration of a named size, from "vit-tiny" (5.5M parameters) to "vit-giant" (1.13B).

        Args:
            name: one of `SIZES`.
            family: "dinov2" (LayerScale, learned positions, SwiGLU in huge and giant) or "mae".
            **overrides: any field.

        Raises:
            ValueError: the size or family does not exist; the message lists those that do.
        """
        if name not in SIZES:
            raise ValueError(f"there is no size {name!r}; choose one of {', '.join(SIZES)}")
        if family not in FAMILIES:
            raise ValueError(f"there is no family {family!r}; choose one of {', '.join(FAMILIES)}")
        hidden_size, layers, heads, patch_size, ffn_type = SIZES[name]
        fields: dict[str, Any] = {
            "hidden_size": hidden_size,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "patch_size": patch_size,
            "ffn_type": ffn_type,
        }
        return cls(**{**fields, **FAMILIES[family], **overrides})


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
