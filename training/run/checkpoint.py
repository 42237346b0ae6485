"""Checkpoints: safetensors and JSON, written whole or not at all, the newest readable one wins.

A checkpoint is a folder `step_00000100` with `model.safetensors` (every parameter and buffer of the objective),
`optimizer.safetensors` (the optimiser's moments by tensor name) and `state.json` (the step, how the run was set up,
and size and checksum of the other two). There is no random state in it: all randomness is a function of seed and step.
Tensors are stored whole, so a checkpoint can be read by any number of processes.
"""

import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from biovfm_hf.errors import UserError, one_line
from biovfm_hf.writing.files import atomic_path

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step_(\d{8,})")
_TENSOR_FILES = ("model.safetensors", "optimizer.safetensors")


class DamagedCheckpointError(Exception):
    """A checkpoint that is incomplete or does not match its checksums."""


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded over processes, as a plain one on the CPU. All processes must call this."""
    full: Any = tensor.detach()
    if hasattr(full, "full_tensor"):
        full = full.full_tensor()
    return full.cpu().contiguous()


def model_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer of `module` by name, whole and on the CPU."""
    return {name: whole(tensor) for name, tensor in module.state_dict().items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as `NAME.exp_avg` and so on, by the `names` of its parameter groups."""
    tensors = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{name}.{key}"] = whole(value)
    return tensors


def save_checkpoint(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any], keep: int, write: bool
) -> Path:
    """Write `folder/step_N` for `state["step"]` and delete all but the newest `keep`.

    Checkpoints of later steps are deleted too: they were damaged, or the run would not have begun before them.

    Every process must call this (sharded tensors are collected); only those with `write` touch the disk.

    Raises:
        UserError: the disk is full or refuses; what was there before is untouched.
    """
    target = folder / f"step_{state['step']:08d}"
    tensors = dict(zip(_TENSOR_FILES, (model_tensors(module), optimizer_tensors(optimizer)), strict=True))
    if not write:
        return target
    try:
        with atomic_path(target) as temporary:
            temporary.mkdir()
            files = {}
            for name, content in tensors.items():
                save_file(content, temporary / name)
                files[name] = _seal(temporary / name)
            (temporary / "state.json").write_text(json.dumps({**state, "files": files}, indent=1), encoding="utf-8")
            _sync(temporary / "state.json")
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot write {target}: {error}; {what_is_kept(folder)}; make room and run the same command again"
        ) from error
    found = _numbers(folder)
    kept = [path for step, path in found if step <= state["step"]][-keep:]
    for _, path in found:
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)
    return target


def load_newest(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Restore the newest readable checkpoint; a damaged one is named in a warning and the one before is taken.

    Returns:
        Its state, or None when there is no checkpoint.

    Raises:
        UserError: checkpoints exist but none can be read, or it belongs to another model.
    """
    newest = _newest(folder, _TENSOR_FILES)
    if newest is None:
        return None
    path, state, tensors = newest
    try:
        _restore(module, optimizer, tensors)
    except (RuntimeError, KeyError, ValueError) as error:
        reason = one_line(error)
        raise UserError(f"{path} does not fit this model ({reason}); use another --out") from error
    return state


def newest_model(folder: Path) -> dict[str, Tensor]:
    """The objective's parameters and buffers of the newest readable checkpoint under `folder`.

    Raises:
        UserError: there is none.
    """
    found = _newest(folder, _TENSOR_FILES[:1])
    if found is None:
        raise UserError(f"{folder} holds no checkpoint")
    return found[2][0]


def newest_name(folder: Path) -> str | None:
    """Path of the newest checkpoint, unread, or None."""
    found = _numbers(folder)
    return str(found[-1][1]) if found else None


def what_is_kept(folder: Path) -> str:
    """The newest checkpoint, in words for a message."""
    newest = newest_name(folder)
    return f"the last good checkpoint is {newest}" if newest else "there is no checkpoint yet"


def _numbers(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def _newest(folder: Path, names: Sequence[str]) -> tuple[Path, dict[str, Any], list[dict[str, Tensor]]] | None:
    """The newest readable checkpoint: its folder, its state, and the tensors of its files `names`."""
    candidates = _numbers(folder)
    for _, path in reversed(candidates):
        try:
            return path, *_read(path, names)
        except DamagedCheckpointError as error:
            logger.warning("checkpoint %s is damaged (%s); trying the one before", path, error)
    if candidates:
        raise UserError(f"no checkpoint under {folder} can be read; delete that folder to start again from step 0")
    return None


def _read(path: Path, names: Sequence[str]) -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        for name in names:
            if _checksum(path / name) != state["files"][name]:
                raise DamagedCheckpointError(f"{name} is not what was written")
        return state, [load_file(path / name) for name in names]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DamagedCheckpointError(str(error)) from error


@torch.no_grad()
def _restore(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: list[dict[str, Tensor]]) -> None:
    model, moments = tensors
    current = module.state_dict()
    if current.keys() != model.keys():
        raise KeyError(f"tensors {sorted(current.keys() ^ model.keys())[:4]} are in one but not in the other")
    for name, tensor in current.items():
        tensor.copy_(_like(model[name], tensor))
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}.{key}" in moments]
            state = {}
            for key in keys:
                saved = moments[f"{name}.{key}"]
                if key == "step":
                    state[key] = saved.to(parameter.device)
                else:
                    state[key] = _like(saved, parameter).to(parameter.device).clone()
            if state:
                optimizer.state[parameter] = state


def _like(saved: Tensor, target: Tensor) -> Tensor:
    """`saved`, sharded as `target` is."""
    if saved.shape != target.shape:
        raise ValueError(f"shape {tuple(saved.shape)} where {tuple(target.shape)} is needed")
    if hasattr(target, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(saved.to(target.device), target.device_mesh, target.placements)  # type: ignore[attr-defined]
    return saved


def _seal(path: Path) -> dict[str, int]:
    _sync(path)
    return _checksum(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _checksum(path: Path) -> dict[str, int]:
    checksum, size = 0, 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum, size = zlib.crc32(block, checksum), size + len(block)
    return {"bytes": size, "crc32": checksum}
