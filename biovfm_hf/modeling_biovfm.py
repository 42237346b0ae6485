"""BioVFM models: one vision transformer for the DINOv2, DINOv3 and MAE families, its backbone, heads and MAE decoder.

The architecture follows DINOv2 (arXiv 2304.07193; registers: 2309.16588), DINOv3 (2508.10104) and MAE (2111.06377).
Shapes in comments: B images, N patch tokens, R registers, T tokens over all images of a packed batch, D hidden size.
"""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneMixin, filter_output_hidden_states
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BackboneOutput,
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
    MaskedImageModelingOutput,
    SemanticSegmenterOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput, output_capturing
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_biovfm import BioVFMConfig
from .positions import (
    draw_rotary,
    exporting,
    resize_position_embeddings,
    rotary_coordinates,
    rotary_periods,
    rotary_tables,
    rotate,
    sincos_position_embeddings,
)
from .sizes import swiglu_width

# Names in a list of `output_hidden_states`: blocks in transformers 5.18, in newer versions the embeddings too.
_LISTS_NAME_EMBEDDINGS = hasattr(output_capturing, "select_hidden_states")
# parts of a pretraining checkpoint that heads leave out, since they would not be trained
_PRETRAINED_ONLY = [r"embeddings\.mask_token$", r"\blocal_cls_norm\."]

# A packed batch of tokens (T, D) is a row of groups; a group is `batch` images of `length` tokens each.
Groups = list[tuple[int, int]]
# Sines and cosines (N, d) that rotate the patch tokens of each group (without packing there is one group).
Rotations = Sequence[tuple[Tensor, Tensor]] | None


def cut_patches(pixel_values: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) -> (B, N, p * p * C), patches and the pixels of a patch in row-major order, channels last."""
    columns = pixel_values.unflatten(3, (-1, patch_size))
    return columns.unflatten(2, (-1, patch_size)).permute(0, 2, 4, 3, 5, 1).flatten(1, 2).flatten(2)


def take_tokens(tokens: Tensor, indices: Tensor) -> Tensor:
    """(B, N, D) tokens and (B, K) int -> (B, K, D), each image's tokens of these indices."""
    batch, length = tokens.shape[:2]
    rows = indices + torch.arange(batch, device=indices.device)[:, None] * length
    return tokens.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, indices.shape)


class BioVFMPatchProjection(nn.Conv2d):
    """The patches' convolution, a class of its own because `_init_weights` gets each module without its context."""


