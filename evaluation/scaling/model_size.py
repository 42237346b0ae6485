"""What a model size costs, counted from its configuration: parameters and floating-point operations.

The x axis of a scaling study decides its slope, so the choice is explicit: the numbers in the points file, encoder
parameters, the BioVFM paper's own axis, or pretraining compute.
"""

from collections.abc import Mapping
from typing import Any

from biovfm_hf.errors import UserError

from .tables import Point

AXES = ("given", "encoder", "published", "compute")
PAPER_AXIS = "published"
AXIS_LABELS = {
    "given": "Parameters (millions)",
    "encoder": "Encoder parameters (millions)",
    "published": "Encoder and MAE decoder parameters (millions)",
    "compute": "Pretraining compute (GFLOP per image)",
    "total_compute": "Pretraining compute (EFLOP)",
}
SIZE_NAMES = ("vit-tiny", "vit-small", "vit-base", "vit-large", "vit-huge", "vit-giant")
TOLERANCE = 0.02
# The default recipes: DINOv2 sees 2 global crops of 224 and 8 local ones of 96 pixels; MAE encodes a quarter.
DINO_CROPS = ((224, 2), (96, 8))


def block_parameters(
    width: int, mlp_ratio: float, ffn_type: str, qkv_bias: bool = True, layerscale: bool = False
) -> int:
    """Parameters of one transformer block: two LayerNorms, attention, feed-forward, LayerScale."""
    attention = 4 * width**2 + width + (3 * width if qkv_bias else 0)
    hidden = int(width * mlp_ratio)
    if ffn_type == "swiglu":
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        feed_forward = 3 * width * hidden + 2 * hidden + width
    else:
        feed_forward = 2 * width * hidden + hidden + width
    return attention + feed_forward + 4 * width + (2 * width if layerscale else 0)


def encoder_parameters(config: Any, positions: bool = True) -> int:
    """Parameters of a BioVFM encoder by formula from its `BioVFMConfig`.

    Args:
        config: the configuration.
        positions: count the position embeddings (fixed ones, too).
    """
    width, patch = config.hidden_size, config.patch_size
    embeddings = config.num_channels * patch**2 * width + width
    embeddings += width * (1 + config.num_register_tokens + bool(config.use_mask_token))
    embeddings += width * (1 + config.num_patches) if positions else 0
    layerscale = config.layerscale_value is not None
    block = block_parameters(width, config.mlp_ratio, config.ffn_type, config.qkv_bias, layerscale)
    return embeddings + config.num_hidden_layers * block + 2 * width


def decoder_parameters(config: Any, positions: bool = True) -> int:
    """Parameters of the MAE decoder by formula from a `BioVFMConfig`."""
    width = config.decoder_hidden_size
    pixels = config.patch_size**2 * config.num_channels
    layerscale = config.layerscale_value is not None
    block = block_parameters(width, config.mlp_ratio, "mlp", config.qkv_bias, layerscale)
    total = config.hidden_size * width + width + width + config.decoder_num_hidden_layers * block
    total += 2 * width + width * pixels + pixels
    return total + (width * (1 + config.num_patches) if positions else 0)


def published_parameters(name: str) -> int:
    """The BioVFM paper's x value of a size: MAE encoder and decoder without position embeddings, for both families."""
    from biovfm_hf.configuration_biovfm import BioVFMConfig

    config = BioVFMConfig.from_size(name, family="mae")
    return encoder_parameters(config, positions=False) + decoder_parameters(config, positions=False)


def forward_flops(layers: int, width: int, block: int, tokens: int) -> float:
    """Floating-point operations of one forward pass: two per weight and token, and attention's two products."""
    return layers * (2.0 * block * tokens + 4.0 * tokens**2 * width)


