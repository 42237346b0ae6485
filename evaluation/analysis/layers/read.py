"""Reads every layer of a model: its features for each image, and mean measures of its tokens and attention."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from biovfm_hf.errors import UserError

from ...encoders.attention import block_attention
from ...encoders.encoder import Encoder
from ...encoders.tokens import find_layers, patch_grid
from ...tasks.images import Images
from .attention import attention_distance, attention_entropy, attention_nmi, patch_attention, patch_distances
from .tokens import relative_log_amplitude, token_cosine

ATTENTION_BATCH = 4  # for four images of 224 pixels, a ViT-L's attention takes 240 MB


@dataclass(frozen=True)
class Layers:
    """Measures of a model's layers 1 to L, as its blocks output them (before the final norm).

    Attributes:
        features: L arrays (n, D) float32 with the mean patch token of each image.
        cosine: (L,) mean cosine similarity between the patch tokens of an image.
        amplitude: (L, F) relative log amplitude from frequency 0 to the highest.
    """

    features: list[np.ndarray]
    cosine: np.ndarray
    amplitude: np.ndarray


@dataclass(frozen=True)
class HeadAttention:
    """Attention measures of each head of each layer (L, H), averaged over images.

    Attributes:
        distance: among patches, in pixels of the input.
        entropy: of the rows over all tokens, in nats.
        nmi: normalised mutual information among patches, 0 to 1.
    """

    distance: np.ndarray
    entropy: np.ndarray
    nmi: np.ndarray


def count_layers(encoder: Encoder) -> int:
    """Number of blocks of a model.

    Raises:
        UserError: the model has no equal blocks.
    """
    layers = find_layers(encoder.module)
    if not layers:
        raise UserError(f"{encoder.name} has no equal blocks to analyse layer by layer; give a vision transformer")
    return len(layers)


def read_layers(encoder: Encoder, images: Images, batch_size: int, label: str = "") -> Layers:
    """Features of each layer, with the cosine similarity and frequencies of its tokens.

    Raises:
        UserError: the model has no equal blocks, or an image cannot be read.
    """
    depth, count = count_layers(encoder), len(images)
    features: list[list[np.ndarray]] = [[] for _ in range(depth)]
    cosine, amplitude = np.zeros(depth), [np.zeros(1)] * depth
    for batch in _batches(images, batch_size, label or encoder.name):
        blocks = encoder.encode(encoder.preprocess(batch), depth).blocks
        for layer, block in enumerate(blocks):
            grid = block.cpu().numpy()
            tokens = grid.reshape(len(batch), -1, grid.shape[-1])
            features[layer].append(tokens.mean(axis=1))
            cosine[layer] += token_cosine(tokens).sum() / count
            amplitude[layer] = amplitude[layer] + relative_log_amplitude(grid) * len(batch) / count
    return Layers([np.concatenate(parts) for parts in features], cosine, np.stack(amplitude))


def read_heads(encoder: Encoder, images: Images, label: str = "") -> HeadAttention | None:
    """The attention of each head; None if the model does not give it."""
    per_block: list[list[np.ndarray]] = []
    for batch in _batches(images, ATTENTION_BATCH, label or f"{encoder.name} attention"):
        pixels = encoder.preprocess(batch)
        blocks = block_attention(encoder, pixels)
        grid = patch_grid(encoder.module, pixels.shape[-2:])
        if blocks is None or blocks[0].shape[-1] < grid[0] * grid[1]:
            return None
        distances = patch_distances(grid, pixels.shape[-2] // grid[0])
        for attention in (block.cpu().numpy() for block in blocks):
            among = patch_attention(attention, attention.shape[-1] - grid[0] * grid[1])
            measures = (attention_distance(among, distances), attention_entropy(attention), attention_nmi(among))
            per_block.append([measure.sum(axis=0) for measure in measures])
    depth = count_layers(encoder)
    totals = [np.sum(per_block[layer::depth], axis=0) for layer in range(depth)]  # each (3, H)
    return HeadAttention(*np.stack(totals, axis=1) / len(images))


def _batches(images: Images, size: int, label: str) -> Iterator[list[np.ndarray]]:
    from tqdm import tqdm

    with tqdm(total=len(images), desc=label, unit="img", disable=None, leave=False) as bar:
        for start in range(0, len(images), size):
            batch = [images[i] for i in range(start, min(start + size, len(images)))]
            yield batch
            bar.update(len(batch))
