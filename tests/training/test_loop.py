"""Whole runs on a CPU: what they write, how they continue after a kill, on one process and on two."""

import errno
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from biovfm_hf import BioVFMConfig, BioVFMModel
from biovfm_hf.errors import UserError
from tests.preloaded import number_of, python, send
from training import loop
from training.command import run_script
from training.config_file import config_from_tree
from training.run.device import set_sharded_precision
from training.run.shards import read_whole
from training.setup import split_batch

from .conftest import SMALL as SMALL_DISTILL
from .conftest import SMALL_DINO, SMALL_MAE

ROOT = Path(__file__).parents[2]
FAST = ["optim.warmup_steps=1", "optim.base_lr=0.02", "optim.lr_rule=none"]
SMALL = {"dino": SMALL_DINO, "mae": SMALL_MAE, "distill": SMALL_DISTILL}
# method and words of DINOv3's later stages, ENCODER for the folder of a model of the same architecture
STAGES = {
    "gram": ("dino", ["gram.weight=2.0", "gram.start=2", "gram.ramp=2", "gram.refresh_every=3",
                      "augment.anchor_size=64"]),
    "high resolution": ("dino", ["gram.weight=1.5", "gram.teacher=ENCODER", "augment.mixture=[{global_size: 32, "
                                 "local_size: 16, anchor_size: 48}, {global_size: 48, local_size: 32, "
                                 "anchor_size: 64}]"]),
    "distill": ("distill", ["distill.teacher=ENCODER", "distill.students={narrow: {fields: {hidden_size: 16, "
                            "num_hidden_layers: 1, num_attention_heads: 2}}}"]),
}  # fmt: skip


def words(method: str, data: Path, out: Path, *more: str) -> list[str]:
    return ["--config", f"{method}_smoke", "--data", str(data), "--out", str(out), *SMALL[method], *more]


def train(method: str, data: Path, out: Path, *more: str) -> int:
    return run_script(method, words(method, data, out, *more))


def metrics(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same_weights(one: Path, two: Path, step: int) -> bool:
    names = ("model.safetensors", "optimizer.safetensors")
    files = [f"checkpoints/step_{step:08d}/{name}" for name in names] + ["model/model.safetensors"]
    return all(digest(one / name) == digest(two / name) for name in files)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of the tests' architecture."""
    torch.manual_seed(1)
    config = BioVFMConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16)
    folder = tmp_path_factory.mktemp("encoder")
    BioVFMModel(config).save_pretrained(folder)
    return folder


def stage_words(stage: str, encoder: Path) -> tuple[str, list[str]]:
    """The method and words of a stage; other names are methods."""
    method, more = STAGES.get(stage, (stage, []))
    return method, [word.replace("ENCODER", str(encoder)) for word in more]