def pretraining_flops(name: str, objective: str) -> float:
    """Floating-point operations of one pretraining image, forward and backward (twice a forward), heads left out.

    Args:
        name: one of `SIZE_NAMES`.
        objective: "dino" (student on all crops, teacher forward on the global ones) or "mae" (encoder on a quarter
            of the patches, decoder on all).
    """
    from biovfm_hf.configuration_biovfm import BioVFMConfig

    config = BioVFMConfig.from_size(name, family="mae" if objective == "mae" else "dinov2")
    layers, width, patch = config.num_hidden_layers, config.hidden_size, config.patch_size
    block = block_parameters(width, config.mlp_ratio, config.ffn_type)
    if objective == "mae":
        visible = int(config.num_patches * (1 - config.mask_ratio)) + 1
        inner = config.decoder_hidden_size
        decoder = forward_flops(
            config.decoder_num_hidden_layers, inner, block_parameters(inner, 4, "mlp"), config.num_patches + 1
        )
        return 3 * (forward_flops(layers, width, block, visible) + decoder)
    crops = [(count, forward_flops(layers, width, block, (side // patch) ** 2 + 1)) for side, count in DINO_CROPS]
    return 3 * sum(count * flops for count, flops in crops) + crops[0][0] * crops[0][1]


def known_sizes() -> dict[str, tuple[float, float]]:
    """Encoder and published parameters in millions, by size name."""
    from biovfm_hf.configuration_biovfm import BioVFMConfig

    return {
        name: (encoder_parameters(BioVFMConfig.from_size(name)) / 1e6, published_parameters(name) / 1e6)
        for name in SIZE_NAMES
    }


def size_of(point: Point, known: Mapping[str, tuple[float, float]]) -> str:
    """The named size of a point: its `size`, or the one whose parameter count is within 2 % of the point's.

    Raises:
        UserError: no named size fits.
    """
    if point.size:
        if point.size not in known:
            raise UserError(f"unknown size {point.size!r}; known are: {', '.join(known)}")
        return point.size
    for name, counts in known.items():
        if any(abs(point.params / count - 1) <= TOLERANCE for count in counts):
            return name
    raise UserError(f"{point.params:g} M parameters are no named size ({point.series}); add a column size to the "
                    f"points, with one of: {', '.join(known)}")  # fmt: skip


def objective_of(family: str) -> str:
    """Whether a family is trained with DINO or MAE, by its name.

    Raises:
        UserError: the name tells neither.
    """
    words = family.lower()
    if "mae" in words or words.endswith("-m"):
        return "mae"
    if "dino" in words or words.endswith("-d"):
        return "dino"
    raise UserError(f"cannot tell the objective of family {family!r}, which --axis compute needs; "
                    "name it so that it contains dino or mae")  # fmt: skip


def axis_values(points: list[Point], axis: str) -> tuple[list[float], str]:
    """x values of points on an axis, and the axis' label.

    `compute` counts GFLOP per image, or EFLOP in all where every point has `images_millions`.

    Raises:
        UserError: unknown axis, or a point's size or objective cannot be told.
    """
    if axis not in AXES:
        raise UserError(f"unknown axis {axis!r}; choose one of: {', '.join(AXES)}")
    if axis == "given":
        return [point.params for point in points], AXIS_LABELS[axis]
    known = known_sizes()
    names = [size_of(point, known) for point in points]
    if axis == "encoder":
        return [known[name][0] for name in names], AXIS_LABELS[axis]
    if axis == "published":
        return [known[name][1] for name in names], AXIS_LABELS[axis]
    each = [pretraining_flops(n, objective_of(p.family)) for n, p in zip(names, points, strict=True)]
    if all(point.images > 0 for point in points):
        total = [flops * point.images * 1e6 / 1e18 for flops, point in zip(each, points, strict=True)]
        return total, AXIS_LABELS["total_compute"]
    return [flops / 1e9 for flops in each], AXIS_LABELS[axis]


def named_axis(points: list[Point], axis: str) -> str:
    """The axis on which a named size has its place beside the points: "encoder", "published" or "compute".

    Numbers that the points file gives are an axis of known sizes where every one is within 2 % of a named size's
    count on that axis. "" where there is none: other numbers, and compute in all, which depends on the images seen.
    """
    if axis == "compute":
        return "" if all(point.images > 0 for point in points) else axis
    if axis != "given":
        return axis
    for place, name in enumerate(("encoder", PAPER_AXIS)):
        counts = [each[place] for each in known_sizes().values()]
        if all(any(abs(point.params / count - 1) <= TOLERANCE for count in counts) for point in points):
            return name
    return ""
