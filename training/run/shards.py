"""Reads and writes sharded tensors in safetensors: each process handles its own parts.

torch.distributed.checkpoint does the work. The headers of its safetensors files place each part in the whole tensor,
so any number of processes can read what any other number wrote, and nothing is unpickled.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn


def is_sharded(module: nn.Module) -> bool:
    """Whether parameters of `module` are sharded over the processes, as by FSDP2."""
    return any(hasattr(parameter, "full_tensor") for parameter in module.parameters())


def write_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write this process's shards of `tensors` into `folder`. All processes must call this.

    Raises:
        CheckpointException: on every process, if one of them cannot write.
    """
    detached = {name: tensor.detach() for name, tensor in tensors.items()}
    dcp.save(detached, storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True))


@torch.no_grad()
def read_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fill `tensors`, sharded or whole, from `folder`. All processes must call this."""
    _load(folder, {name: tensor.detach() for name, tensor in tensors.items()}, alone=not dist.is_initialized())


def sizes(folder: Path) -> dict[str, torch.Size]:
    """The shape of each whole tensor in `folder`."""
    return {name: entry.size for name, entry in _entries(folder).items()}


def read_whole(folder: Path) -> dict[str, Tensor]:
    """Every tensor of `folder`, whole and on the CPU, read by this process alone."""
    tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in _entries(folder).items()}
    _load(folder, dict(tensors), alone=True)
    return tensors


def _load(folder: Path, tensors: dict[str, Any], alone: bool) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # this process reads alone
        dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=alone)


def first_place(place: Path | None) -> Path | None:
    """The folder that the first process passes, on every process."""
    answer: list[Any] = [place and str(place)]
    if dist.is_initialized():
        dist.broadcast_object_list(answer)
    return Path(answer[0]) if answer[0] else None


def share_of(files: Sequence[Any]) -> Sequence[Any]:
    """This process's part of `files`, for work spread over all processes."""
    return files[dist.get_rank() :: dist.get_world_size()] if dist.is_initialized() else files


def gathered(parts: dict[str, Any]) -> dict[str, Any]:
    """The entries of all processes. All must call this."""
    if not dist.is_initialized():
        return parts
    everywhere: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everywhere, parts)
    return {name: value for part in everywhere for name, value in part.items()}


def files_in(folder: Path) -> list[Path]:
    """The files of shards in `folder`, in order."""
    return sorted(folder.glob("*.safetensors"))


def _entries(folder: Path) -> dict[str, Any]:
    return dict(dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)