def spawn(method: str, data: Path, out: Path, *more: str) -> subprocess.Popen:
    """A run in a process of its own, by the command that serves every objective."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    config, *rest = words(method, data, out, *more)[1:]
    command = [python(environment), "-m", "biovfm_hf.cli", "pretrain", config, *rest]
    return subprocess.Popen(command, env=environment, cwd=data, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_log_gets_whole_lines_and_no_bar(image_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert train("mae", image_folder, tmp_path / "out", "steps=4", "run.log_every=2") == 0
    log = capfd.readouterr().err
    assert "\r" not in log
    lines = [line for line in log.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == ["2/4", "4/4"]
    assert all(re.search(r"loss [\d.]+  lr \S+  [\d.,]+ images/s  left \d:\d\d:\d\d", line) for line in lines)


def test_a_profile_records_the_given_number_of_steps(image_folder: Path, tmp_path: Path) -> None:
    assert train("mae", image_folder, tmp_path, "steps=8", "run.profile=2") == 0
    trace = json.loads((tmp_path / "profile" / "trace.json").read_text())
    steps = {event["name"] for event in trace["traceEvents"] if event.get("name", "").startswith("ProfilerStep#")}
    assert len(steps) == 2
    assert "aten::addmm" in (tmp_path / "profile" / "operations.txt").read_text()


@pytest.mark.parametrize("method", ["dino", "mae"])
def test_a_run_writes_what_the_other_rooms_read(method: str, image_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModel

    out = tmp_path / "out"
    assert train(method, image_folder, out, "steps=4", "run.checkpoint_every=2", "run.export_every=2") == 0
    assert yaml.safe_load((out / "config.yaml").read_text())["steps"] == 4
    lines = metrics(out)
    assert [line["step"] for line in lines] == [1, 2, 3, 4] and lines[-1]["images"] == 16
    expected = {"loss", "lr", "weight_decay", "grad_norm", "images_per_second"}
    assert expected <= lines[0].keys()
    if method == "dino":
        assert {"momentum", "teacher_temp", "teacher_entropy", "ibot_loss", "koleo_loss"} <= lines[0].keys()
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step_00000002", "step_00000004"]
    assert (out / "exports" / "step_00000002" / "model" / "model.safetensors").is_file()
    assert (out / "crops.png").is_file()
    model = AutoModel.from_pretrained(out / "model")
    processor = AutoImageProcessor.from_pretrained(out / "model")
    pixels = processor(str(image_folder / "000.png"), return_tensors="pt").pixel_values
    assert model(pixels).last_hidden_state.shape == (1, 5, 32)
    assert model.config.drop_path_rate == 0.0
    assert (out / "model" / "README.md").read_text().startswith("---\nlibrary_name: transformers")
    assert not any(path.name.startswith(".") for path in out.rglob("*"))


def test_the_exported_model_is_the_teacher_and_the_autoencoder_comes_whole(image_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from biovfm_hf import BioVFMForMaskedAutoencoding

    train("dino", image_folder, tmp_path / "dino", "steps=3")
    saved = load_file(tmp_path / "dino/checkpoints/step_00000003/model.safetensors")
    model = load_file(tmp_path / "dino/model/model.safetensors")
    key = "layers.1.mlp.fc1.weight"
    assert torch.equal(model[key], saved[f"teacher.backbone.{key}"])
    assert not torch.equal(model[key], saved[f"student.backbone.{key}"])
    train("mae", image_folder, tmp_path / "mae", "steps=2")
    whole = BioVFMForMaskedAutoencoding.from_pretrained(tmp_path / "mae/model_with_decoder")
    assert whole.biovfm.config.hidden_size == 32
    saved = load_file(tmp_path / "mae/checkpoints/step_00000002/model.safetensors")
    assert all(torch.equal(tensor, saved[f"model.{name}"]) for name, tensor in whole.state_dict().items())


def test_a_run_learns(image_folder: Path, tmp_path: Path) -> None:
    train("mae", image_folder, tmp_path, "steps=30", "batch.size=12", "optim.base_lr=0.2", "watch.every=15")
    lines = metrics(tmp_path)
    assert lines[-1]["loss"] < 0.9 * lines[1]["loss"]
    assert [line["step"] for line in lines if "rankme" in line] == [0, 15, 30]


def test_accumulating_is_the_same_step_for_mae(image_folder: Path, tmp_path: Path) -> None:
    """No term of MAE compares images, so two half batches give the gradient of the whole one."""
    for name, per_process in (("whole", 4), ("halves", 2)):
        assert train("mae", image_folder, tmp_path / name, "steps=4", f"batch.per_process={per_process}", *FAST) == 0
    assert_same_training(tmp_path / "whole", tmp_path / "halves")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["run.device=cuda"], "torch sees no GPU"),
        (["batch.size=6", "batch.per_process=4"], "use batch.size="),
        (["batch.per_process=1"], "compares images"),
        (["run.trackers=[tensorbord]"], "accelerate has no 'tensorbord'; did you mean tensorboard?"),
        (["data.weight_by=modality"], "without a column 'modality'"),
        (["data.column=label", "data.modality=[CT]"], "without a column 'modality'"),
        (["watch.every=1", "watch.task=nowhere"], "watch.task nowhere"),
    ],
)
def test_mistakes_are_reported_before_training(
    more: list[str], message: str, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    if "run.device=cuda" in more and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert train("dino", image_folder, tmp_path / "out", *more) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("error: ") and message in said[0]
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_not_finite_stops_before_the_weights(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    clip = loop.clip_per_submodule
    calls = []

    def poisoned(module: torch.nn.Module, max_norm: float | None) -> dict:
        calls.append(1)
        if len(calls) == 4:
            next(module.parameters()).grad.fill_(torch.nan)
        return clip(module, max_norm)

    monkeypatch.setattr(loop, "clip_per_submodule", poisoned)
    assert train("dino", image_folder, tmp_path, "steps=6", "run.checkpoint_every=2") == 1
    said = capsys.readouterr().err
    assert "step 4: the gradient is not finite" in said and "step_00000002" in said
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3]


def test_a_full_disk_is_one_line_and_the_same_command_continues(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(loop, "export_models", full)
        assert train("mae", image_folder, tmp_path, "steps=2") == 1
    said = capsys.readouterr().err
    assert "cannot write to" in said and "No space left" in said and "step_00000002" in said
    assert train("mae", image_folder, tmp_path, "steps=2") == 0 and (tmp_path / "model").is_dir()
    assert all(line["memory_gib"] > 0 for line in metrics(tmp_path))


def test_a_run_folder_among_the_images_is_refused(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(image_folder, folder)
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    inside = "lies in the folder of images"
    for out, reason in ((folder, inside), (folder / "deep" / "run", inside), (loop, "cannot write to")):
        assert train("mae", folder, out) == 1
        assert reason in capsys.readouterr().err
    assert not (folder / "config.yaml").exists()


def test_running_again_continues_finishes_or_refuses(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train("mae", image_folder, tmp_path, "steps=2") == 0
    assert train("mae", image_folder, tmp_path, "steps=2") == 0
    assert "is finished: 2 steps" in capsys.readouterr().err
    assert train("mae", image_folder, tmp_path, "steps=3") == 1
    assert "steps 2 -> 3" in capsys.readouterr().err
    older = [line for line in (tmp_path / "config.yaml").read_text().splitlines(True) if "stream_lanes" not in line]
    (tmp_path / "config.yaml").write_text("".join(older))
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "kept")
    for path in (tmp_path / "model").iterdir():
        path.unlink()
    (tmp_path / "model").rmdir()
    assert train("mae", image_folder, tmp_path, "steps=2") == 0
    assert digest(tmp_path / "kept") == digest(tmp_path / "model" / "model.safetensors")


def test_an_export_that_was_cut_off_is_made_whole(image_folder: Path, tmp_path: Path) -> None:
    assert train("mae", image_folder, tmp_path, "steps=2") == 0
    written = []
    original = loop.export_models
    shutil.rmtree(tmp_path / "model")

    def cut_off(target: Path, modules: dict, *more: object) -> None:
        written.extend(modules)
        original(target, {name: modules[name] for name in list(modules)[:1]}, *more)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "export_models", cut_off)
        assert train("mae", image_folder, tmp_path, "steps=2") == 1
    assert written == ["model_with_decoder", "model"] and not (tmp_path / "model").exists()
    assert train("mae", image_folder, tmp_path, "steps=2") == 0
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_a_run_that_begins_anew_removes_earlier_files(image_folder: Path, tmp_path: Path) -> None:
    """As after a kill before the first checkpoint: another try may have other settings."""
    more = ["steps=2", "watch.every=1"]
    assert train("mae", image_folder, tmp_path, *more) == 0
    sheet = digest(tmp_path / "crops.png")
    for name in ("checkpoints", "model", "model_with_decoder"):
        shutil.rmtree(tmp_path / name)
    assert train("mae", image_folder, tmp_path, *more, "augment.global_scale=[0.9, 1.0]") == 0
    assert digest(tmp_path / "crops.png") != sheet
    assert [line["step"] for line in metrics(tmp_path)] == [0, 1, 2]


def test_a_damaged_image_in_the_stream_is_skipped(
    image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in image_folder.glob("*.png"):
        (data / path.name).write_bytes(path.read_bytes()[: 100 if path.name == "005.png" else None])
    assert train("mae", data, tmp_path / "out", "steps=6") == 0
    state = json.loads((tmp_path / "out/checkpoints/step_00000006/state.json").read_text())
    assert state["skipped"] == 1 and "005.png: " in caplog.text
    assert train("mae", data, tmp_path / "long", "steps=60") == 0  # ten passes over the images
    state = json.loads((tmp_path / "long/checkpoints/step_00000060/state.json").read_text())
    assert state["skipped"] == 10
    told = [record.message for record in caplog.records if "takes the place of 5" in record.message]
    assert len(told) == 2, "once in each run"


def test_many_damaged_images_are_counted_rather_than_named(caplog: pytest.LogCaptureFixture) -> None:
    run = SimpleNamespace(skipped=0, skipped_before=3, unreadable=set())
    for index in range(30):
        loop._note_skipped(run, [(index, index + 1, f"{index}.png: damaged")])
    assert run.skipped == 30 and loop._skipped_everywhere(run) == 33
    assert len(caplog.records) == 10 and caplog.records[-1].message.endswith("; more are only counted")


def test_continuing_from_a_model_folder_of_another_size(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file

    assert train("dino", image_folder, tmp_path / "first", "steps=2") == 0
    folder = tmp_path / "first" / "model"
    more = ["steps=1", f"model.init_from={folder}", "augment.global_size=48", "optim.base_lr=0.0"]
    assert train("dino", image_folder, tmp_path / "second", *more) == 0
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "second/model/model.safetensors")
    assert torch.equal(before["layers.0.attention.qkv.weight"], after["layers.0.attention.qkv.weight"])
    assert after["embeddings.position_embeddings"].shape == (1, 10, 32)
    folder.rename(tmp_path / "moved")  # a run that has begun needs it no more
    shutil.rmtree(tmp_path / "second" / "model")
    assert train("dino", image_folder, tmp_path / "second", *more) == 0
    assert train("mae", image_folder, tmp_path / "third", "steps=1", "model.init_from=nowhere/at_all") == 1
    assert train("mae", image_folder, tmp_path / "third", "steps=1", f"model.init_from={tmp_path}/none") == 1
    assert "none: no such file or folder" in capsys.readouterr().err


def test_continuing_from_a_run_takes_heads_teacher_and_decoder_along(image_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    for method in ("dino", "mae"):
        first, second = tmp_path / method, tmp_path / f"{method}_more"
        assert train(method, image_folder, first, "steps=3", *FAST) == 0
        more = ["steps=1", f"model.init_from={first}", "augment.global_size=48", "optim.base_lr=0.0"]
        still = ["teacher.momentum=1.0"] if method == "dino" else []
        assert train(method, image_folder, second, *more, *still) == 0
        name = "model.safetensors"
        before = load_file(first / "checkpoints/step_00000003" / name)
        after = load_file(second / "checkpoints/step_00000001" / name)
        assert before.keys() == after.keys()
        resized = {key for key in before if before[key].shape != after[key].shape}
        assert resized and all(key.endswith("position_embeddings") for key in resized)
        same = [key for key in before if key not in resized and not key.endswith("_center")]
        assert all(torch.equal(before[key], after[key]) for key in same)
        heads = {"dino": "teacher.dino_head.last_layer.weight_v", "mae": "model.decoder.layers.0.mlp.fc1.weight"}
        assert heads[method] in same


def test_continuing_from_transformers_own_folder_takes_all_of_it(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from safetensors.torch import load_file
    from transformers import Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    theirs = Dinov2Model(Dinov2Config(**sizes))
    theirs.save_pretrained(tmp_path / "theirs")
    more = ["steps=1", "optim.base_lr=0.0", f"model.init_from={tmp_path / 'theirs'}"]
    assert train("dino", image_folder, tmp_path / "run", *more) == 0
    ours = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert torch.equal(ours["layers.1.mlp.fc1.weight"], theirs.state_dict()["encoder.layer.1.mlp.fc1.weight"])
    assert train("dino", image_folder, tmp_path / "other", *more, "model.num_attention_heads=4") == 1
    assert "has num_attention_heads 2, this model 4" in capsys.readouterr().err


def test_continuing_from_dinov2s_and_maes_own_files(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Heads and decoder come along; a DINOv2 file holds the teacher's alone."""
    from safetensors.torch import load_file

    from biovfm_hf.conversion.names import DINOV2, MAE, rename_to_theirs

    parts = {"dino": ("teacher.backbone.", DINOV2), "mae": ("model.", MAE)}
    still = ["steps=1", "optim.base_lr=0.0", "augment.global_size=48"]
    for method, (prefix, table) in parts.items():
        assert train(method, image_folder, tmp_path / method, "steps=3", *FAST) == 0
        before = load_file(tmp_path / method / "checkpoints/step_00000003/model.safetensors")
        ours = {name.removeprefix(prefix): tensor for name, tensor in before.items() if name.startswith(prefix)}
        theirs, homeless = rename_to_theirs({name.removeprefix("biovfm."): ours[name] for name in ours}, table)
        assert not homeless
        heads = {name: tensor for name, tensor in before.items() if name.startswith("teacher.dino_head.")}
        if method == "dino":
            theirs = {f"backbone.{name}": tensor for name, tensor in theirs.items()}
            theirs |= {name.removeprefix("teacher."): tensor for name, tensor in heads.items()}
        start = tmp_path / f"{method}.pth"
        torch.save({"teacher" if method == "dino" else "model": theirs}, start)
        more = [*still, *(["teacher.momentum=1.0"] if method == "dino" else []), f"model.init_from={start}"]
        assert train(method, image_folder, tmp_path / f"{method}_more", *more) == 0
        after = load_file(tmp_path / f"{method}_more" / "checkpoints/step_00000001/model.safetensors")
        same = [name for name in before if name.startswith(prefix) and "position_embeddings" not in name]
        assert all(torch.equal(before[name], after[name]) for name in [*same, *heads])
        for name in heads:
            assert torch.equal(before[name], after[name.replace("teacher", "student")])
    more = [*still, f"model.init_from={tmp_path / 'dino.pth'}"]
    assert train("dino", image_folder, tmp_path / "other", *more, "dino.prototypes=64") == 1
    assert "weight_g is (32, 1), this model needs (64, 1); give the model section" in capsys.readouterr().err
    assert train("mae", image_folder, tmp_path / "other", *more) == 0, "an encoder whose mask token MAE leaves out"


