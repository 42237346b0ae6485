"""Checkpoints: exact, atomic, and damage costs one of them, not the run."""

import errno
import json
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from biovfm_hf.errors import UserError
from biovfm_hf.writing.files import remove_leftovers
from training.optimizer import adamw, parameter_groups
from training.run import checkpoint
from training.run.checkpoint import load_newest, newest_name, save_checkpoint


def make(seed: int = 0, width: int = 8) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2))
    optimizer = adamw(parameter_groups(module))
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    return module, optimizer


def advance(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.randn(6, 4, generator=generator)).square().sum().backward()
        optimizer.step()


def save(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, step: int, keep: int = 3) -> Path:
    return save_checkpoint(folder, module, optimizer, {"step": step}, keep, write=True)


def equal(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_training_continues_bitwise_from_a_checkpoint(tmp_path: Path) -> None:
    module, optimizer = make()
    advance(module, optimizer, 3, seed=1)
    save(tmp_path, module, optimizer, 3)
    advance(module, optimizer, 3, seed=2)
    other, other_optimizer = make(seed=9)
    assert load_newest(tmp_path, other, other_optimizer)["step"] == 3
    advance(other, other_optimizer, 3, seed=2)
    assert equal(module, other)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    module, optimizer = make()
    advance(module, optimizer, 1, seed=1)
    for step in (5, 9, 10, 100):
        save(tmp_path, module, optimizer, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000010", "step_00000100"]
    assert newest_name(tmp_path) == str(tmp_path / "step_00000100")


@pytest.mark.parametrize("damage", ["truncate", "flip", "missing", "json"])
def test_a_damaged_newest_falls_back_with_a_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    module, optimizer = make()
    advance(module, optimizer, 1, seed=1)
    save(tmp_path, module, optimizer, 1)
    newest = save(tmp_path, module, optimizer, 2)
    weights = newest / "model.safetensors"
    content = bytearray(weights.read_bytes())
    if damage == "truncate":
        weights.write_bytes(content[:-10])
    elif damage == "flip":
        content[-3] ^= 1
        weights.write_bytes(content)
    elif damage == "missing":
        weights.unlink()
    else:
        (newest / "state.json").write_text('{"step": 2, "fil')
    with caplog.at_level(logging.WARNING):
        assert load_newest(tmp_path, module, optimizer)["step"] == 1
    assert "step_00000002 is damaged" in caplog.text


def test_a_damaged_later_one_takes_no_place_of_a_good_one(tmp_path: Path) -> None:
    module, optimizer = make()
    for step in (50, 100):
        save(tmp_path, module, optimizer, step)
    (tmp_path / "step_00000100" / "state.json").write_text("{}")
    assert load_newest(tmp_path, module, optimizer)["step"] == 50
    save(tmp_path, module, optimizer, 60, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000060"]


def test_only_damaged_ones_is_an_error(tmp_path: Path) -> None:
    module, optimizer = make()
    (save(tmp_path, module, optimizer, 1) / "state.json").write_text("{}")
    with pytest.raises(UserError, match="no checkpoint under"):
        load_newest(tmp_path, module, optimizer)
    assert load_newest(tmp_path / "none", module, optimizer) is None


def test_another_model_is_refused(tmp_path: Path) -> None:
    save(tmp_path, *make(), step=1)
    with pytest.raises(UserError, match="does not fit this model"):
        load_newest(tmp_path, *make(width=16))


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, optimizer = make()
    advance(module, optimizer, 1, seed=1)
    save(tmp_path, module, optimizer, 1, keep=1)
    written = checkpoint.save_file

    def full(tensors: dict, path: Path) -> None:
        if path.name == "optimizer.safetensors":
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        written(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match=r"No space left.*last good checkpoint is .*step_00000001"):
        save(tmp_path, module, optimizer, 2, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert load_newest(tmp_path, module, optimizer)["step"] == 1


def test_leftovers_of_a_kill_are_removed_and_never_read(tmp_path: Path) -> None:
    module, optimizer = make()
    save(tmp_path, module, optimizer, 1)
    left, replaced = tmp_path / ".step_00000002.tmp-123", tmp_path / ".model.old-123"
    left.mkdir()
    replaced.mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / ".config.yaml.tmp-123").write_text("")
    (left / "state.json").write_text(json.dumps({"step": 2}))
    assert load_newest(tmp_path, module, optimizer)["step"] == 1
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"step_00000001", "model"}
