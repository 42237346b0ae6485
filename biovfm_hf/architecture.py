"""The fields of the vision transformers and what these must meet, apart from their configuration.

To import the configuration takes seconds, as transformers imports torch for it.
"""

from dataclasses import dataclass
from typing import Any

from huggingface_hub.dataclasses import strict

from .sizes import check_patches

# the fields in which families differ; everything else is shared
FAMILY_FIELDS: dict[str, dict[str, Any]] = {
    "dinov2": {"layerscale_value": 1e-5, "position_embedding_type": "learned", "initialization": "dinov2"},
    "mae": {
        "layerscale_value": None,
        "position_embedding_type": "sincos",
        "initialization": "mae",
        "ffn_type": "mlp",
    },
    "dinov3": {
        "layerscale_value": 1e-5,
        "position_embedding_type": "rope",
        "initialization": "dinov3",
        "num_register_tokens": 4,
        "mask_key_bias": True,
        "layer_norm_eps": 1e-5,
    },
}


@dataclass(kw_only=True, repr=False, eq=False)
class Architecture:
    """Sizes and switches of a BioVFM vision transformer; `BioVFMConfig` explains each."""

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
    mask_key_bias: bool = False
    layerscale_value: float | int | None = 1e-5
    drop_path_rate: float | int = 0.0
    num_register_tokens: int = 0
    use_mask_token: bool = False
    position_embedding_type: str = "learned"
    rope_base: float | int = 100.0
    rope_min_period: float | int | None = None
    rope_max_period: float | int | None = None
    rope_normalize_coords: str = "separate"
    rope_dtype: str = "float32"
    rope_shift_coords: float | int | None = None
    rope_jitter_coords: float | int | None = None
    rope_rescale_coords: float | int | None = None
    interpolate_offset: float | int = 0.0
    interpolate_antialias: bool = False
    layer_norm_eps: float = 1e-6
    untie_cls_and_patch_norms: bool = False
    untie_global_and_local_cls_norm: bool = False
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

    def validate_architecture(self) -> None:
        """Refuse sizes that cannot be built together; called on construction.

        Raises:
            ValueError: names the field, its value and what it must fit.
        """
        check_patches(self.image_size, self.patch_size)
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
        if self.position_embedding_type == "rope":
            self._validate_rope()
        choices = {
            "ffn_type": ("mlp", "swiglu"),
            "position_embedding_type": ("learned", "sincos", "rope"),
            "rope_normalize_coords": ("separate", "max", "min"),
            "rope_dtype": ("float32", "bfloat16"),
            "initialization": ("dinov2", "dinov3", "mae"),
            "pooling": ("cls", "mean", "both"),
            "segmentation_head": ("linear", "unet"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")

    def _validate_rope(self) -> None:
        head = self.hidden_size // self.num_attention_heads
        if head % 4:
            raise ValueError(
                f"rotary positions need a head of a multiple of 4; hidden_size {self.hidden_size} by "
                f"num_attention_heads {self.num_attention_heads} is {head}"
            )
        if (self.rope_min_period is None) != (self.rope_max_period is None):
            raise ValueError("give both rope_min_period and rope_max_period, or neither for the periods of rope_base")
        for name in ("rope_base", "rope_min_period", "rope_max_period"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"{name} {value} must be above 0")
        if self.rope_shift_coords is not None and self.rope_shift_coords < 0:
            raise ValueError(f"rope_shift_coords {self.rope_shift_coords} must be at least 0")
        for name in ("rope_jitter_coords", "rope_rescale_coords"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} {value} is a factor and must be at least 1")


@strict
@dataclass(kw_only=True)
class CheckedArchitecture(Architecture):
    """The same as a class of its own, which checks types and values on construction as `BioVFMConfig` does."""
