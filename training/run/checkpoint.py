"""Checkpoints in safetensors and JSON, written atomically; the newest readable one is restored.

A checkpoint is a folder `step_00000100` with `model.safetensors` (every parameter and buffer of the objective),
`optimizer.safetensors` (the optimiser's moments by tensor name) and `state.json` (the step, how the run was set up,
and size and checksum of the others). It has no random state: all randomness is a function of seed and step. If FSDP2
has cut the tensors into shards, folders `model` and `optimizer` replace the two files: each process writes its own
shards, and no process ever has all tensors in memory. Any number of processes can read either form.
"""

import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint import CheckpointException

from biovfm_hf.errors import UserError, one_line
from biovfm_hf.writing.files import atomic_path

from .shards import files_in, first_place, gathered, is_sharded, read_shards, read_whole, share_of, sizes, write_shards

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step_(\d{8,})")
_PARTS = ("model", "optimizer")  # each NAME.safetensors, or a folder NAME of shards


class DamagedCheckpointError(Exception):
    """A checkpoint that is incomplete or does not match its checksums."""


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded over processes as a plain tensor on the CPU. All processes must call this."""
    full: Any = tensor.detach()
    if hasattr(full, "full_tensor"):
        full = full.full_tensor()
    return full.cpu().contiguous()


def model_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer of `module` by name, whole and on the CPU."""
    return {name: whole(tensor) for name, tensor in module.state_dict().items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as `NAME.exp_avg` and so on, by the `names` of its parameter groups, still sharded."""
    tensors = {}
    for name, parameter in _named_parameters(optimizer):
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}.{key}"] = value
    return tensors


def _named_parameters(optimizer: torch.optim.Optimizer) -> list[tuple[str, nn.Parameter]]:
    return [pair for group in optimizer.param_groups for pair in zip(group["names"], group["params"], strict=True)]


def save_checkpoint(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any], keep: int, write: bool
) -> Path:
    """Write `folder/step_N` for `state["step"]` and delete all but the newest `keep`.

    Checkpoints of later steps are deleted too; they are damaged, because the run continued from an earlier one.

    Every process must call this; unsharded tensors are written only by processes with `write`.

    Raises:
        UserError: the disk is full or cannot be written; earlier checkpoints are untouched.
    """
    target = folder / f"step_{state['step']:08d}"
    try:
        if is_sharded(module):
            _save_shards(
                target, {"model": module.state_dict(), "optimizer": optimizer_tensors(optimizer)}, state, write
            )
        elif write:
            _save_whole(target, {"model": module.state_dict(), "optimizer": optimizer_tensors(optimizer)}, state)
    except (OSError, SafetensorError, CheckpointException) as error:
        raise UserError(
            f"cannot write {target}: {one_line(error)}; {what_is_kept(folder)}; "
            "make room and run the same command again"
        ) from error
    if write:
        _delete_others(folder, state["step"], keep)
    return target


def _save_whole(target: Path, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    with atomic_path(target) as temporary:
        temporary.mkdir()
        for name, tensors in parts.items():
            save_file({key: whole(tensor) for key, tensor in tensors.items()}, temporary / f"{name}.safetensors")
        _write_state(
            temporary, state, {f"{name}.safetensors": _seal(temporary / f"{name}.safetensors") for name in parts}
        )


def _save_shards(target: Path, parts: Mapping[str, dict[str, Tensor]], state: Mapping[str, Any], write: bool) -> None:
    """Write shards, as `_save_whole` does whole tensors; all processes write into the folder that the first makes."""
    with ExitStack() as stack:
        own: Path | None = None
        try:
            if write:
                place = stack.enter_context(atomic_path(target))
                place.mkdir()
                own = place
        finally:  # the others wait for an answer even if there is no folder
            temporary = first_place(own)
        if temporary is None:
            return
        for name, tensors in parts.items():
            write_shards(temporary / name, tensors)
        files = [file for name in parts for file in files_in(temporary / name)]
        seals = gathered({str(file.relative_to(temporary)): _seal(file) for file in share_of(files)})
        if write:
            _write_state(temporary, state, seals)


def _write_state(folder: Path, state: Mapping[str, Any], files: Mapping[str, dict[str, int]]) -> None:
    (folder / "state.json").write_text(json.dumps({**state, "files": files}, indent=1), encoding="utf-8")
    _sync(folder / "state.json")


def _delete_others(folder: Path, step: int, keep: int) -> None:
    checkpoints = _numbers(folder)
    kept = [path for number, path in checkpoints if number <= step][-keep:]
    for _, path in checkpoints:
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def load_newest(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Restore the newest readable checkpoint; a warning names damaged ones, which are skipped.

    Returns:
        Its state, or None when there is no checkpoint.

    Raises:
        UserError: checkpoints exist but none can be read, or it belongs to another model.
    """
    newest = _newest(folder, _PARTS)
    if newest is None:
        return None
    path, state = newest
    try:
        _restore_model(module, path)
        _restore_optimizer(optimizer, path)
    except (RuntimeError, KeyError, ValueError) as error:
        reason = one_line(error)
        raise UserError(f"{path} does not fit this model ({reason}); use another --out") from error
    return state


def newest_model(folder: Path) -> dict[str, Tensor]:
    """The objective's parameters and buffers of the newest readable checkpoint under `folder`.

    Raises:
        UserError: there is none.
    """
    newest = _newest(folder, _PARTS[:1])
    if newest is None:
        raise UserError(f"{folder} holds no checkpoint")
    return _part(newest[0], "model")


def newest_name(folder: Path) -> str | None:
    """Path of the newest checkpoint, unread, or None."""
    checkpoints = _numbers(folder)
    return str(checkpoints[-1][1]) if checkpoints else None


def what_is_kept(folder: Path) -> str:
    """A sentence that names the newest checkpoint, for a message."""
    newest = newest_name(folder)
    return f"the last good checkpoint is {newest}" if newest else "there is no checkpoint yet"


def _numbers(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def _newest(folder: Path, parts: Sequence[str]) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint whose `parts` are undamaged, and its state."""
    candidates = _numbers(folder)
    for _, path in reversed(candidates):
        try:
            return path, _checked(path, parts)
        except DamagedCheckpointError as error:
            logger.warning("checkpoint %s is damaged (%s); trying the one before", path, error)
    if candidates:
        raise UserError(f"no checkpoint under {folder} can be read; delete that folder to start again from step 0")
    return None


def _checked(path: Path, parts: Sequence[str]) -> dict[str, Any]:
    """The state of the checkpoint at `path`, after all files of its `parts` are checked."""
    try:
        state = dict(json.loads((path / "state.json").read_text(encoding="utf-8")))
        names = [name for name in sorted(state["files"]) if _part_of(name) in parts]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(str(error)) from error
    if {_part_of(name) for name in names} != set(parts):
        raise DamagedCheckpointError("state.json does not name its files")
    shards = any("/" in name for name in names)  # each process checks some, and all get the result
    problems = dict(_problems(path, share_of(names) if shards else names, state["files"]))
    for name, problem in (gathered(problems) if shards else problems).items():
        raise DamagedCheckpointError(f"{name} {problem}")
    return state


def _part_of(name: str) -> str:
    return Path(name).parts[0].removesuffix(".safetensors")


def _problems(path: Path, names: Sequence[str], seals: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in names:
        try:
            if _checksum(path / name) != seals[name]:
                yield name, "is not what was written"
        except OSError as error:
            yield name, f"cannot be read: {error.strerror}"


def _part(path: Path, name: str) -> dict[str, Tensor]:
    """The whole tensors of a part of the checkpoint at `path`."""
    return read_whole(path / name) if (path / name).is_dir() else load_file(path / f"{name}.safetensors")


@torch.no_grad()
def _restore_model(module: nn.Module, path: Path) -> None:
    current = module.state_dict()
    if (path / "model").is_dir():
        _check_sizes(sizes(path / "model"), current)
        read_shards(path / "model", current)
        return
    tensors = _part(path, "model")
    _check_sizes({name: tensor.shape for name, tensor in tensors.items()}, current)
    for name, tensor in current.items():
        tensor.copy_(_like(tensors[name], tensor))


def _check_sizes(saved: Mapping[str, torch.Size], current: Mapping[str, Tensor]) -> None:
    if current.keys() != saved.keys():
        raise KeyError(f"tensors {sorted(current.keys() ^ saved.keys())[:4]} are in one but not in the other")
    for name, tensor in current.items():
        _check_size(saved[name], tensor)


def _check_size(saved: torch.Size, target: Tensor) -> None:
    if saved != target.shape:
        raise ValueError(f"shape {tuple(saved)} where {tuple(target.shape)} is needed")


@torch.no_grad()
def _restore_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    sharded = (path / "optimizer").is_dir()
    tensors = {} if sharded else _part(path, "optimizer")
    saved = sizes(path / "optimizer") if sharded else {name: tensor.shape for name, tensor in tensors.items()}
    for name, parameter in _named_parameters(optimizer):
        state: dict[str, Tensor] = {}
        for key in ("step", "exp_avg", "exp_avg_sq"):
            full = f"{name}.{key}"
            if full not in saved:
                continue
            empty = torch.zeros((), device=parameter.device) if key == "step" else torch.zeros_like(parameter)
            _check_size(saved[full], empty)
            state[key] = empty if sharded else _like(tensors[full], empty).to(parameter.device).clone()
        if state:
            optimizer.state[parameter] = state
    if sharded:
        read_shards(path / "optimizer", optimizer_tensors(optimizer))


def _like(saved: Tensor, target: Tensor) -> Tensor:
    """`saved`, sharded like `target`."""
    _check_size(saved.shape, target)
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