class BioVFMPatchEmbeddings(nn.Module):
    """Non-overlapping patches, each projected to a token."""

    def __init__(self, config: BioVFMConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.num_channels = config.num_channels
        self.projection = BioVFMPatchProjection(
            config.num_channels, config.hidden_size, config.patch_size, config.patch_size
        )

    def forward(self, pixel_values: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, N, D), patches in row-major order, or (B, K, D) of the patches `ids_keep` (B, K) alone.

        Raises:
            ValueError: no batch, another number of channels, or sides that are no multiple of the patch size.
        """
        if not exporting():  # a check would fix the traced sizes in the graph
            self._check(pixel_values)
        pixel_values = pixel_values.to(self.projection.weight.dtype)
        if ids_keep is None:
            return self.projection(pixel_values).flatten(2).transpose(1, 2)
        patches = take_tokens(cut_patches(pixel_values, self.patch_size), ids_keep)
        weight = self.projection.weight.permute(0, 2, 3, 1).flatten(1)  # (D, p * p * C)
        return nn.functional.linear(patches, weight, self.projection.bias)

    def _check(self, pixel_values: Tensor) -> None:
        if pixel_values.ndim != 4:
            raise ValueError(f"pixel_values must be (batch, channels, height, width), not {tuple(pixel_values.shape)}")
        channels, height, width = pixel_values.shape[-3:]
        if channels != self.num_channels:
            raise ValueError(f"pixel_values have {channels} channels; this model takes {self.num_channels}")
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"images of {height}x{width} pixels cannot be cut into patches of {self.patch_size}; "
                f"resize them to a multiple of {self.patch_size}"
            )


class BioVFMEmbeddings(nn.Module):
    """Class token, registers, patch tokens with their positions, and DINOv2's mask token."""

    def __init__(self, config: BioVFMConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width)) if config.use_mask_token else None
        registers = config.num_register_tokens
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        self.patch_embeddings = BioVFMPatchEmbeddings(config)
        learned = config.position_embedding_type == "learned"
        self.position_embeddings = None
        if config.position_embedding_type != "rope":  # positions are applied in the attention
            table = torch.zeros(1, 1 + config.num_patches, width)
            self.position_embeddings = nn.Parameter(table, requires_grad=learned)

    def positions(self, height: int, width: int) -> Tensor:
        """Position embeddings (1, 1 + N, D) for images of `height` x `width` pixels."""
        patch = self.config.patch_size
        grid = (height // patch, width // patch)
        config = self.config
        table = cast(Tensor, self.position_embeddings)
        return resize_position_embeddings(table, grid, config.interpolate_offset, config.interpolate_antialias)

    def forward(
        self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None, ids_keep: Tensor | None = None
    ) -> Tensor:
        """(B, C, H, W) -> (B, 1 + R + N, D).

        Args:
            bool_masked_pos: (B, N) bool; the mask token stands for these patches (before positions are added).
            ids_keep: (B, K) patch indices; only these patch tokens are kept, in this order (MAE).

        Raises:
            ValueError: a mask without a mask token, or `ids_keep` with rotary positions, which take all patches.
        """
        tokens = self.patch_embeddings(pixel_values, ids_keep)
        if bool_masked_pos is not None:
            if self.mask_token is None:
                raise ValueError("bool_masked_pos needs a mask token; build the model with use_mask_token=True")
            mask_token = self.mask_token.to(tokens.dtype)
            masked = bool_masked_pos.bool() if ids_keep is None else bool_masked_pos.bool().gather(1, ids_keep)
            tokens = torch.where(masked[..., None], mask_token, tokens)
        cls_token: Tensor = self.cls_token
        if self.position_embeddings is not None:
            positions = self.positions(*pixel_values.shape[-2:])
            tokens = tokens + (positions[:, 1:] if ids_keep is None else positions[0, 1:][ids_keep])
            cls_token = cls_token + positions[:, :1]
        elif ids_keep is not None:
            raise ValueError(
                "ids_keep leaves patches out, which rotary positions cannot do; use learned or sincos ones"
            )
        first = [cls_token]
        if self.register_tokens is not None:
            first.append(self.register_tokens)
        prefix = torch.cat(first, dim=1).expand(tokens.shape[0], -1, -1)
        return torch.cat([prefix, tokens], dim=1)


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Softmax attention that also returns its weights: (B, heads, N, d) -> (B, N, heads, d) and (B, heads, N, N)."""
    weights = (query * scaling @ key.transpose(2, 3)).softmax(dim=-1)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class BioVFMQueryKeyValue(nn.Linear):
    """The fused projection of DINOv3: the keys' bias stays in the weights but is not added.

    The keys' bias cancels in the softmax, but no longer once rotary positions turn the keys.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., D) -> (..., 3 D)."""
        query, key, value = cast(Tensor, self.bias).chunk(3)
        return nn.functional.linear(hidden_states, self.weight, torch.cat([query, torch.zeros_like(key), value]))


class BioVFMAttention(nn.Module):
    """Multi-head self-attention with one fused projection, through transformers' attention interface."""

    is_causal = False

    def __init__(self, config: BioVFMConfig) -> None:
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        linear = BioVFMQueryKeyValue if config.mask_key_bias and config.qkv_bias else nn.Linear
        self.qkv = linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: Tensor, groups: Groups | None = None, rotations: Rotations = None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, N, D), or packed (T, D) with its groups, to the same shape; attention never crosses images."""
        attended, weights = self.attend(hidden_states, groups, rotations)
        return self.proj(attended), weights

    def attend(
        self, hidden_states: Tensor, groups: Groups | None = None, rotations: Rotations = None
    ) -> tuple[Tensor, Tensor | None]:
        """Compute `forward` without the output projection."""
        qkv = self.qkv(hidden_states)
        if groups is None:
            return self._attend(qkv, rotations[0] if rotations else None)
        parts = qkv.split([batch * length for batch, length in groups])
        turns: Sequence[tuple[Tensor, Tensor] | None] = rotations or [None] * len(groups)
        attended = [
            self._attend(part.view(*group, -1), rotation)[0].flatten(0, 1)
            for part, group, rotation in zip(parts, groups, turns, strict=True)
        ]
        return torch.cat(attended), None

    def _attend(self, qkv: Tensor, rotation: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor | None]:
        batch, length, _ = qkv.shape
        parts = qkv.view(batch, length, 3, self.num_heads, self.head_dim).unbind(2)
        query, key, value = (part.transpose(1, 2) for part in parts)  # (B, heads, N, d) each
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended, weights = interface(self, query, key, value, None, dropout=0.0, scaling=self.scaling)
        return attended.reshape(batch, length, -1), weights


class BioVFMLayerScale(nn.Module):
    """A learned gain per channel."""

    def __init__(self, config: BioVFMConfig) -> None:
        super().__init__()
        self.initial_value = float(cast(float, config.layerscale_value))  # a whole number would make whole weights
        self.gamma = nn.Parameter(torch.full((config.hidden_size,), self.initial_value))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Scale the last axis."""
        return hidden_states * self.gamma


