"""timm models with keyword arguments: `NAME?init_values=1e-5&dynamic_img_size=true`."""

import json
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import unquote

from biovfm_hf.errors import UserError, require

# Keywords that are set here, or that choose other weights.
OURS = ("pretrained", "num_classes", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")


def split_keywords(name: str) -> tuple[str, dict[str, Any]]:
    """A model's name and its keyword arguments, each converted to the type that its text suggests.

    >>> split_keywords("vit_base_patch16_224?init_values=1e-5&dynamic_img_size=true")
    ('vit_base_patch16_224', {'init_values': 1e-05, 'dynamic_img_size': True})

    Raises:
        UserError: a part is not NAME=VALUE, has a name that is set here, or names an unknown layer.
    """
    name, _, query = name.partition("?")
    keywords = {}
    for part in filter(None, query.split("&")):
        key, equals, text = part.partition("=")
        if not (key.isidentifier() and equals):
            raise UserError(f"model timm:{name}: {part!r} is no NAME=VALUE; separate keywords by &")
        if key in OURS:
            raise UserError(f"model timm:{name}: {key} cannot be given; what is probed is the pretrained encoder")
        keywords[key] = _layer(name, text) if key.endswith("_layer") else _value(unquote(text))
    return name, keywords


def _value(text: str) -> Any:
    """A number, true, false, null or a list as in JSON; anything else stays text."""
    with suppress(json.JSONDecodeError):
        return json.loads(text)
    return text


def _layer(name: str, text: str) -> Any:
    """What makes a layer, of timm's layers or torch's."""
    from torch import nn

    layer = getattr(require("timm", "encoders").layers, text, None) or getattr(nn, text, None)
    kind = layer.func if isinstance(layer, partial) else layer  # timm's packed SwiGLU is a gated MLP, set up
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise UserError(f"model timm:{name}: {text!r} is no layer of timm.layers or torch.nn")
    return layer
