"""Sizes of the vision transformers, apart from their configuration, which takes seconds to import."""

from typing import Literal, NamedTuple

MOST_PIXELS = 16_384  # along a side of an image or patch
Family = Literal["dinov2", "dinov3", "mae"]  # the architectures; `FAMILY_FIELDS` of the configuration has their fields


class Size(NamedTuple):
    """The fields of `BioVFMConfig` that a named size sets. MAE keeps the plain MLP at every size."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    patch_size: int = 16
    ffn_type: str = "mlp"
    mlp_ratio: float = 4.0
    qkv_bias: bool = True


# DINOv2's sizes, and those that DINOv3 adds (its S, B and L equal DINOv2's)
SIZES: dict[str, Size] = {
    "vit-tiny": Size(192, 12, 3),
    "vit-small": Size(384, 12, 6),
    "vit-small-plus": Size(384, 12, 6, ffn_type="swiglu", mlp_ratio=6.0),
    "vit-base": Size(768, 12, 12),
    "vit-large": Size(1024, 24, 16),
    "vit-huge": Size(1280, 32, 16, patch_size=14, ffn_type="swiglu"),
    "vit-huge-plus": Size(1280, 32, 20, ffn_type="swiglu", mlp_ratio=6.0),
    "vit-giant": Size(1536, 40, 24, patch_size=14, ffn_type="swiglu"),
    "vit-7b": Size(4096, 40, 32, ffn_type="swiglu", mlp_ratio=3.0, qkv_bias=False),
}


def named(name: str) -> Size:
    """The size with this name, one of `SIZES`.

    Raises:
        ValueError: there is none; the message lists the known ones.
    """
    if name not in SIZES:
        raise ValueError(f"there is no size {name!r}; choose one of {', '.join(SIZES)}")
    return SIZES[name]


def swiglu_width(hidden_size: int, mlp_ratio: float) -> int:
    """Hidden width of a SwiGLU: two thirds of the MLP's, rounded up to a multiple of 8 (DINOv2's `swiglu_ffn.py`)."""
    return (int(int(hidden_size * mlp_ratio) * 2 / 3) + 7) // 8 * 8


def check_patches(image_size: int, patch_size: int) -> None:
    """Refuse an image side that is not a whole number of patches.

    Raises:
        ValueError: names both numbers.
    """
    if image_size % patch_size:
        raise ValueError(f"image_size {image_size} is not a multiple of patch_size {patch_size}")
