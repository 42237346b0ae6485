"""Revisions of models: digests of their weights, from files or from the module."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from biovfm_hf.errors import UserError

if TYPE_CHECKING:
    from torch import nn


def folder_revision(path: Path) -> str:
    """A digest of a model folder: of its configuration and of every weight file, 16 hex digits.

    Raises:
        UserError: the folder holds no weights.
    """
    weights = sorted([*path.glob("*.safetensors"), *path.glob("*.bin")])
    if not weights:
        raise UserError(f"{path} holds no *.safetensors; is it a model folder?")
    return files_digest([*sorted(path.glob("*config.json")), *weights])


def files_digest(files: Sequence[Path]) -> str:
    """A digest of files' names and content, 16 hex digits."""
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


def weights_digest(module: "nn.Module") -> str:
    """A digest of all weights of a module, 16 hex digits: the revision of models that state none."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