class BioVFMMLP(nn.Module):
    """Two linear layers around an activation."""

    def __init__(self, config: BioVFMConfig) -> None:
        super().__init__()
        width = int(config.hidden_size * config.mlp_ratio)
        self.fc1 = nn.Linear(config.hidden_size, width)
        self.act = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(width, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.fc2(self.act(self.fc1(hidden_states)))


class BioVFMSwiGLU(nn.Module):
    """DINOv2's fused SwiGLU (`dinov2/layers/swiglu_ffn.py`): w12 holds gate and value."""

    def __init__(self, config: BioVFMConfig) -> None:
        super().__init__()
        width = swiglu_width(config.hidden_size, config.mlp_ratio)
        self.w12 = nn.Linear(config.hidden_size, 2 * width)
        self.w3 = nn.Linear(width, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        gate, value = self.w12(hidden_states).chunk(2, dim=-1)
        return self.w3(nn.functional.silu(gate) * value)


class BioVFMLayer(GradientCheckpointingLayer):
    """A pre-norm transformer block.

    In training, stochastic depth runs each branch on a random subset of the images and scales its output by
    batch / kept, so that dropped images cost nothing (DINOv2, `dinov2/layers/block.py`).
    """

    def __init__(self, config: BioVFMConfig) -> None:
        super().__init__()
        self.drop_path_rate = config.drop_path_rate
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = BioVFMAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = BioVFMSwiGLU(config) if config.ffn_type == "swiglu" else BioVFMMLP(config)
        scaled = config.layerscale_value is not None
        self.layer_scale1 = BioVFMLayerScale(config) if scaled else nn.Identity()
        self.layer_scale2 = BioVFMLayerScale(config) if scaled else nn.Identity()

    def forward(
        self,
        hidden_states: Tensor,
        groups: Groups | None = None,
        output_rows: Tensor | None = None,
        rotations: Rotations = None,
    ) -> Tensor:
        """(B, N, D), or packed (T, D) with groups, to the same shape; with `output_rows` (W,) to those rows only."""
        if groups is not None and output_rows is not None:
            return self._forward_rows(hidden_states, groups, output_rows, rotations)
        hidden_states = self._add(partial(self._attention_branch, rotations=rotations), hidden_states, groups)
        return self._add(self._mlp_branch, hidden_states, groups)

    def _forward_rows(
        self, hidden_states: Tensor, groups: Groups, output_rows: Tensor, rotations: Rotations
    ) -> Tensor:
        """Compute keys and values of all tokens, but the layers after the attention for the output rows only.

        Stochastic depth draws the same images as in `_add`. An output row of a dropped image gets weight 0 and is not
        left out, so that no shape depends on the draw (which would make the host wait for a GPU).
        """
        residual = hidden_states.index_select(0, output_rows)
        if not self.training or self.drop_path_rate == 0.0:
            attended = self.attention.attend(self.norm1(hidden_states), groups, rotations)[0].index_select(
                0, output_rows
            )
            residual = residual + self.layer_scale1(self.attention.proj(attended))
            return residual + self._mlp_branch(residual, None)
        rows, scale, kept = _sample_rows(groups, self.drop_path_rate, hidden_states)
        attended = self.attention.attend(self.norm1(hidden_states[rows]), kept, rotations)[0]
        place = rows.new_zeros(len(hidden_states)).index_copy(0, rows, torch.arange(len(rows), device=rows.device))
        attended = attended.index_select(0, place[output_rows])
        branch = self.layer_scale1(self.attention.proj(attended))
        residual = residual + branch * _spread(rows, scale, len(hidden_states))[output_rows]
        rows, scale, _ = _sample_rows(groups, self.drop_path_rate, hidden_states)
        return residual + self._mlp_branch(residual, None) * _spread(rows, scale, len(hidden_states))[output_rows]

    def _attention_branch(self, hidden_states: Tensor, groups: Groups | None, rotations: Rotations = None) -> Tensor:
        return self.layer_scale1(self.attention(self.norm1(hidden_states), groups, rotations)[0])

    def _mlp_branch(self, hidden_states: Tensor, groups: Groups | None) -> Tensor:
        return self.layer_scale2(self.mlp(self.norm2(hidden_states)))

    def _add(self, branch: Callable, hidden_states: Tensor, groups: Groups | None) -> Tensor:
        if not self.training or self.drop_path_rate == 0.0:
            return hidden_states + branch(hidden_states, groups)
        if groups is None:  # an image is one row of (B, N, D)
            rows, scale, _ = _sample_rows([(len(hidden_states), 1)], self.drop_path_rate, hidden_states)
            return hidden_states.index_add(0, rows, branch(hidden_states[rows], None) * scale[..., None])
        rows, scale, kept = _sample_rows(groups, self.drop_path_rate, hidden_states)
        return hidden_states.index_add(0, rows, branch(hidden_states[rows], kept) * scale)


def _sample_rows(groups: Groups, drop_rate: float, like: Tensor) -> tuple[Tensor, Tensor, Groups]:
    """Draw the images that a branch runs on: token rows (K,), their scale (K, 1), and the remaining groups."""
    rows, scales, kept = [], [], []
    start = 0
    for batch, length in groups:
        keep = max(int(batch * (1 - drop_rate)), 1)
        images = torch.randperm(batch, device=like.device)[:keep]
        tokens = torch.arange(length, device=like.device)
        rows.append((start + images[:, None] * length + tokens).flatten())
        scales.append(like.new_full((keep * length, 1), batch / keep))
        kept.append((keep, length))
        start += batch * length
    return torch.cat(rows), torch.cat(scales), kept


def _spread(rows: Tensor, scale: Tensor, total: int) -> Tensor:
    """Weights (total, 1): the scale (K, 1) at the rows (K,) that were drawn, 0 at the others."""
    return scale.new_zeros(total, 1).index_copy(0, rows, scale)


class BioVFMPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation shared by the BioVFM models.

    `initialization="dinov2"` (`dinov2/models/vision_transformer.py`): linear weights and learned positions truncated
    normal 0.02, patch projection by torch's default for a convolution, class and register tokens normal 1e-6.
    `initialization="dinov3"`: the same, but class and register tokens normal 0.02.
    `initialization="mae"` (`mae/models_mae.py`): Xavier uniform (the patch projection as a linear layer, its bias by
    torch's default), class and mask tokens normal 0.02.
    """

    config: BioVFMConfig
    config_class = BioVFMConfig
    base_model_prefix = "biovfm"
    main_input_name = "pixel_values"
    # losses are means over a batch, so Trainer has to divide by the accumulation steps
    accepts_loss_kwargs = False
    input_modalities = ["image"]  # noqa: RUF012  (transformers' class-level conventions)
    supports_gradient_checkpointing = True
    _no_split_modules = ["BioVFMEmbeddings", "BioVFMLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": BioVFMLayer, "attentions": BioVFMAttention}  # noqa: RUF012
    _input_embed_layer = "patch_embeddings"

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but fixed position embeddings, which loading would make trainable, stay fixed."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # output_loading_info=True
        for module in model.modules():
            if isinstance(module, BioVFMEmbeddings | BioVFMDecoder) and module.position_embeddings is not None:
                learned = module.config.position_embedding_type == "learned"
                module.position_embeddings.requires_grad_(learned)
        return loaded

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        mae = self.config.initialization == "mae"
        std = self.config.initializer_range
        register_std = std if self.config.initialization == "dinov3" else 1e-6
        if isinstance(module, BioVFMPatchProjection):
            _init_patch_projection(module, mae)
        elif isinstance(module, nn.Linear):
            if mae:
                init.xavier_uniform_(module.weight)
            else:
                init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, BioVFMLayerScale):
            init.constant_(module.gamma, module.initial_value)
        elif isinstance(module, BioVFMEmbeddings):
            init.normal_(module.cls_token, std=std if mae else register_std)
            if module.register_tokens is not None:
                init.normal_(module.register_tokens, std=register_std)
            if module.mask_token is not None:
                init.zeros_(module.mask_token)
            if module.position_embeddings is not None:
                _init_positions(module.position_embeddings, module.config, std)
        elif isinstance(module, BioVFMDecoder):
            init.normal_(module.mask_token, std=std)
            _init_positions(module.position_embeddings, module.config, std)
        else:
            super()._init_weights(module)


def _init_patch_projection(projection: BioVFMPatchProjection, mae: bool) -> None:
    width, fan_in = projection.weight.shape[0], projection.weight[0].numel()
    default = fan_in**-0.5  # torch's default for a convolution, which both families keep for the bias
    bound = math.sqrt(6 / (width + fan_in)) if mae else default  # Xavier's for a (D, p * p * C) linear layer
    init.uniform_(projection.weight, -bound, bound)
    init.uniform_(cast(Tensor, projection.bias), -default, default)


def _init_positions(positions: Tensor, config: BioVFMConfig, std: float) -> None:
    if config.position_embedding_type == "sincos":
        init.copy_(positions, sincos_position_embeddings(positions.shape[-1], math.isqrt(positions.shape[1] - 1)))
    else:
        init.trunc_normal_(positions, std=std)


def _of_head(config: BioVFMConfig, mask_token: bool = False) -> BioVFMConfig:
    """`config`, or a copy without the parameters that a head does not train, since DDP fails on them.

    Args:
        config: the encoder's configuration, for instance of its pretraining; it is not changed.
        mask_token: whether the head trains one.
    """
    if config.use_mask_token == mask_token and not config.untie_global_and_local_cls_norm:
        return config
    config = copy.deepcopy(config)
    config.use_mask_token = mask_token
    config.untie_global_and_local_cls_norm = False  # no head sees local crops
    return config


class BioVFMModel(BioVFMPreTrainedModel):
    """The vision transformer: images to normed tokens."""

    def __init__(self, config: BioVFMConfig) -> None:
        super().__init__(config)
        self.embeddings = BioVFMEmbeddings(config)
        self.layers = nn.ModuleList([BioVFMLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.cls_norm = copy.deepcopy(self.norm) if config.untie_cls_and_patch_norms else None
        self.local_cls_norm = copy.deepcopy(self.norm) if config.untie_global_and_local_cls_norm else None
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        ids_keep: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode images.

        Args:
            pixel_values: (B, C, H, W), H and W multiples of the patch size.
            bool_masked_pos: (B, N) bool: patches that the mask token replaces.
            ids_keep: (B, K) int: the only patches that are encoded, in this order (MAE).

        Returns:
            last_hidden_state (B, 1 + R + N, D): class token, registers, patch tokens after the final norm;
            pooler_output (B, D): the normed class token. `output_hidden_states=True` adds the embeddings and every
            block's output without the final norm; `output_attentions=True` adds the attention weights after
            `set_attn_implementation("eager")` (the fused implementations never hold them).
        """
        hidden_states = self.embeddings(pixel_values, bool_masked_pos, ids_keep)
        for layer, rotations in zip(self.layers, self._rotations([pixel_values]), strict=True):
            hidden_states = layer(hidden_states, rotations=rotations)
        tokens = self.final_norm(hidden_states)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=tokens[:, 0])

    def final_norm(self, tokens: Tensor, rows: Tensor | None = None, local: bool = False) -> Tensor:
        """Norm the last block's tokens; class and register tokens may have weights of their own.

        Args:
            tokens: (..., 1 + R + N, D), or any (W, D) with their `rows` (W,) within an image.
            rows: each token's place in its image, by default its row.
            local: the tokens are of local crops.
        """
        first_norm = self.local_cls_norm if local and self.training and self.local_cls_norm else self.cls_norm
        if first_norm is None:
            return self.norm(tokens)
        rows = torch.arange(tokens.shape[-2], device=tokens.device) if rows is None else rows
        first = rows[:, None] < 1 + self.config.num_register_tokens
        return torch.where(first, first_norm(tokens), self.norm(tokens))

    def _rotations(self, batches: Sequence[Tensor]) -> list[Rotations]:
        """For every block, the rotations of each batch's (B, C, H, W) patch tokens; None without rotary positions.

        Random changes in training are drawn for every block, in the order of the batches, and shared by their images.
        """
        config, device = self.config, batches[0].device
        if config.position_embedding_type != "rope":
            return [None] * len(self.layers)
        # onnxruntime has no sines of bfloat16
        dtype = torch.float32 if torch.onnx.is_in_onnx_export() else getattr(torch, config.rope_dtype)
        head = config.hidden_size // config.num_attention_heads
        periods = rotary_periods(head, config.rope_base, config.rope_min_period, config.rope_max_period, dtype, device)
        places = []
        for pixels in batches:
            height, width = (side // config.patch_size for side in pixels.shape[-2:])
            places.append(rotary_coordinates((height, width), config.rope_normalize_coords, dtype, device))
        ranges = (config.rope_shift_coords, config.rope_jitter_coords, config.rope_rescale_coords)
        if not self.training or ranges == (None, None, None):
            return [[rotary_tables(place, periods) for place in places]] * len(self.layers)
        return [
            [rotary_tables(draw_rotary(*ranges, periods)(place), periods) for place in places] for _ in self.layers
        ]

    def forward_packed(
        self,
        pixel_values: Sequence[Tensor],
        bool_masked_pos: Sequence[Tensor | None] | None = None,
        output_rows: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """Encode batches of several image sizes in one pass over all their tokens.

        Equal to a separate call per batch (except for rounding and stochastic depth): attention never crosses images.
        Batches after the first are local crops to `untie_global_and_local_cls_norm`.

        Args:
            pixel_values: batches (B_i, C, H_i, W_i).
            bool_masked_pos: per batch (B_i, N_i) bool or None.
            output_rows: per batch (W_i,) int, the only rows of its flattened tokens (B_i * (1 + R + N_i), D) to
                return; the last block then computes little else.

        Returns:
            Per batch the normed tokens (B_i, 1 + R + N_i, D), or (W_i, D) with `output_rows`.
        """
        masks = bool_masked_pos if bool_masked_pos is not None else [None] * len(pixel_values)
        embedded = [self.embeddings(pixels, mask) for pixels, mask in zip(pixel_values, masks, strict=True)]
        groups = [(len(tokens), tokens.shape[1]) for tokens in embedded]
        hidden_states = torch.cat([tokens.flatten(0, 1) for tokens in embedded])  # (T, D)
        *rotations, last = self._rotations(pixel_values)
        for layer, rotation in zip(self.layers[:-1], rotations, strict=True):
            hidden_states = layer(hidden_states, groups, rotations=rotation)
        if output_rows is None:
            parts = self._packed_norm(self.layers[-1](hidden_states, groups, rotations=last), groups)
            return [part.view(*group, -1) for part, group in zip(parts, groups, strict=True)]
        starts = [0, *itertools.accumulate(batch * length for batch, length in groups)]
        rows = torch.cat([part + start for part, start in zip(output_rows, starts, strict=False)])
        return self._packed_norm(self.layers[-1](hidden_states, groups, rows, last), groups, output_rows)

    def _packed_norm(
        self, tokens: Tensor, groups: Groups, output_rows: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """The final norm of packed tokens (T, D), or of each group's output rows: per group (T_i, D)."""
        sizes = (
            [batch * length for batch, length in groups]
            if output_rows is None
            else [len(rows) for rows in output_rows]
        )
        if self.cls_norm is None and self.local_cls_norm is None:
            return list(self.norm(tokens).split(sizes))
        normed = []
        for index, (part, (batch, length)) in enumerate(zip(tokens.split(sizes), groups, strict=True)):
            rows = torch.arange(batch * length, device=tokens.device) if output_rows is None else output_rows[index]
            normed.append(self.final_norm(part, rows % length, local=index > 0))
        return normed


class BioVFMBackbone(BackboneMixin, BioVFMModel):
    """Feature maps of chosen blocks, for detection and segmentation frameworks.

    From a folder: `BioVFMBackbone.from_pretrained(DIR, out_indices=[...])`; `AutoBackbone` takes repository ids only.
    """

    _keys_to_ignore_on_load_unexpected = _PRETRAINED_ONLY

    def __init__(self, config: BioVFMConfig) -> None:
        config = _of_head(config)
        super().__init__(config)
        self.num_features = [config.hidden_size] * (config.num_hidden_layers + 1)

    @can_return_tuple
    @filter_output_hidden_states
    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BackboneOutput:
        """(B, C, H, W) -> feature maps (B, D, H/p, W/p) of `out_indices`, normed if `config.apply_layernorm`."""
        kwargs["output_hidden_states"] = True  # the decorator asks for them only in newer versions of transformers
        outputs = BioVFMModel.forward(self, pixel_values, return_dict=True, **kwargs)
        grid = tuple(side // self.config.patch_size for side in pixel_values.shape[-2:])
        maps = []
        for stage, hidden_state in zip(self.stage_names, outputs.hidden_states, strict=True):
            if stage not in self.out_features:
                continue
            tokens: Any = self.final_norm(hidden_state) if self.config.apply_layernorm else hidden_state
            if self.config.reshape_hidden_states:
                tokens = _token_map(tokens, grid)
            maps.append(tokens)
        return BackboneOutput(
            feature_maps=tuple(maps), hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


def _token_map(tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Patch tokens of (B, 1 + R + N, D) as a map (B, D, rows, columns)."""
    patches = tokens[:, tokens.shape[1] - grid[0] * grid[1] :]
    return patches.transpose(1, 2).unflatten(2, grid).contiguous()


class BioVFMForImageClassification(BioVFMPreTrainedModel):
    """A linear classifier on the class token, the mean patch token, or both (`config.pooling`)."""

    _keys_to_ignore_on_load_unexpected = _PRETRAINED_ONLY

    def __init__(self, config: BioVFMConfig) -> None:
        config = _of_head(config)
        super().__init__(config)
        self.num_labels = cast(int, config.num_labels)
        self.biovfm = BioVFMModel(config)
        width = config.hidden_size * (2 if config.pooling == "both" else 1)
        self.classifier = nn.Linear(width, self.num_labels) if self.num_labels > 0 else nn.Identity()
        self.post_init()

    @can_return_tuple
    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> ImageClassifierOutput:
        """(B, C, H, W) -> logits (B, classes), and with `labels` the loss of `config.problem_type`.

        `labels` are classes (B,) int, or (B, classes): 0 and 1 of any dtype for several labels per image, or numbers.
        """
        outputs = self.biovfm(pixel_values, return_dict=True, **kwargs)
        logits = self.classifier(self._pooled(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            if labels.ndim == 2:  # several labels per image, or several numbers
                labels = labels.to(logits.dtype)
            loss = self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def _pooled(self, tokens: Tensor) -> Tensor:
        cls_token = tokens[:, 0]
        if self.config.pooling == "cls":
            return cls_token
        mean_patch = tokens[:, 1 + self.config.num_register_tokens :].mean(dim=1)
        return mean_patch if self.config.pooling == "mean" else torch.cat([cls_token, mean_patch], dim=1)


class BioVFMUNetBlock(nn.Module):
    """Doubles a map's side and joins it with the tokens of an earlier block, enlarged `scale` times to that size."""

    def __init__(self, up: nn.Module, skip: nn.Module, join: nn.Module, scale: int) -> None:
        super().__init__()
        self.up, self.skip, self.join, self.scale = up, skip, join, scale

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """(B, C, scale h / 2, scale w / 2) and (B, D, h, w) -> (B, out, scale h, scale w)."""
        # by a scale, since ONNX's older exporter would write a map's size as a constant
        skip = nn.functional.interpolate(self.skip(skip), scale_factor=self.scale, mode="bilinear", align_corners=True)
        return self.join(torch.cat([self.up(features), skip], dim=1))


def _conv_bn_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())


class BioVFMUNetDecoder(nn.Module):
    """Four up-blocks over the last block's tokens, with skips from the four blocks before it (arXiv 2312.02366).

    As in the authors' code, skips are enlarged with their corners aligned, and the last block ends in the classes
    and a ReLU, so no logit is negative. The segmentation probe of `biovfm probe` trains this same module on frozen
    tokens.
    """

    def __init__(self, config: BioVFMConfig) -> None:
        super().__init__()
        width = config.hidden_size
        steps = list(itertools.pairwise([width, width // 2, width // 4, width // 8, cast(int, config.num_labels)]))
        ups = [nn.ConvTranspose2d(inputs, outputs, kernel_size=2, stride=2) for inputs, outputs in steps]
        skips = [_conv_bn_relu(width, outputs) for _, outputs in steps]
        joins = [_conv_bn_relu(2 * outputs, outputs) for _, outputs in steps]
        self.blocks = nn.ModuleList(map(BioVFMUNetBlock, ups, skips, joins, (2, 4, 8, 16)))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Five maps (B, D, h, w), shallowest first -> logits (B, classes, 16h, 16w)."""
        features = maps[-1]
        for block, skip in zip(self.blocks, reversed(maps[:-1]), strict=True):
            features = block(features, skip)
        return features


class BioVFMForSemanticSegmentation(BioVFMPreTrainedModel):
    """Per-pixel classes from patch tokens, through a 1x1 convolution ("linear") or a U-Net decoder ("unet")."""

    _keys_to_ignore_on_load_unexpected = _PRETRAINED_ONLY

    def __init__(self, config: BioVFMConfig) -> None:
        config = _of_head(config)
        super().__init__(config)
        if config.segmentation_head == "unet" and config.num_hidden_layers < 4:
            raise ValueError(f"the U-Net decoder reads four blocks; this model has {config.num_hidden_layers}")
        self.num_labels = cast(int, config.num_labels)
        if self.num_labels < 2:
            raise ValueError(
                "segmentation needs two classes or more, background included; num_labels must be at least 2"
            )
        self.biovfm = BioVFMModel(config)
        unet = config.segmentation_head == "unet"
        self.decoder = BioVFMUNetDecoder(config) if unet else nn.Conv2d(config.hidden_size, self.num_labels, 1)
        self.post_init()

    @can_return_tuple
    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> SemanticSegmenterOutput:
        """(B, C, H, W) -> logits (B, classes, H, W); `labels` (B, H, W) int add the cross-entropy."""
        shown = kwargs.pop("output_hidden_states", self.config.output_hidden_states)
        unet = self.config.segmentation_head == "unet"
        outputs = self.biovfm(pixel_values, output_hidden_states=unet or shown, return_dict=True, **kwargs)
        grid = tuple(side // self.config.patch_size for side in pixel_values.shape[-2:])
        features: Any = _token_map(outputs.last_hidden_state, grid)
        hidden_states = outputs.hidden_states
        if unet:
            skips = hidden_states[-5:-1]  # without the final norm; the embeddings count as a block
            features = [*(_token_map(skip, grid) for skip in skips), features]
            hidden_states = _selected(hidden_states, shown) if shown else None
        logits = nn.functional.interpolate(
            self.decoder(features), size=pixel_values.shape[-2:], mode="bilinear", align_corners=False
        )
        loss = None
        if labels is not None:
            ignore = self.config.semantic_loss_ignore_index
            loss = nn.functional.cross_entropy(logits.float(), labels.long(), ignore_index=ignore)
        return SemanticSegmenterOutput(
            loss=loss, logits=logits, hidden_states=hidden_states, attentions=outputs.attentions
        )


def _selected(hidden_states: tuple, chosen: Any) -> tuple:
    """The states that `output_hidden_states` names; the others become None, as in transformers."""
    if chosen is True:
        return hidden_states
    if not _LISTS_NAME_EMBEDDINGS:
        hidden_states = hidden_states[1:]
    indices = {index % len(hidden_states) for index in ([chosen] if isinstance(chosen, int) else chosen)}
    return tuple(state if index in indices else None for index, state in enumerate(hidden_states))


class BioVFMForMaskedImageModeling(BioVFMPreTrainedModel):
    """SimMIM (arXiv 2111.09886): mask tokens stand for hidden patches, and one linear layer predicts the pixels."""

    _keys_to_ignore_on_load_unexpected = _PRETRAINED_ONLY

    def __init__(self, config: BioVFMConfig) -> None:
        config = _of_head(config, mask_token=True)
        super().__init__(config)
        self.stride = config.patch_size if config.encoder_stride is None else config.encoder_stride
        self.biovfm = BioVFMModel(config)
        self.decoder = nn.Conv2d(config.hidden_size, config.num_channels * self.stride**2, kernel_size=1)
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None, **kwargs: Any
    ) -> MaskedImageModelingOutput:
        """(B, C, H, W) and the hidden patches (B, N) bool -> pixels (B, C, H, W), and the loss if any are hidden.

        The loss is SimMIM's: the absolute error over the hidden pixels, averaged over their number and the channels.

        Raises:
            ValueError: masks are given and `encoder_stride` is not the patch size, so that pixels do not fit.
        """
        if bool_masked_pos is not None and self.stride != self.config.patch_size:
            raise ValueError(
                f"encoder_stride {self.stride} must be the patch size {self.config.patch_size}: pixels are predicted "
                "patch by patch; leave it out"
            )
        outputs = self.biovfm(pixel_values, bool_masked_pos=bool_masked_pos, return_dict=True, **kwargs)
        patch = self.config.patch_size
        grid = tuple(side // patch for side in pixel_values.shape[-2:])
        features = _token_map(outputs.last_hidden_state, grid)
        reconstruction = nn.functional.pixel_shuffle(self.decoder(features), self.stride)
        loss = None
        if bool_masked_pos is not None:
            mask = bool_masked_pos.reshape(-1, 1, *grid).to(pixel_values.dtype)
            mask = mask.repeat_interleave(patch, 2).repeat_interleave(patch, 3)  # (B, 1, H, W)
            error = nn.functional.l1_loss(reconstruction, pixel_values, reduction="none")
            loss = (error * mask).sum() / (mask.sum() + 1e-5) / self.config.num_channels
        return MaskedImageModelingOutput(
            loss=loss,
            reconstruction=reconstruction,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


@dataclass
class BioVFMMaskedAutoencodingOutput(ModelOutput):
    """Output of `BioVFMForMaskedAutoencoding`.

    loss: mean squared error over the hidden patches (scalar); logits: predicted patches (B, N, p * p * C);
    mask: (B, N), 1 if a patch was hidden; ids_restore: (B, N), where each patch went in the shuffled order.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    mask: Tensor | None = None
    ids_restore: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class BioVFMDecoder(nn.Module):
    """MAE's decoder: mask tokens join the encoded patches, a few blocks, and a projection back to pixels."""

    def __init__(self, config: BioVFMConfig) -> None:
        super().__init__()
        self.config = copy.deepcopy(config)
        self.config.hidden_size = config.decoder_hidden_size
        self.config.num_attention_heads = config.decoder_num_attention_heads
        self.config.ffn_type = "mlp"
        self.config.drop_path_rate = 0.0
        self.config.position_embedding_type = "sincos"
        width = config.decoder_hidden_size
        self.embed = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + config.num_patches, width), requires_grad=False)
        self.layers = nn.ModuleList([BioVFMLayer(self.config) for _ in range(config.decoder_num_hidden_layers)])
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.pred = nn.Linear(width, config.patch_size**2 * config.num_channels)

    def positions(self, num_patches: int) -> Tensor:
        """Position embeddings (1, 1 + num_patches, D).

        At sizes other than `config.image_size` the row of patches is resized as one line, as in transformers' ViTMAE,
        so that converted models agree; to pretrain at another size, set `image_size`.
        """
        if num_patches == self.position_embeddings.shape[1] - 1:
            return self.position_embeddings
        line = self.position_embeddings[:, 1:].transpose(1, 2)[:, :, None]  # (1, D, 1, N)
        line = nn.functional.interpolate(line, size=(1, num_patches), mode="bicubic")
        return torch.cat([self.position_embeddings[:, :1], line[:, :, 0].transpose(1, 2)], dim=1)

    def forward(self, tokens: Tensor, ids_shuffle: Tensor, hidden_only: bool = False) -> Tensor:
        """Predict patches, in the order of `ids_shuffle`: first the visible ones, then the hidden ones.

        Args:
            tokens: the encoder's (B, 1 + R + K, D).
            ids_shuffle: (B, N) patch indices, the K visible ones first.
            hidden_only: predict the N - K hidden patches only; the last block then computes little else.

        Returns:
            (B, N or N - K, p * p * C).
        """
        tokens = self.embed(tokens)
        cls_token, visible = tokens[:, :1], tokens[:, 1 + self.config.num_register_tokens :]
        batch, length = ids_shuffle.shape
        positions = self.positions(length)
        hidden = self.mask_token.expand(batch, length - visible.shape[1], -1)
        patches = torch.cat([visible, hidden.to(visible.dtype)], dim=1) + positions[0, 1:][ids_shuffle]
        hidden_states = torch.cat([cls_token + positions[:, :1], patches], dim=1)
        for layer in self.layers[:-1]:
            hidden_states = layer(hidden_states)
        output_rows = torch.arange(batch * (1 + length), device=tokens.device).view(batch, 1 + length)
        output_rows = output_rows[:, 1 + (visible.shape[1] if hidden_only else 0) :]
        last = self.layers[-1](hidden_states.flatten(0, 1), [(batch, 1 + length)], output_rows.flatten())
        return self.pred(self.norm(last)).unflatten(0, output_rows.shape)


class BioVFMForMaskedAutoencoding(BioVFMPreTrainedModel):
    """The masked autoencoder (arXiv 2111.06377): encode the visible patches, predict the hidden ones."""

    _keys_to_ignore_on_load_unexpected = _PRETRAINED_ONLY

    def __init__(self, config: BioVFMConfig) -> None:
        config = _of_head(config)
        super().__init__(config)
        self.biovfm = BioVFMModel(config)
        self.decoder = BioVFMDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, noise: Tensor | None = None, return_loss: bool = True, **kwargs: Any
    ) -> BioVFMMaskedAutoencodingOutput:
        """Hide `config.mask_ratio` of the patches and predict them.

        Args:
            pixel_values: (B, C, H, W).
            noise: (B, N) in [0, 1); the patches with the lowest values stay visible. Drawn when not given.
            return_loss: always true; `Trainer` reads it as a sign that this model computes its own loss.
        """
        outputs, ids_shuffle, visible = self._encode_visible(pixel_values, noise, **kwargs)
        prediction = self.decoder(outputs.last_hidden_state, ids_shuffle)
        loss = self._loss(pixel_values, prediction[:, visible:], ids_shuffle[:, visible:])
        ids_restore = ids_shuffle.argsort(dim=1)
        return BioVFMMaskedAutoencodingOutput(
            loss=loss,
            logits=take_tokens(prediction, ids_restore),
            mask=(ids_restore >= visible).to(prediction.dtype),
            ids_restore=ids_restore,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def reconstruction_loss(self, pixel_values: Tensor, noise: Tensor | None = None) -> Tensor:
        """Only the loss of `forward` (scalar), at less cost: visible patches are not predicted."""
        outputs, ids_shuffle, visible = self._encode_visible(pixel_values, noise)
        prediction = self.decoder(outputs.last_hidden_state, ids_shuffle, hidden_only=True)
        return self._loss(pixel_values, prediction, ids_shuffle[:, visible:])

    def _encode_visible(self, pixel_values: Tensor, noise: Tensor | None, **kwargs: Any) -> tuple[Any, Tensor, int]:
        """The encoder's output for the visible patches, the order of all patches (B, N), and how many are visible."""
        if noise is None:
            height, width = (side // self.config.patch_size for side in pixel_values.shape[-2:])
            noise = torch.rand(pixel_values.shape[0], height * width, device=pixel_values.device)
        ids_shuffle = noise.argsort(dim=1)
        visible = int(noise.shape[1] * (1 - self.config.mask_ratio))
        outputs = self.biovfm(pixel_values, ids_keep=ids_shuffle[:, :visible], return_dict=True, **kwargs)
        return outputs, ids_shuffle, visible

    def patchify(self, pixel_values: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, p * p * C), pixels of a patch in row-major order, channels last."""
        return cut_patches(pixel_values, self.config.patch_size)

    def unpatchify(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """The inverse of `patchify` for a (rows, columns) grid of patches."""
        channels_first = patches.unflatten(2, (-1, self.config.num_channels)).permute(0, 3, 2, 1).flatten(1, 2)
        return nn.functional.pixel_shuffle(channels_first.unflatten(2, grid), self.config.patch_size)

    def _loss(self, pixel_values: Tensor, prediction: Tensor, ids_hidden: Tensor) -> Tensor:
        """Mean squared error of the predicted hidden patches (B, N - K, p * p * C)."""
        target = take_tokens(self.patchify(pixel_values.float()), ids_hidden)  # bf16 would round 8-bit levels away
        if self.config.norm_pix_loss:
            variance, mean = torch.var_mean(target, dim=-1, keepdim=True)  # unbiased, as MAE
            target = (target - mean) / (variance + 1e-6) ** 0.5
        return nn.functional.mse_loss(prediction.float(), target)


# `save_pretrained` copies these files beside the weights, so that trust_remote_code=True needs no installation
BioVFMModel.register_for_auto_class("AutoModel")
BioVFMBackbone.register_for_auto_class("AutoBackbone")
BioVFMForImageClassification.register_for_auto_class("AutoModelForImageClassification")
BioVFMForMaskedAutoencoding.register_for_auto_class("AutoModelForPreTraining")
BioVFMForMaskedImageModeling.register_for_auto_class("AutoModelForMaskedImageModeling")
BioVFMForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")

__all__ = [
    "BioVFMBackbone",
    "BioVFMForImageClassification",
    "BioVFMForMaskedAutoencoding",
    "BioVFMForMaskedImageModeling",
    "BioVFMForSemanticSegmentation",
    "BioVFMModel",
    "BioVFMPreTrainedModel",
]
