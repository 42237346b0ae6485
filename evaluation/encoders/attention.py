"""Reads the attention of an encoder's blocks, from the three libraries' models."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from .encoder import Encoder, to_square
from .tokens import find_layers

if TYPE_CHECKING:
    from torch import Tensor, nn

CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")  # names of its initial value in timm and open_clip


def class_attention(encoder: Encoder, images: list[np.ndarray]) -> np.ndarray | None:
    """Attention of the class token to the patches in the last block, averaged over heads: (B, h, w) or None."""
    module = encoder.module
    if not _answers(module) and all(getattr(module, name, None) is None for name in CLASS_TOKENS):
        return None
    pixels = to_square(images, encoder.size, encoder.mean, encoder.std)
    blocks = block_attention(encoder, pixels, last_only=True)
    if blocks is None:
        return None
    encoded = encoder.encode(pixels)
    if encoded.prefix == 0 or blocks[-1].shape[-1] != encoded.tokens.shape[1]:
        return None
    return blocks[-1].mean(1)[:, 0, encoded.prefix :].unflatten(1, encoded.grid).cpu().numpy()


def block_attention(encoder: Encoder, pixels: "Tensor", last_only: bool = False) -> "list[Tensor] | None":
    """Attention (B, H, N, N) of each block, first to last, for images (B, 3, H, W); None if the model gives none.

    A transformers model returns its attention on request. For timm and open_clip it is collected inside the blocks,
    which
    use the plain implementation meanwhile: the fused one never makes the matrix. (A few open_clip models have
    open_clip's own attention class, for which this does not work; they give None.)

    Args:
        encoder: the encoder to read.
        pixels: preprocessed images; each takes 4 H N^2 bytes per block.
        last_only: read the last block only.
    """
    blocks = _ask(encoder, pixels) if _answers(encoder.module) else _catch(encoder, pixels, last_only)
    return blocks[-1:] if blocks and last_only else blocks


def _answers(module: Any) -> bool:
    return hasattr(module, "set_attn_implementation")


def _ask(encoder: Encoder, pixels: "Tensor") -> "list[Tensor] | None":
    """Attention of a transformers model's blocks; None if it gives none."""
    import torch

    module: Any = encoder.module
    before = module.config._attn_implementation
    try:
        module.set_attn_implementation("eager")
        with torch.inference_mode():
            answer = module(pixels.to(encoder.device), output_attentions=True)
    except (TypeError, ValueError, AttributeError):
        return None
    finally:
        module.set_attn_implementation(before)
    weights = getattr(answer, "attentions", None)
    if not weights or any(each is None or each.ndim != 4 for each in weights):
        return None
    return [each.float() for each in weights]


def _catch(encoder: Encoder, pixels: "Tensor", last_only: bool) -> "list[Tensor] | None":
    """Attention of a timm or open_clip model's blocks; None if there are no blocks or no attention."""
    layers = find_layers(encoder.module)
    if not layers:
        return None
    caught: list[Tensor] = []
    watched = layers[-1:] if last_only else layers
    with ExitStack() as stack:
        for layer in watched:
            stack.enter_context(_watched(layer, caught))
        encoder.encode(pixels)
    if len(caught) != len(watched) or any(each is None or each.ndim != 4 for each in caught):
        return None
    return [each.float() for each in caught]


@contextmanager
def _watched(layer: "nn.Module", caught: list["Tensor"]) -> Iterator[None]:
    """Collect the attention matrices of a block, and make it compute them."""
    from torch import nn

    def ask(_module: Any, given: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return given, {**named, "need_weights": True, "average_attn_weights": False}

    fused = [part for part in layer.modules() if getattr(part, "fused_attn", False)]
    hooks = []
    for name, part in layer.named_modules():
        if isinstance(part, nn.MultiheadAttention):
            hooks.append(part.register_forward_pre_hook(ask, with_kwargs=True))
            hooks.append(part.register_forward_hook(lambda _m, _i, out: caught.append(out[1])))
        elif name.rpartition(".")[2] == "attn_drop":
            hooks.append(part.register_forward_hook(lambda _m, _i, out: caught.append(out)))
    try:
        for part in fused:
            setattr(part, "fused_attn", False)  # noqa: B010  (a plain attribute, which torch types as a module)
        yield
    finally:
        for part in fused:
            setattr(part, "fused_attn", True)  # noqa: B010
        for hook in hooks:
            hook.remove()
