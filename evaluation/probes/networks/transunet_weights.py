"""Pretrained weights of TransUNet's encoder, from an .npz file as its authors publish them (R50+ViT-L_16.npz)."""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from biovfm_hf.errors import UserError

from ...tasks import npz
from .transunet import TransUNet

BLOCK = "Transformer/encoderblock_"
POSITIONS = "Transformer/posembed_input/pos_embedding"
# The file's names of layers by ours; a number in our name is inserted as the group.
LAYERS = {
    r"embeddings\.hybrid_model\.root\.conv": "conv_root",
    r"embeddings\.hybrid_model\.root\.gn": "gn_root",
    r"embeddings\.hybrid_model\.body\.(block\d)\.(unit\d)\.(conv\d|gn\d|gn_proj)": r"\1/\2/\3",
    r"embeddings\.hybrid_model\.body\.(block\d)\.(unit\d)\.downsample": r"\1/\2/conv_proj",
    r"embeddings\.patch_embeddings": "embedding",
    r"encoder\.layer\.(\d+)\.attention_norm": BLOCK + r"\1/LayerNorm_0",
    r"encoder\.layer\.(\d+)\.ffn_norm": BLOCK + r"\1/LayerNorm_2",
    r"encoder\.layer\.(\d+)\.attn\.(query|key|value|out)": BLOCK + r"\1/MultiHeadDotProductAttention_1/\2",
    r"encoder\.layer\.(\d+)\.ffn\.fc1": BLOCK + r"\1/MlpBlock_3/Dense_0",
    r"encoder\.layer\.(\d+)\.ffn\.fc2": BLOCK + r"\1/MlpBlock_3/Dense_1",
    r"encoder\.encoder_norm": "Transformer/encoder_norm",
}


def load_weights(network: TransUNet, path: Path) -> None:
    """Load the weights of a file into the encoder of a TransUNet; the decoder stays as it is.

    Kernels of the file are transposed: theirs are (height, width, inputs, outputs), and those of attention are split
    by heads. Positions for another number of cells are resized bilinearly, corner to corner, as the authors do.
    Nothing is unpickled.

    Raises:
        UserError: the file is missing, damaged, contains Python objects, or lacks an array of the right shape.
    """
    names = set(npz.array_names(path))
    state = {}
    for name, value in network.transformer.state_dict().items():
        origin = POSITIONS if name.endswith("position_embeddings") else _origin(name)
        if origin not in names:
            raise UserError(f"{path}: holds no array {origin!r}; give R50+ViT-L_16.npz of TransUNet's authors")
        array = npz.read(path, origin).astype(np.float32)
        state[name] = _positions(array, value.shape[1]) if origin == POSITIONS else _turned(array, value)
        if state[name].shape != value.shape:
            raise UserError(
                f"{path}: {origin} has shape {array.shape}, which does not fit {tuple(value.shape)}; give the weights "
                "of R50+ViT-L_16"
            )
    network.transformer.load_state_dict(state)


def _origin(name: str) -> str:
    """The file's name for one of our encoder's tensors."""
    layer, _, kind = name.rpartition(".")
    pattern, replacement = next((p, t) for p, t in LAYERS.items() if re.fullmatch(p, layer))
    origin = re.sub(pattern, replacement, layer)
    is_norm = re.search(r"norm|gn|LayerNorm", origin.rpartition("/")[2]) is not None
    return f"{origin}/{'bias' if kind == 'bias' else 'scale' if is_norm else 'kernel'}"


def _turned(array: np.ndarray, like: Tensor) -> Tensor:
    """An array of the file in torch's order, for convolutions, matrices, and vectors of any shape."""
    tensor = torch.from_numpy(array)
    if like.ndim == 4:
        return tensor.permute(3, 2, 0, 1)
    if like.ndim == 2:  # attention: (D, heads, d), or (heads, d, D) for its output
        inputs = like.shape[1]
        return tensor.reshape(inputs, -1).T if tensor.numel() == like.numel() else tensor
    return tensor.reshape(-1)


def _positions(array: np.ndarray, cells: int) -> Tensor:
    """Positions (1, 1 + n, D) of a class token and n cells, resized to another number of cells: (1, cells, D)."""
    tensor = torch.from_numpy(array)
    if tensor.ndim != 3 or tensor.shape[1] == cells:
        return tensor
    grid = tensor[:, 1:]
    old, new = (round(number**0.5) for number in (grid.shape[1], cells))
    if old == new or old * old != grid.shape[1]:
        return grid
    maps = grid.transpose(1, 2).unflatten(2, (old, old))
    zoomed = functional.interpolate(maps, size=(new, new), mode="bilinear", align_corners=True)
    return zoomed.flatten(2).transpose(1, 2)
