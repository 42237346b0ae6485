"""The image encoder of OFA models such as BiomedGPT: pixels to image tokens, without text.

The computation is that of OFA-Sys/OFA (`feature/add_transformers`), written anew: a ResNet without its last stage,
then transformer blocks whose attention knows the patch positions. All sizes follow from the shapes of the tensors.
"""

import math
import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import Bottleneck, ResNet

from biovfm_hf.conversion.weights import locate, read_tensors
from biovfm_hf.errors import UserError

from .tokens import AS_IT_IS, Encoded, Reading

IMAGE_TYPE = 1  # row of `type_embedding`; 0 is text
STRIDE = 16  # pixels per token
# Parts of an OFA model besides its image encoder; they are left out.
_OTHER_PARTS = re.compile(
    r"encoder\.(layernorm_embedding|embed_tokens|embed_positions|pos_ln|token_rel_pos_table_list|version"
    r"|token_rp_bucket|image_rp_bucket|image_position_idx)\b|decoder\.|classification_heads\.|lm_head\."
)


class Stem(ResNet):
    """A ResNet's first three stages in ResNet-50's form: images (B, 3, H, W) -> (B, 1024, H / 16, W / 16)."""

    def __init__(self, depths: tuple[int, int, int]) -> None:
        super().__init__(Bottleneck, [*depths, 1])
        del self.layer4, self.avgpool, self.fc

    def forward(self, pixels: Tensor) -> Tensor:
        """The map of the third stage."""
        hidden = self.maxpool(self.relu(self.bn1(self.conv1(pixels))))
        return self.layer3(self.layer2(self.layer1(hidden)))


