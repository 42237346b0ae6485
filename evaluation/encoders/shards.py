"""Features on disk: shards of safetensors, read whole or by the rows that are asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from biovfm_hf.errors import UserError
from biovfm_hf.writing.files import atomic_path

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TokenStore:
    """Patch tokens on disk: `store.read(rows)` returns one (B, h, w, D) float32 tensor per block, as a list."""

    shards: list[Path]
    shard_images: int
    count: int

    def __len__(self) -> int:
        return self.count

    def read(self, rows: np.ndarray) -> list["Tensor"]:
        """Tokens of the images `rows`, in that order; only their parts of the memory-mapped shards are read."""
        import torch

        parts: dict[str, list[Tensor]] = {}
        where = np.empty(len(rows), int)
        filled = 0
        for shard in np.unique(np.asarray(rows) // self.shard_images):
            members = np.flatnonzero(rows // self.shard_images == shard)
            with open_shard(self.shards[shard], "pt") as stored:
                for name in sorted(stored.keys()):
                    tensor = stored.get_slice(name)
                    offsets = [int(rows[i]) - int(shard) * self.shard_images for i in members]
                    parts.setdefault(name, []).extend(tensor[o : o + 1] for o in offsets)
            where[members] = np.arange(filled, filled + len(members))
            filled += len(members)
        return [torch.cat(parts[name])[where].float() for name in sorted(parts, key=lambda n: int(n[5:]))]


@contextmanager
def open_shard(path: Path, framework: str) -> Iterator[Any]:
    """Open a shard with safetensors.

    Raises:
        UserError: the shard is damaged.
    """
    try:
        with safe_open(str(path), framework=framework) as stored:
            yield stored
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}); remove it and run the same command again") from error


def read_shards(shards: list[Path], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read the rows of all shards: {name: (N, ...)}. One shard is memory-mapped by safetensors, several are joined."""
    tables: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for shard in shards:
        with open_shard(shard, "np") as stored:
            for name in names:
                tables[name].append(stored.get_tensor(name))
    return {name: parts[0] if len(parts) == 1 else np.concatenate(parts) for name, parts in tables.items()}


def write_shard(path: Path, arrays: dict[str, "Tensor"]) -> None:
    """Write a shard at once or not at all.

    Raises:
        UserError: it cannot be written.
    """
    from safetensors.torch import save_file

    try:
        with atomic_path(path) as temporary:
            save_file(arrays, temporary)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} cannot be written ({error}); free some disk space, then run the same again"
        ) from error