def test_a_run_of_other_heads_or_method_is_refused(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train("dino", image_folder, tmp_path / "first", "steps=1") == 0
    capsys.readouterr()
    start = f"model.init_from={tmp_path / 'first'}"
    assert train("dino", image_folder, tmp_path / "second", "steps=1", start, "dino.prototypes=64") == 1
    assert "is (1, 32), this model needs (1, 64); give the model section (and" in capsys.readouterr().err
    assert train("mae", image_folder, tmp_path / "third", "steps=1", start) == 1
    assert "has no tensor model." in capsys.readouterr().err


def test_a_batch_of_more_images_than_there_are_is_warned_of(
    image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert train("mae", image_folder, tmp_path / "some", "steps=1", "batch.size=24") == 0
    assert "more than the" not in caplog.text
    assert train("mae", image_folder, tmp_path / "all", "steps=1", "batch.size=25") == 0
    assert "batch.size 25 is more than the 24 images" in caplog.text


def test_a_changed_machine_is_reported(image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert train("mae", image_folder, tmp_path, "steps=2") == 0
    state = tmp_path / "checkpoints" / "step_00000002" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "processes": 8}))
    assert train("mae", image_folder, tmp_path, "steps=2") == 0
    assert "processes 8 -> 1" in caplog.text and "not be bitwise" in caplog.text


