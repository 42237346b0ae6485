"""Digests that recognise a frozen network, of which a run's settings have only the name."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# keys of a transformers config that change with its version or place, but no feature
_INCIDENTAL = ("transformers_version", "architectures", "auto_map", "dtype", "torch_dtype", "_name_or_path")


def mark_of(tensors: Mapping[str, Tensor], *settings: Any) -> int:
    """A digest of every number, of names, shapes and types, and of JSON-like `settings`; from 2**62 up to 2**63.

    It takes less than a second per GB.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return int.from_bytes(digest.digest()[:8]) >> 2 | 1 << 62


def settings_of(config: Any) -> dict[str, Any]:
    """What a transformers config states that differs from its class's defaults; empty for None."""
    stated = {} if config is None else config.to_diff_dict()
    return {key: value for key, value in stated.items() if key not in _INCIDENTAL}
