"""Checkpoints of sharded tensors, on one process that FSDP2 takes for all; test_loop.py has two of them."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from biovfm_hf.errors import UserError
from training.optimizer import adamw, parameter_groups
from training.run import checkpoint
from training.run.checkpoint import load_newest, newest_model, save_checkpoint
from training.run.shards import is_sharded, read_whole, sizes

from .test_checkpoint import advance, make


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def sharded(seed: int = 0, width: int = 8) -> tuple[nn.Module, torch.optim.Optimizer]:
    module, _ = make(seed, width)
    fully_shard(module, mesh=init_device_mesh("cpu", (1,)))
    optimizer = adamw(parameter_groups(module))
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    return module, optimizer


def whole_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in checkpoint.model_tensors(module).items()}


@pytest.mark.usefixtures("one_process")
def test_training_continues_bitwise_from_shards(tmp_path: Path) -> None:
    module, optimizer = sharded()
    assert is_sharded(module) and not is_sharded(make()[0])
    advance(module, optimizer, 3, seed=1)
    target = save_checkpoint(tmp_path / "c", module, optimizer, {"step": 3}, 2, write=True)
    saved = whole_tensors(module)
    assert {path.name for path in target.iterdir()} == {"model", "optimizer", "state.json"}
    with safe_open(next((target / "model").iterdir()), "pt") as file:  # nothing is pickled
        assert set(file.keys()) <= saved.keys()
    advance(module, optimizer, 3, seed=2)
    for other, other_optimizer in (sharded(seed=9), make(seed=9)):  # as many shards, or none
        state = load_newest(tmp_path / "c", other, other_optimizer)
        assert state is not None and state["step"] == 3
        advance(other, other_optimizer, 3, seed=2)
        now = whole_tensors(other)
        assert all(torch.equal(tensor, now[name]) for name, tensor in whole_tensors(module).items())
    alone = newest_model(tmp_path / "c")
    assert alone.keys() == saved.keys() and all(torch.equal(alone[name], saved[name]) for name in saved)
    assert sizes(target / "model")["0.weight"] == (8, 4)
    assert read_whole(target / "optimizer")["0.weight.exp_avg"].any()


@pytest.mark.usefixtures("one_process")
def test_whole_tensors_are_read_into_shards(tmp_path: Path) -> None:
    module, optimizer = make()
    advance(module, optimizer, 2, seed=1)
    save_checkpoint(tmp_path / "c", module, optimizer, {"step": 2}, 2, write=True)
    other, other_optimizer = sharded(seed=9)
    assert load_newest(tmp_path / "c", other, other_optimizer)
    advance(module, optimizer, 2, seed=2)
    advance(other, other_optimizer, 2, seed=2)
    now = whole_tensors(other)
    assert all(torch.equal(tensor, now[name]) for name, tensor in whole_tensors(module).items())


@pytest.mark.usefixtures("one_process")
def test_a_damaged_shard_costs_its_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module, optimizer = sharded()
    advance(module, optimizer, 1, seed=1)
    targets = [save_checkpoint(tmp_path / "c", module, optimizer, {"step": step}, 3, write=True) for step in (1, 2, 3)]
    file = next((targets[2] / "optimizer").iterdir())
    file.write_bytes(file.read_bytes()[:-4])
    next((targets[1] / "model").iterdir()).unlink()
    with caplog.at_level(logging.WARNING):
        state = load_newest(tmp_path / "c", module, optimizer)
    assert state is not None and state["step"] == 1
    assert "is not what was written" in caplog.text and "No such file" in caplog.text
    with pytest.raises(UserError, match="does not fit this model"):
        load_newest(tmp_path / "c", *sharded(width=16))


@pytest.mark.usefixtures("one_process")
def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, optimizer = sharded()
    advance(module, optimizer, 1, seed=1)
    save_checkpoint(tmp_path / "c", module, optimizer, {"step": 1}, 3, write=True)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_shards", full)
    with pytest.raises(UserError, match=r"No space left.*last good checkpoint is .*step_00000001"):
        save_checkpoint(tmp_path / "c", module, optimizer, {"step": 2}, 3, write=True)
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step_00000001"]