class Attention(nn.Module):
    """Self-attention with a position bias and a factor for each head's output."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.c_attn = nn.Parameter(torch.ones(heads))

    def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """Tokens (B, N, D) and a bias (heads, N, N) on the attention scores -> (B, N, D)."""
        query, key, value = (
            split_heads(layer(tokens), self.heads) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(
            query, key, value, bias.to(query.dtype), scale=score_scale(query)
        )
        return self.out_proj((mixed * self.c_attn[:, None, None]).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm block with a norm after its attention and one inside its feed-forward part."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.self_attn_layer_norm, self.self_attn_mid_layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.final_layer_norm, self.ffn_layer_norm = nn.LayerNorm(width), nn.LayerNorm(hidden)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        attended = self.self_attn(self.self_attn_layer_norm(tokens), bias)
        tokens = tokens + self.self_attn_mid_layer_norm(attended)
        hidden = functional.gelu(self.fc1(self.final_layer_norm(tokens)))
        return tokens + self.fc2(self.ffn_layer_norm(hidden))


class OFAImageEncoder(nn.Module):
    """Images (B, 3, H, W) -> normed image tokens (B, H / 16 * W / 16, D), row by row.

    Args:
        tensors: tensors of an OFA encoder, without the prefix `encoder.`; their shapes determine all sizes.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        width = len(tensors["layer_norm.weight"])
        heads, hidden = len(tensors["layers.0.self_attn.c_attn"]), len(tensors["layers.0.fc1.bias"])
        places, depth = len(tensors["embed_image_positions.weight"]), count(tensors, "layers")
        self.heads = heads
        self.side = math.isqrt(places - 1)  # OFA's image_bucket_size: the most rows or columns of tokens
        first, second, third = (count(tensors, f"embed_images.layer{stage}") for stage in (1, 2, 3))
        self.embed_images = Stem((first, second, third))
        self.image_proj = nn.Linear(tensors["image_proj.weight"].shape[1], width)
        self.type_embedding = nn.Embedding(2, width)
        self.patch_layernorm_embedding, self.image_pos_ln = nn.LayerNorm(width), nn.LayerNorm(width)
        self.embed_image_positions = nn.Embedding(places, width)
        self.pos_q_linear, self.pos_k_linear = nn.Linear(width, width), nn.Linear(width, width)
        rows = (2 * self.side - 1) ** 2 + 3
        self.image_rel_pos_table_list = nn.ModuleList(nn.Embedding(rows, heads) for _ in range(depth))
        self.layers = nn.ModuleList(Block(width, hidden, heads) for _ in range(depth))
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, pixels: Tensor) -> Tensor:
        """The last block's tokens through the final norm."""
        return self.layer_norm(self.block_outputs(pixels)[-1])

    def block_outputs(self, pixels: Tensor) -> list[Tensor]:
        """The tokens (B, N, D) after each block.

        Raises:
            UserError: the image has more rows or columns of tokens than the model has positions.
        """
        grid = self.embed_images(pixels)
        tokens = self.image_proj(grid.flatten(2).transpose(1, 2)) + self.type_embedding.weight[IMAGE_TYPE]
        tokens = self.patch_layernorm_embedding(tokens)
        rows, columns = self._places(grid.shape[2], grid.shape[3])
        absolute, offsets = self._absolute_bias(rows, columns), self._offsets(rows, columns)
        outputs = []
        for layer, table in zip(self.layers, self.image_rel_pos_table_list, strict=True):
            tokens = layer(tokens, absolute + table(offsets).permute(2, 0, 1))
            outputs.append(tokens)
        return outputs

    def _places(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Row and column (N,) of each token."""
        if max(height, width) > self.side:
            raise UserError(
                f"the model knows {self.side} x {self.side} places of {STRIDE} pixels; give images of at most "
                f"{self.side * STRIDE} pixels a side"
            )
        device = self.layer_norm.weight.device
        row, column = torch.meshgrid(
            torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
        )
        return row.flatten(), column.flatten()

    def _absolute_bias(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The bias (heads, N, N) on the scores from absolute positions."""
        heads = self.heads
        places = self.image_pos_ln(self.embed_image_positions(rows * self.side + columns + 1))[None]
        query, key = (split_heads(layer(places), heads)[0] for layer in (self.pos_q_linear, self.pos_k_linear))
        return query @ key.transpose(1, 2) * score_scale(query)

    def _offsets(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Row (N, N) of a relative position table for the offset between query and key."""
        down = rows[:, None] - rows + self.side - 1
        right = columns[:, None] - columns + self.side - 1
        return down * (2 * self.side - 1) + right


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(B, N, D) -> (B, heads, N, D / heads)."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)


def score_scale(query: Tensor) -> float:
    """(2 d)^-1/2 for heads of width d, because the scores are a sum of two: tokens and positions."""
    return (2 * query.shape[-1]) ** -0.5


def count(tensors: dict[str, Tensor], name: str) -> int:
    """Number of numbered parts `NAME.0.`, `NAME.1.` and so on."""
    matches = (re.match(rf"{re.escape(name)}\.(\d+)\.", key) for key in tensors)
    return len({match[1] for match in matches if match})


def read(module: nn.Module, pixel_values: Tensor, blocks: int = 0, _reading: Reading = AS_IT_IS) -> Encoded:
    """Read the tokens of an `OFAImageEncoder`, as `tokens.run` does for other models; it has no class token."""
    assert isinstance(module, OFAImageEncoder)
    outputs = module.block_outputs(pixel_values)
    height, width = (-(-side // STRIDE) for side in pixel_values.shape[-2:])
    encoded = Encoded(outputs[-1], module.layer_norm(outputs[-1]), (height, width))
    last = outputs[-blocks:] if blocks else []
    encoded.blocks = [out.unflatten(1, encoded.grid) for out in last]
    encoded.classes = [module.layer_norm(out).mean(1) for out in last]
    return encoded


def load_image_encoder(source: str) -> tuple[OFAImageEncoder, Path, list[str]]:
    """The image encoder of an OFA model, its file or folder, and the names of the tensors that were left out.

    Args:
        source: a folder as on the Hub (`config.json`, and `pytorch_model.bin` or safetensors), a Hub repository, or a
            file from fairseq. Pickled files are read as tensors only: nothing in them is run.

    Raises:
        UserError: there is no such model, its file is unsafe, or it is not an OFA encoder.
    """
    path = locate(source)
    tensors = {name.removeprefix("model."): value for name, value in read_tensors(path).items()}
    left_out = sorted(name for name in tensors if _OTHER_PARTS.match(name))
    parts = {
        name.removeprefix("encoder."): value.float() if value.is_floating_point() else value
        for name, value in tensors.items()
        if name.startswith("encoder.") and name not in left_out
    }
    try:
        module = OFAImageEncoder(parts)
        module.load_state_dict(parts)
    except KeyError as error:
        raise UserError(f"{path}: lacks {error}; it is not an OFA model with an image encoder") from error
    except (RuntimeError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: its tensors are not those of an OFA image encoder ({reason})") from error
    return module, path, left_out
