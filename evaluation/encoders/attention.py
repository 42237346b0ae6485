"""Where the class token of an encoder looks: the attention of its last block, from the three libraries' models."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from .load import Encoder, to_square
from .tokens import find_layers

if TYPE_CHECKING:
    from torch import Tensor, nn

CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")  # what timm and open_clip call its initial value


def class_attention(encoder: Encoder, images: list[np.ndarray]) -> np.ndarray | None:
    """Attention of the class token to the patches in the last block, mean over heads, (B, h, w); None without one.

    A transformers model answers with its attention when asked. Of timm's and open_clip's it is caught inside the last
    block, which for that time works with the plain implementation: the fused one never makes the matrix. (open_clip's
    own attention class, which few of its models have, does not work in that way, and gives None.)
    """
    pixels = to_square(images, encoder.size, encoder.mean, encoder.std)
    asked = hasattr(encoder.module, "set_attn_implementation")
    weights = _ask(encoder, pixels) if asked else _catch(encoder, pixels)
    if weights is None:
        return None
    encoded = encoder.encode(pixels)
    if encoded.prefix == 0 or weights.shape[-1] != encoded.tokens.shape[1]:
        return None
    return weights[:, 0, encoded.prefix :].unflatten(1, encoded.grid).cpu().numpy()


def _ask(encoder: Encoder, pixels: "Tensor") -> "Tensor | None":
    """Attention (B, N, N) of a transformers model, mean over heads; None where it tells none."""
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
    if not weights or weights[-1] is None or weights[-1].ndim != 4:
        return None
    return weights[-1].float().mean(1)


def _catch(encoder: Encoder, pixels: "Tensor") -> "Tensor | None":
    """Attention (B, N, N) of a timm or open_clip model, mean over heads; None without a class token or attention."""
    module = encoder.module
    layers = find_layers(module)
    if not layers or all(getattr(module, name, None) is None for name in CLASS_TOKENS):
        return None
    caught: list[Tensor] = []
    with _watched(layers[-1], caught):
        encoder.encode(pixels)
    if len(caught) != 1 or caught[0].ndim not in (3, 4):
        return None
    weights = caught[0].float()
    return weights if weights.ndim == 3 else weights.mean(1)  # torch's own module answers with the mean over heads


@contextmanager
def _watched(layer: "nn.Module", caught: list["Tensor"]) -> Iterator[None]:
    """Collect the attention matrices that a block makes, and have it make them."""
    from torch import nn

    def ask(_module: Any, given: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return given, {**named, "need_weights": True}

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
