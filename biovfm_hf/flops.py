"""Formulas for the parameters of the models and the floating-point operations of a pretraining step.

Matrix products count, with two operations for a multiply-add, as in `torch.utils.flop_counter`; norms, softmax and
activations (below 1 %) do not. A backward pass costs as much as two forward passes, for the patch projection as one,
since the gradient of the pixels is not needed. Savings of the implementation (packed heads, unused rows of the last
block) are not subtracted, unless a switch says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from .errors import UserError
from .sizes import swiglu_width

# Operations a second of GPUs at their peak, dense products in bfloat16 (V100: float16), from the makers' data sheets.
PEAK_FLOPS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "L40S": 362e12, "V100": 125e12}
# The same of cards that reach less than the SXM module of that name, as the driver names them
CARD_PEAK_FLOPS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H200 NVL": 835e12}


@dataclass(frozen=True)
class Blocks:
    """A stack of transformer blocks.

    Attributes:
        width: D of the tokens.
        layers: number of blocks.
        hidden: width of the feed-forward.
        gated: a SwiGLU, whose first product makes gate and value.
        qkv_bias: biases in the query, key and value projections.
        layerscale: a learned gain per channel after both branches.
    """

    width: int
    layers: int
    hidden: int
    gated: bool = False
    qkv_bias: bool = True
    layerscale: bool = False

    @property
    def parameters(self) -> int:
        """Parameters of all blocks: two LayerNorms, attention, feed-forward, LayerScale."""
        width, inner = self.width, (2 if self.gated else 1) * self.hidden
        attention = 4 * width**2 + width + (3 * width if self.qkv_bias else 0)
        feed_forward = width * inner + inner + self.hidden * width + width
        return self.layers * (attention + feed_forward + 4 * width + (2 * width if self.layerscale else 0))

    def flops(self, tokens: float) -> float:
        """Operations of one forward pass of `tokens` tokens that attend to each other."""
        per_token = 4 * self.width**2 + (3 if self.gated else 2) * self.width * self.hidden
        return self.layers * (2 * per_token * tokens + 4 * tokens**2 * self.width)


@dataclass(frozen=True)
class Architecture:
    """The sizes of `BioVFMConfig` that determine parameters and operations, with its defaults."""

    hidden_size: int
    num_hidden_layers: int
    patch_size: int
    image_size: int = 224
    num_channels: int = 3
    mlp_ratio: float = 4.0
    ffn_type: str = "mlp"
    qkv_bias: bool = True
    layerscale_value: float | None = 1e-5
    num_register_tokens: int = 0
    use_mask_token: bool = False
    position_embedding_type: str = "learned"
    untie_cls_and_patch_norms: bool = False
    untie_global_and_local_cls_norm: bool = False
    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 8

    @classmethod
    def of(cls, config: Any) -> "Architecture":
        """The sizes of a `BioVFMConfig`, or of the mapping in a config.json.

        Raises:
            UserError: a size is missing or not a number.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(config, Mapping):
            return cls(**{name: getattr(config, name) for name in names})
        given = {name: config[name] for name in names if name in config}
        for name in ("hidden_size", "num_hidden_layers", "patch_size"):
            if not isinstance(given.get(name), int) or given[name] < 1:
                raise UserError(f"{name} is {given.get(name)!r}; it must be a whole number above 0")
        return cls(**given)

    @property
    def encoder(self) -> Blocks:
        """The encoder's blocks."""
        width, ratio, gated = self.hidden_size, self.mlp_ratio, self.ffn_type == "swiglu"
        hidden = swiglu_width(width, ratio) if gated else int(width * ratio)
        scaled = self.layerscale_value is not None
        return Blocks(width, self.num_hidden_layers, hidden, gated, self.qkv_bias, scaled)

    @property
    def decoder(self) -> Blocks:
        """The masked autoencoder's decoder: plain MLPs at every size."""
        width, scaled = self.decoder_hidden_size, self.layerscale_value is not None
        layers, hidden = self.decoder_num_hidden_layers, int(width * self.mlp_ratio)
        return Blocks(width, layers, hidden, False, self.qkv_bias, scaled)

    @property
    def patch_weights(self) -> int:
        """Weights of the projection from a patch's pixels to a token."""
        return self.num_channels * self.patch_size**2 * self.hidden_size

    def patches(self, side: int) -> int:
        """Patches of a square image of `side` pixels."""
        return (side // self.patch_size) ** 2

    def tokens(self, side: int, visible: float = 1.0) -> int:
        """Tokens of a square image if a share `visible` of its patches is encoded."""
        return int(self.patches(side) * visible) + 1 + self.num_register_tokens

    def forward_flops(self, side: int | None = None) -> float:
        """Operations of one forward pass of the encoder on an image of `side` pixels, by default its own size."""
        side = side or self.image_size
        return self.encoder.flops(self.tokens(side)) + 2 * self.patches(side) * self.patch_weights


@dataclass(frozen=True)
class Crops:
    """The crops of one image."""

    global_count: int
    global_size: int
    local_count: int
    local_size: int

    @property
    def sides(self) -> list[tuple[int, int]]:
        """(side in pixels, how many) of each kind of crop."""
        return [(self.global_size, self.global_count), (self.local_size, self.local_count)]


@dataclass(frozen=True)
class PrototypeHeads:
    """DINO's and iBOT's heads, each as (hidden width, layers of the MLP, bottleneck, prototypes).

    `masked_patches` is how many patches of an image are compared on average.
    """

    masked_patches: float
    cls_head: tuple[int, int, int, int]
    patch_head: tuple[int, int, int, int]

    def flops(self, width: int, cls_rows: float) -> float:
        """Operations of one forward pass of `cls_rows` class tokens of `width`, and of the masked patches."""
        cls_weights, patch_weights = (head_weights(width, *head) for head in (self.cls_head, self.patch_head))
        return 2 * (cls_rows * cls_weights + self.masked_patches * patch_weights)


def head_weights(width: int, hidden: int, layers: int, bottleneck: int, prototypes: int) -> int:
    """Weights of one head's matrix products: an MLP of `layers` from `width` to `bottleneck`, then the prototypes."""
    widths = [width, *[hidden] * (layers - 1), bottleneck, prototypes]
    return sum(before * after for before, after in pairwise(widths))


@dataclass(frozen=True)
class StepFlops:
    """Operations of one image in a step, forward and backward, by component."""

    student: float
    teacher: float = 0.0
    decoder: float = 0.0
    heads: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.student + self.teacher + self.decoder + self.heads


def step_flops(
    architecture: Architecture,
    crops: Crops,
    *,
    teacher: bool = False,
    decoder: bool = False,
    visible: float = 1.0,
    heads: PrototypeHeads | None = None,
    drop_path: float = 0.0,
) -> StepFlops:
    """Floating-point operations of one image in a pretraining step, forward and backward.

    DINOv2 is `teacher=True, heads=PrototypeHeads(...)`; MAE is `decoder=True, visible=0.25`, on one global crop.

    Args:
        architecture: the encoder's sizes, and the decoder's.
        crops: of one image; all pass the student.
        teacher: the global crops also pass a teacher forward.
        decoder: a decoder reads the visible tokens and predicts the pixels of the other patches.
        visible: share of the patches that the student encodes.
        heads: count the projection heads of student and teacher.
        drop_path: share of the images that stochastic depth leaves out in each of the student's blocks.
    """
    blocks, encoded = architecture.encoder, 0.0
    for side, count in crops.sides:
        tokens = architecture.tokens(side, visible)
        patches = tokens - 1 - architecture.num_register_tokens
        encoded += count * 3 * (1 - drop_path) * blocks.flops(tokens)
        encoded += count * 2 * 2 * patches * architecture.patch_weights
    taught = crops.global_count * architecture.forward_flops(crops.global_size) if teacher else 0.0
    projected = 0.0
    if heads is not None:
        rows = crops.global_count + crops.local_count
        projected += 3 * heads.flops(architecture.hidden_size, rows)
        projected += heads.flops(architecture.hidden_size, crops.global_count) if teacher else 0.0
    decoded = crops.global_count * _decoder_flops(architecture, crops.global_size, visible) if decoder else 0.0
    return StepFlops(encoded, taught, decoded, projected)


def _decoder_flops(architecture: Architecture, side: int, visible: float) -> float:
    """Operations of the decoder on one crop, forward and backward."""
    blocks, patches = architecture.decoder, architecture.patches(side)
    seen = architecture.tokens(side, visible)
    hidden = patches - int(patches * visible)
    embed = 2 * seen * architecture.hidden_size * blocks.width
    predict = 2 * hidden * blocks.width * architecture.patch_size**2 * architecture.num_channels
    return 3 * (embed + blocks.flops(patches + 1) + predict)


def encoder_parameters(config: Any, positions: bool = True) -> int:
    """Parameters of a BioVFM encoder from its `BioVFMConfig`.

    Args:
        config: the configuration.
        positions: count the position embeddings (fixed ones, too).
    """
    sizes = Architecture.of(config)
    width = sizes.hidden_size
    embeddings = sizes.patch_weights + width + width * (1 + sizes.num_register_tokens + bool(sizes.use_mask_token))
    rotary = sizes.position_embedding_type == "rope"
    embeddings += width * (1 + sizes.patches(sizes.image_size)) if positions and not rotary else 0
    norms = sizes.untie_cls_and_patch_norms + sizes.untie_global_and_local_cls_norm
    embeddings += 2 * width * norms
    return embeddings + sizes.encoder.parameters + 2 * width


def decoder_parameters(config: Any, positions: bool = True) -> int:
    """Parameters of the MAE decoder from a `BioVFMConfig`."""
    sizes = Architecture.of(config)
    width, pixels = sizes.decoder.width, sizes.patch_size**2 * sizes.num_channels
    total = sizes.hidden_size * width + width + width + sizes.decoder.parameters + 2 * width + width * pixels + pixels
    return total + (width * (1 + sizes.patches(sizes.image_size)) if positions else 0)