def test_what_a_run_did_not_write_is_not_replaced(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name, file, words in (
        ("model", "model/model.safetensors", "holds model/ but no config.yaml"),
        ("other", "config.yaml", "config.yaml is not of a pretraining run"),
        ("file", None, "choose another --out"),
    ):
        path = tmp_path / name / file if file else tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        assert train("mae", image_folder, tmp_path / name, "steps=1") == 1
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1 and path.read_text() == "mine"
    assert train("mae", image_folder, tmp_path / "run", "steps=1") == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert train("mae", image_folder, tmp_path / "run", "steps=2") == 1, "the model there is of another run"


def test_running_out_of_memory_is_reported_with_the_remedy(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr(loop, "clip_per_submodule", full)
    assert train("mae", image_folder, tmp_path, "steps=1") == 1
    said = capsys.readouterr().err
    assert "step 1: the GPU has too little memory for 4 images a pass; halve batch.per_process" in said


def test_batches_divide_over_processes() -> None:
    config = config_from_tree({"method": "dino", "batch": {"size": 24, "per_process": 4}})
    share, accumulation = split_batch(config, processes=3, rank=1)
    assert (share.images, share.rank, accumulation) == (4, 1, 2)
    share, accumulation = split_batch(config, processes=12, rank=1)
    assert (share.images, accumulation) == (2, 1), "per_process is a limit, not a demand"
    with pytest.raises(UserError, match=r"too small for 16 process\(es\), .* use batch.size=32 or more"):
        split_batch(config, processes=16, rank=0)
    with pytest.raises(UserError, match="24 is not a multiple of 5 process"):
        split_batch(config, processes=5, rank=0)


def assert_same_training(one: Path, two: Path) -> None:
    """Every loss and gradient norm agrees, and the steps did change them, so the weights agree too."""
    first, second = ([(line["loss"], line["grad_norm"]) for line in metrics(folder)] for folder in (one, two))
    assert len({round(loss, 3) for loss, _ in first}) > 2
    for (loss, norm), (other_loss, other_norm) in zip(first, second, strict=True):
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert other_norm == pytest.approx(norm, rel=1e-3)


# --- killed runs -------------------------------------------------------------------------------------------------


def interrupt(method: str, data: Path, out: Path, target: int, how: signal.Signals, *more: str) -> tuple[int, str]:
    """Start a run, send it a signal once it has logged `target` steps, and return its exit status and last words."""
    process = spawn(method, data, out, *more)
    path = out / "metrics.jsonl"
    while process.poll() is None:
        if path.is_file() and path.read_text().count("\n") >= target:
            send(process, how)
            break
        time.sleep(0.005)
    said = process.communicate(timeout=240)[1].decode()
    return process.returncode, said


def assert_undisturbed(whole: Path, interrupted: Path, steps: int) -> None:
    assert same_weights(whole, interrupted, steps)
    speed = ("images_per_second", "memory_gib")
    one, two = (
        [{key: value for key, value in line.items() if key not in speed} for line in metrics(folder)]
        for folder in (whole, interrupted)
    )
    assert one == two


def test_interrupted_runs_end_with_the_same_bits(image_folder: Path, tmp_path: Path) -> None:
    """Killed without warning in one place and asked to stop in another, each time with another number of workers."""
    more = ["steps=24", "run.checkpoint_every=5", "model.drop_path_rate=0.2"]
    assert train("dino", image_folder, tmp_path / "whole", *more) == 0
    out = tmp_path / "killed"
    status, _ = interrupt("dino", image_folder, out, 8, signal.SIGKILL, *more, "data.workers=1")
    assert status == -signal.SIGKILL and not (out / "model").exists()
    status, said = interrupt("dino", image_folder, out, 12, signal.SIGTERM, *more)
    assert status == 1 and "continuing after step" in said and "run the same command again to continue" in said
    assert train("dino", image_folder, out, *more) == 0
    assert_undisturbed(tmp_path / "whole", out, 24)


@pytest.mark.parametrize("stage", STAGES)
def test_killed_stages_end_with_the_same_bits(stage: str, encoder: Path, image_folder: Path, tmp_path: Path) -> None:
    method, more = stage_words(stage, encoder)
    more += ["steps=12", "run.checkpoint_every=4"]
    assert train(method, image_folder, tmp_path / "whole", *more) == 0
    status, _ = interrupt(method, image_folder, tmp_path / "killed", 6, signal.SIGKILL, *more)
    assert status == -signal.SIGKILL and not (tmp_path / "killed" / "model").exists()
    assert train(method, image_folder, tmp_path / "killed", *more) == 0
    assert_undisturbed(tmp_path / "whole", tmp_path / "killed", 12)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_workers_get_too_keeps_what_was_done(
    how: signal.Signals, image_folder: Path, tmp_path: Path
) -> None:
    """As torchrun, `timeout` and schedulers send it: to all processes, in any order."""
    process = spawn("dino", image_folder, tmp_path, "steps=4000", "data.workers=2")
    path = tmp_path / "metrics.jsonl"
    while process.poll() is None and not (path.is_file() and path.read_text().count("\n") > 3):
        time.sleep(0.005)
    for worker in psutil.Process(number_of(process)).children():
        worker.send_signal(how)
    time.sleep(0.2)
    process.send_signal(how)
    said = process.communicate(timeout=240)[1].decode()
    assert process.returncode == 1 and "run the same command again to continue" in said
    assert "Traceback" not in said and list((tmp_path / "checkpoints").glob("step_*"))


def test_an_unforeseen_error_does_not_wait_for_workers(image_folder: Path, tmp_path: Path) -> None:
    process = spawn("dino", image_folder, tmp_path, "steps=4000", "data.workers=2")
    while process.poll() is None and not (tmp_path / "metrics.jsonl").is_file():
        time.sleep(0.005)
    process.stderr.close()  # whoever reads the progress bar is gone
    try:
        assert process.wait(timeout=20) == 1
    finally:
        process.kill()
        process.stdout.close()


def test_a_run_that_is_still_writing_keeps_another_out(image_folder: Path, tmp_path: Path, capsys) -> None:
    """As after a killed launcher: its processes live on for a while."""
    more = ["steps=400", "run.checkpoint_every=2"]
    process = spawn("dino", image_folder, tmp_path, *more)
    try:
        while process.poll() is None and not (tmp_path / "metrics.jsonl").is_file():
            time.sleep(0.01)
        os.kill(number_of(process), signal.SIGSTOP)  # alive, and quiet while the second one starts
        assert train("dino", image_folder, tmp_path, *more) == 1
        assert f"{tmp_path}: process {number_of(process)} on " in capsys.readouterr().err
    finally:
        send(process, signal.SIGKILL)
        process.communicate()
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    assert train("dino", image_folder, tmp_path, "steps=1") == 0  # the dead hold nothing


def test_only_a_second_interrupt_ends_at_once() -> None:
    stop = loop._StopSignal()
    try:
        for _ in range(2):  # a scheduler signals every process, and the launcher passes on its own
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        stop.restore()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", ["dino", "mae"])
def test_twenty_kills_end_with_the_same_bits(method: str, image_folder: Path, tmp_path: Path) -> None:
    """DINO reads a folder of images, MAE a stream of Parquet row groups."""
    import datasets

    more = ["steps=60", "run.checkpoint_every=2", "model.drop_path_rate=0.2"]
    if method == "mae":
        images = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(image_folder.glob("*.png"))]
        table = datasets.Dataset.from_dict({"image": images}).cast_column("image", datasets.Image())
        table.to_parquet(tmp_path / "data" / "train.parquet", batch_size=4)
        image_folder, more = tmp_path / "data", [*more, "data.streaming=true"]
    assert train(method, image_folder, tmp_path / "whole", *more) == 0
    generator = random.Random(0)
    for kill in range(20):
        target = 3 * kill + generator.randint(0, 3)
        workers = f"data.workers={kill % 3}"
        interrupt(method, image_folder, tmp_path / "killed", target, signal.SIGKILL, *more, workers)
    assert train(method, image_folder, tmp_path / "killed", *more) == 0
    assert_undisturbed(tmp_path / "whole", tmp_path / "killed", 60)


# --- two processes -----------------------------------------------------------------------------------------------


ACCELERATE = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def launch(method: str, data: Path, out: Path, *more: str, script: Path | None = None) -> subprocess.CompletedProcess:
    launcher = [python(), "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    script = [str(script or ROOT / "training" / f"pretrain_{method}.py"), *words(method, data, out, *more)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHON_EXEC": python()}
    return subprocess.run(
        [*launcher, *script], env=environment, capture_output=True, text=True, timeout=540, check=False
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", ["dino", pytest.param("mae", marks=pytest.mark.slow)])
def test_two_processes_train_as_one_with_the_joint_batch(method: str, image_folder: Path, tmp_path: Path) -> None:
    """Without DINO's masks and KoLeo, whose draws and statistics are per process, both runs compute the same step."""
    more = ["steps=4", *FAST, *(["dino.koleo_weight=0.0", "mask.probability=0.0"] if method == "dino" else [])]
    done = launch(method, image_folder, tmp_path / "two", *more)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 process(es) x 2" in done.stderr
    assert train(method, image_folder, tmp_path / "one", *more) == 0
    assert_same_training(tmp_path / "one", tmp_path / "two")


FULL_DISK_SCRIPT = """
import errno, sys
sys.path.insert(0, ROOT)
from training.command import run_script
from training.run import checkpoint

def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

checkpoint.save_file = full
sys.exit(run_script("mae"))
"""


@pytest.mark.slow
def test_both_processes_end_with_a_message_if_one_cannot_write(image_folder: Path, tmp_path: Path) -> None:
    script, out = tmp_path / "full.py", tmp_path / "out"
    script.write_text(FULL_DISK_SCRIPT.replace("ROOT", repr(str(ROOT))))
    done = launch("mae", image_folder, out, "steps=2", script=script)
    assert done.returncode == 1 and "error: cannot write" in done.stderr and "make room" in done.stderr
    assert "[rank" not in done.stderr, "a traceback of the other process"
    (out / "model").mkdir()
    done = launch("mae", image_folder, out, "steps=3")
    assert done.returncode == 1 and "holds a run with other settings (steps 2 -> 3)" in done.stderr
    assert "[rank" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_machines_train_as_one(image_folder: Path, tmp_path: Path) -> None:
    """As docs/cluster.md starts them, here both on this one."""
    more = ["steps=4", "dino.koleo_weight=0.0", "mask.probability=0.0", *FAST]
    settings = ["--config_file", str(ROOT / "training/launch/ddp_4x8gpu.yaml"), "--num_machines", "2"]
    settings += ["--num_processes", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
    script = [str(ROOT / "training/pretrain_dino.py"), *words("dino", image_folder, tmp_path / "two", *more)]
    commands = [[*ACCELERATE, *settings, "--machine_rank", str(rank), *script] for rank in (0, 1)]
    machines = [subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) for command in commands]
    assert [machine.wait(timeout=540) for machine in machines] == [0, 0]
    assert train("dino", image_folder, tmp_path / "one", *more) == 0
    assert_same_training(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpu", "ddp_8gpu", "fsdp2_8gpu"])
def test_accelerate_launches_with_each_shipped_file(name: str, image_folder: Path, tmp_path: Path) -> None:
    settings = ["--config_file", str(ROOT / "training/launch" / f"{name}.yaml"), "--num_processes", "2"]
    settings = settings[:2] if name == "gpu" else settings
    start = [*ACCELERATE, *settings, str(ROOT / "training/pretrain_mae.py")]
    done = subprocess.run([*start, "--config", "mae_smoke", "--dry-run"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count("# encoder ") == 1
    run = words("mae", image_folder, tmp_path / "out", "steps=2", "run.device=auto")
    done = subprocess.run([*start, *run], capture_output=True, text=True, check=False)
    if torch.cuda.device_count() >= 2:
        assert done.returncode == 0, done.stderr[-2000:]
    elif not torch.cuda.is_available():
        assert done.returncode == 1 and "accelerate was launched for GPUs but torch sees none" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dino", "mae"])
def test_compiled_blocks_train_the_same(method: str, image_folder: Path, tmp_path: Path) -> None:
    for name, more in (("plain", "false"), ("compiled", "true")):
        assert train(method, image_folder, tmp_path / name, "steps=4", f"run.compile={more}", *FAST) == 0
    assert_same_training(tmp_path / "plain", tmp_path / "compiled")


FSDP_SCRIPT = """
import sys
sys.path.insert(0, ROOT)
from torch.distributed.tensor import DTensor
from tests.training.sharding import shard_on_cpu
from training import setup
from training.command import run_script

prepare = setup.prepare

def checked_prepare(accelerator, objective, optimizer, config):
    prepared = prepare(accelerator, objective, optimizer, config)
    assert all(isinstance(parameter, DTensor) for parameter in objective.parameters())
    return prepared

setup.prepare = checked_prepare
shard_on_cpu()
sys.exit(run_script("METHOD"))
"""


def sharded_script(method: str, folder: Path) -> Path:
    script = folder / "sharded.py"
    script.write_text(FSDP_SCRIPT.replace("ROOT", repr(str(ROOT))).replace("METHOD", method))
    return script


def tensors_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": tensor for part in ("model", "optimizer") for name, tensor in read_part(checkpoint, part)
    }


def read_part(checkpoint: Path, part: str) -> Iterable[tuple[str, torch.Tensor]]:
    folder = checkpoint / part
    return (read_whole(folder) if folder.is_dir() else load_file(f"{folder}.safetensors")).items()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["dino", "mae", *STAGES])
def test_sharded_training_is_the_same_training_and_continues(
    stage: str, encoder: Path, image_folder: Path, tmp_path: Path
) -> None:
    """FSDP2: the loop's one module, the teacher's average on shards, checkpoints in shards that any number reads."""
    method, more = stage_words(stage, encoder)
    script = sharded_script(method, tmp_path)
    alike = ["dino.koleo_weight=0.0", "mask.probability=0.0"] if method == "dino" else []  # else drawn by each process
    more += ["steps=6", "run.checkpoint_every=3", *FAST, *alike]
    for name, chosen in (("sharded", script), ("copies", None)):
        done = launch(method, image_folder, tmp_path / name, *more, script=chosen)
        assert done.returncode == 0, done.stderr[-3000:]
    assert_same_training(tmp_path / "copies", tmp_path / "sharded")
    last = Path("checkpoints", "step_00000006")
    for part in ("model", "optimizer"):
        assert len(list((tmp_path / "sharded" / last / part).glob("*.safetensors"))) == 2, "one of each process"
    sharded, copies = (tensors_of(tmp_path / name / last) for name in ("sharded", "copies"))
    assert sharded.keys() == copies.keys()
    assert all(sharded[name].shape == copies[name].shape for name in copies)
    for name in ("again", "alone"):
        shutil.copytree(tmp_path / "sharded", tmp_path / name)
        shutil.rmtree(tmp_path / name / "model")
    damaged = next((tmp_path / "again" / last / "optimizer").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    done = launch(method, image_folder, tmp_path / "again", *more, script=script)
    assert (
        done.returncode == 0 and "continuing after step 3" in done.stderr and "is not what was written" in done.stderr
    )
    assert all(torch.equal(tensor, sharded[name]) for name, tensor in tensors_of(tmp_path / "again" / last).items())
    shutil.rmtree(tmp_path / "alone" / last)
    assert train(method, image_folder, tmp_path / "alone", *more) == 0  # one process, from the shards of two
    assert_same_training(tmp_path / "copies", tmp_path / "alone")
    onward = [f"model.init_from={tmp_path / 'sharded'}", "steps=1", "optim.warmup_steps=1"]
    assert train(method, image_folder, tmp_path / "next", *more, *onward) == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dino", "mae"])
def test_sharded_bfloat16_rounds_neither_the_batch_nor_the_losses(
    method: str, image_folder: Path, tmp_path: Path
) -> None:
    more = ["steps=3", "run.precision=bf16", *FAST]
    for name, chosen in (("sharded", sharded_script(method, tmp_path)), ("copies", None)):
        done = launch(method, image_folder, tmp_path / name, *more, script=chosen)
        assert done.returncode == 0, done.stderr[-3000:]
    losses, expected = ([line["loss"] for line in metrics(tmp_path / name)] for name in ("sharded", "copies"))
    assert any(loss * 4096 % 1 for loss in losses)  # the mean of two that were rounded has no such bits
    assert losses == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize(("precision", "sharded"), [("bf16", True), ("no", True), ("bf16", False)])
def test_only_weights_are_cast_where_they_are_sharded(precision: str, sharded: bool) -> None:
    plugin = SimpleNamespace(mixed_precision_policy=None)
    state = SimpleNamespace(fsdp_plugin=plugin)
    set_sharded_precision(SimpleNamespace(is_fsdp2=sharded, mixed_precision=precision, state=state))
    policy = plugin.mixed_precision_policy
    if precision == "bf16" and sharded:
        assert (policy.param_dtype, policy.reduce_dtype) == (torch.bfloat16, torch.float32)
        assert policy.output_dtype is None and not policy.cast_forward_inputs
    else:
        assert policy is None
