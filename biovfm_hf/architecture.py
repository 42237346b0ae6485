"""The fields of the vision transformers and what these must meet, apart from their configuration.

To import the configuration takes seconds, as transformers imports torch for it.
"""

from dataclasses import Field, dataclass, fields
from typing import Any

from huggingface_hub.dataclasses import strict

from .ranges import ranged
from .sizes import MOST_PIXELS, check_patches

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

# the names that transformers has for activations without parameters
ACTIVATIONS = (
    *("gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh"),
    *("gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "quick_gelu"),
    *("relu", "relu2", "relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh"),
)


@dataclass(kw_only=True, repr=False, eq=False)
class Architecture:
    """Sizes and switches of a BioVFM vision transformer; `BioVFMConfig` explains each."""

    image_size: int = ranged(224, 1, MOST_PIXELS)
    patch_size: int = ranged(16, 1, MOST_PIXELS)
    num_channels: int = ranged(3, 1, 1024)
    hidden_size: int = ranged(384, 1, 65_536)
    num_hidden_layers: int = ranged(12, 1, 1000)
    num_attention_heads: int = ranged(6, 1, 65_536)
    mlp_ratio: float | int = ranged(4.0, 0.01, 100)
    ffn_type: str = "mlp"
    hidden_act: str = "gelu"
    qkv_bias: bool = True
    mask_key_bias: bool = False
    layerscale_value: float | int | None = ranged(1e-5, 0, 1000)
    drop_path_rate: float | int = 0.0
    num_register_tokens: int = ranged(0, 0, 1024)
    use_mask_token: bool = False
    position_embedding_type: str = "learned"
    rope_base: float | int = ranged(100.0, 1e-6)
    rope_min_period: float | int | None = ranged(None, 1e-6)
    rope_max_period: float | int | None = ranged(None, 1e-6)
    rope_normalize_coords: str = "separate"
    rope_dtype: str = "float32"
    rope_shift_coords: float | int | None = ranged(None, 0, 1000)
    rope_jitter_coords: float | int | None = ranged(None, 1, 1000)
    rope_rescale_coords: float | int | None = ranged(None, 1, 1000)
    interpolate_offset: float | int = ranged(0.0, 0, 1)
    interpolate_antialias: bool = False
    layer_norm_eps: float = ranged(1e-6, 0, 1)
    untie_cls_and_patch_norms: bool = False
    untie_global_and_local_cls_norm: bool = False
    initializer_range: float = ranged(0.02, 0, 10)
    initialization: str = "dinov2"
    pooling: str = "both"
    apply_layernorm: bool = True
    reshape_hidden_states: bool = True
    segmentation_head: str = "linear"
    semantic_loss_ignore_index: int = ranged(255)
    encoder_stride: int | None = ranged(None, 1, MOST_PIXELS)
    mask_ratio: float | int = 0.75
    norm_pix_loss: bool = True
    decoder_hidden_size: int = ranged(512, 1, 65_536)
    decoder_num_hidden_layers: int = ranged(8, 1, 1000)
    decoder_num_attention_heads: int = ranged(16, 1, 65_536)

    def validate_architecture(self) -> None:
        """Refuse sizes that cannot be built together; called on construction.

        Raises:
            ValueError: names the field, its value and what it must fit.
        """
        for item in fields(Architecture):
            _check_range(item, getattr(self, item.name))
        check_patches(self.image_size, self.patch_size)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
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
            "hidden_act": ACTIVATIONS,
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


@strict
@dataclass(kw_only=True)
class CheckedArchitecture(Architecture):
    """The same as a class of its own, which checks types and values on construction as `BioVFMConfig` does."""


def check_field(name: str, value: Any) -> None:
    """Refuse a value that a field cannot have, whatever the others are.

    Raises:
        ValueError, TypeError: it has another type, or is outside the field's range.
    """
    setattr(CheckedArchitecture(), name, value)
    _check_range({item.name: item for item in fields(Architecture)}[name], value)


def _check_range(item: "Field[Any]", value: Any) -> None:
    limit = item.metadata.get("range")
    if limit and (fault := limit.fault(value)):
        raise ValueError(f"{item.name} is {value}; {fault}")
