"""The words on the command line, the estimates of --dry-run, and what a run tells the outside world."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from biovfm_hf import BioVFMConfig, BioVFMModel
from biovfm_hf.errors import UserError
from biovfm_hf.hub import retries
from tests.hub_server.server import Blob, HubServer, Repo
from tests.preloaded import python
from training import objectives
from training.command import main, run_script
from training.config_file import config_from_tree, load_config, parse_overrides
from training.data.batches import Drawn, normalise
from training.estimate import memory_gib, peak_flops
from training.run import export
from training.run.device import check_devices, make_accelerator
from training.run.provenance import lineages
from training.schedule import StepValues
from training.settings.architecture import biovfm_config
from training.settings.config import TrainConfig

from .conftest import SMALL_DINO, SMALL_MAE

ROOT = Path(__file__).parents[2]
SMALL = {"dino": SMALL_DINO, "mae": SMALL_MAE}


def test_help_needs_no_torch_and_wrong_words_exit_with_2() -> None:
    """As a file, as in `python training/pretrain_dino.py --help`."""
    program = "import runpy, sys; sys.argv = ['x', *{words}]; runpy.run_path({script!r}, run_name='__main__')"
    script = str(ROOT / "training" / "pretrain_dino.py")
    checked = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); "
    run = ["--config", "dino_vit_tiny", "--out", "x"]
    for words, status, reason in (
        (["--help"], 0, ""),
        (["--out", "x"], 2, "--config"),
        ([*run, "model.size=nosuch"], 2, "model: there is no size 'nosuch'; choose one of "),
        ([*run, "model.patch_size=15"], 2, "model: image_size 224 is not a multiple of patch_size 15 (it follows"),
        ([*run, "model.patch_size=0"], 2, "model: patch_size is 0; it must be from 1 to 16384"),
        ([*run, "augment.local_size=97"], 2, "augment.local_size 97 is not a multiple of the patch size 16; use 96"),
        ([*run, "--data", "/no/such/folder"], 1, "/no/such/folder does not exist"),
    ):
        command = [sys.executable, "-c", checked + program.format(words=words, script=script)]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
        assert done.returncode == status and done.stdout.strip().endswith("False") and reason in done.stderr
    assert "examples:" in subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True).stdout


def test_help_is_about_the_config_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def shown(*words: str) -> str:
        with pytest.raises(SystemExit) as end:
            main([*words, "--help"])
        assert end.value.code == 0
        return capsys.readouterr().out

    own = tmp_path / "own.yaml"
    own.write_text("method: distill\nmodel: {size: vit-tiny}\ndistill: {cls_loss: mse}\n")
    text = shown("--data", "images", str(own))
    assert "with the distillation objective" in text and 'distill.cls_loss="mse"' in text and "dino." not in text
    assert f"-m biovfm_hf.cli pretrain {own} " in text and "pretrain distill_smoke --data" in text
    text = shown("mae_vit_small")
    assert "with the MAE objective" in text and "pretrain mae_vit_small --dry-run" in text and "dino." not in text
    for words in ((), ("nosuch",)):
        assert "CONFIG --help shows the settings" in shown(*words)


@pytest.mark.parametrize("method", ["dino", "mae"])
def test_a_dry_run_prints_a_config_that_loads_and_trains_nothing(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["--config", f"{method}_vit_small", "--out", str(tmp_path / "out"), "--dry-run"]
    assert run_script(method, words) == 0
    printed = capsys.readouterr().out
    assert config_from_tree(yaml.safe_load(printed)) == load_config(f"{method}_vit_small", {})
    for phrase in ("parameters", "GiB on every GPU, ", "FSDP over 8", "GFLOP an image", "hours of one H100",
                   "on 8, ", "images consumed", "loader cores", "GiB of disk for the 3"):  # fmt: skip
        assert phrase in printed
    frozen = re.search(r"held in memory +[\d.]+M parameters \(([\d.]+)M of them are not trained\)", printed)
    assert frozen is not None and (float(frozen[1]) > 20) == (method == "dino")  # a teacher, or positions alone
    assert "MAE" not in printed.partition("\n# ")[2]
    cores = next(line for line in printed.splitlines() if "loader cores" in line)
    if method == "mae":
        assert "  at most " in cores and cores.endswith("PNG; this config takes 1)")
    else:
        assert "  about " in cores and cores.endswith("(measured with 10 crops of a 256-pixel PNG)")
    assert not (tmp_path / "out").exists()


CONFIGS = sorted((ROOT / "training" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_dry_run_of_every_shipped_config_needs_neither_data_nor_folder(
    path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main([path.stem, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    figures = dict(re.findall(r"^# (states|activations) +about ([\d.]+) GiB", printed, re.MULTILINE))
    assert float(figures["states"]) + float(figures["activations"]) < 80, "fits one H100 or A100"


def test_a_dry_run_of_epochs_says_what_its_figures_are_of(capsys: pytest.CaptureFixture) -> None:
    assert run_script("dino", ["--config", "dino_smoke", "--dry-run", "--epochs", "10"]) == 0
    assert "# epochs            10, in steps once the data is known" in capsys.readouterr().out


def test_only_one_process_prints_a_dry_run(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    assert run_script("dino", ["--config", "dino_vit_large", "--dry-run"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("rank", [0, 1])
def test_each_machine_tells_an_error_once_and_torchrun_repeats_it(
    rank: int, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    monkeypatch.setenv("RANK", str(8 + rank))  # the second machine of two
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    words = ["--config", "dino_smoke", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]
    assert run_script("dino", words) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == (1 if rank == 0 else 0)
    failure = ProcessFailure(local_rank=rank, pid=1, exitcode=1, error_file=str(tmp_path / "error.json"))
    assert f"{tmp_path}/nowhere does not exist" in str(failure.message)


GPU_LAUNCH = {"ACCELERATE_MIXED_PRECISION": "bf16"}


@pytest.mark.parametrize(
    ("environment", "gpus", "overrides", "words"),
    [
        (GPU_LAUNCH, 0, [], "accelerate was launched for GPUs but torch sees none"),
        ({"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_FSDP": "true"}, 0, [], "launched for GPUs"),
        ({**GPU_LAUNCH, "ACCELERATE_USE_CPU": "True"}, 0, [], None),
        (GPU_LAUNCH, 0, ["run.device=cpu"], None),
        ({}, 0, [], None),
        ({}, 0, ["run.device=cuda"], "torch sees no GPU here"),
        ({"LOCAL_WORLD_SIZE": "8"}, 4, [], "8 processes on this machine, which has 4 GPU"),
        ({"LOCAL_WORLD_SIZE": "8"}, 8, [], None),
        ({}, 1, ["run.precision=bf16"], "OLD GPU has no bf16; use --run.precision fp32"),
    ],
)
def test_gpus_that_are_not_there(
    environment: dict, gpus: int, overrides: list[str], words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)  # a quickstart of an earlier test has set it
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "OLD GPU")
    config = load_config("dino_smoke", parse_overrides(overrides))
    with pytest.raises(UserError, match=words) if words else nullcontext():
        check_devices(config)


def test_losses_are_not_divided_again_by_what_accelerate_was_launched_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")  # what accelerate launch sets
    weight = torch.ones((), requires_grad=True)
    make_accelerator(load_config("mae_smoke", {"run.device": "cpu"}), tmp_path).backward(weight * 1.0)
    assert weight.grad == 1.0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["dino", "mae"])
def test_estimated_activations_are_those_that_autograd_keeps(method: str, precision: str) -> None:
    """Per image, on a ViT-S of 4 blocks. The teacher's scores and targets are not kept, so few prototypes here."""
    more = ["model.drop_path_rate=0", "model.num_hidden_layers=4", f"run.precision={precision}"]
    more += ["dino.prototypes=64"] if method == "dino" else []
    config = load_config(f"{method}_vit_small", parse_overrides(more))
    objective = objectives.method_of(method).build(config, biovfm_config(config)).train()
    kept = [kept_bytes(method, config, objective, images, precision) for images in (2, 4)]
    _, estimated = memory_gib(objectives.method_of(method), config, biovfm_config(config), objective, images=2)
    assert estimated == pytest.approx((kept[1] - kept[0]) / 2**30, rel=0.12)


def kept_bytes(method: str, config: TrainConfig, objective: torch.nn.Module, images: int, precision: str) -> int:
    """What autograd keeps of a forward pass, without the parameters."""
    ours = {parameter.untyped_storage().data_ptr() for parameter in objective.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), autocast:
        loss = forward(method, config, objective, images)
    assert loss.requires_grad  # its graph holds the tensors until here, so that no place is used twice
    return sum(size for place, size in kept.items() if place not in ours)


def forward(method: str, config: TrainConfig, objective: torch.nn.Module, images: int) -> torch.Tensor:
    """The loss of a batch of black images."""
    augment = config.augment
    drawn = Drawn(np.arange(images), np.arange(images), augment.global_size)
    batch = objectives.method_of(method).batch_extra(config)(drawn, np.random.default_rng(0))
    for name, count, size in (
        ("global_crops", augment.global_count, augment.global_size),
        ("local_crops", augment.local_count, augment.local_size),
    ):
        if count:
            batch[name] = torch.zeros(images * count, 3, size, size)
    values = StepValues(lr=0.0, last_layer_lr=0.0, weight_decay=0.0, momentum=0.9, teacher_temp=0.07)
    return objective(batch, values)[0]


@pytest.mark.parametrize("method", ["dino", "mae"])
def test_estimated_operations_are_those_that_torch_counts(method: str) -> None:
    config = load_config(f"{method}_smoke", parse_overrides(["model.drop_path_rate=0.0"]))
    objective = objectives.method_of(method).build(config, biovfm_config(config)).train()
    images = 8
    with FlopCounterMode(display=False) as counter:
        forward(method, config, objective, images).backward()
    counted = counter.get_total_flops() / images
    assert objectives.method_of(method).flops_per_image(config, biovfm_config(config)) == pytest.approx(
        counted, rel=0.25
    )


def test_tokens_of_the_published_recipe() -> None:
    config = load_config("dino_vit_large", {})
    assert objectives.method_of("dino").tokens_per_image(config, biovfm_config(config)) == 690
    assert peak_flops("NVIDIA H100 80GB HBM3") == peak_flops("NVIDIA H200") == 989e12 and peak_flops("GeForce") is None
    assert peak_flops("NVIDIA H100 PCIe") == 756e12 and peak_flops("NVIDIA H200 NVL") == 835e12


@pytest.mark.parametrize("extra", ["run.precision=bf16", "run.activation_checkpointing=true"])
@pytest.mark.parametrize("method", ["dino", "mae"])
def test_precision_and_checkpointing_change_the_means_not_the_training(
    method: str, extra: str, image_folder: Path, tmp_path: Path
) -> None:
    losses = []
    for name, more in (("plain", []), ("other", [extra])):
        words = ["--config", f"{method}_smoke", "--data", str(image_folder), "--out", str(tmp_path / name)]
        assert run_script(method, [*words, *SMALL[method], "steps=3", "model.drop_path_rate=0.2", *more]) == 0
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
        fresh_state()
    exact = "checkpointing" in extra
    assert losses[1] == pytest.approx(losses[0], rel=1e-5 if exact else 0.05)
    assert exact or losses[1] != losses[0]


def fresh_state() -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)


class Hub:
    """Stands in for `huggingface_hub.HfApi`; notes what it is asked, and fails where it is told to."""

    calls: ClassVar[list[tuple]] = []
    failing: ClassVar[str] = ""

    def __init__(self, library_name: str) -> None:
        assert library_name == "biovfm-hf"

    def create_repo(self, repository: str, private: bool, exist_ok: bool) -> None:
        self.calls.append(("create", repository, private, exist_ok))
        if self.failing == "create":
            raise PermissionError("401 Unauthorized\nlog in first")

    def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> None:
        in_background = threading.current_thread() is not threading.main_thread()
        assert in_background and (folder_path / "model.safetensors").is_file()
        self.calls.append(("upload", repo_id, commit_message))
        if self.failing == commit_message:
            raise ConnectionError("no network")


def push_run(image_folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> tuple[int, list[tuple]]:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(retries, "LONGEST_PAUSE", 0.0)
    monkeypatch.setattr(Hub, "calls", [])
    monkeypatch.setattr(Hub, "failing", failing)
    words = ["--config", "mae_smoke", "--data", str(image_folder), "--out", str(out), *SMALL_MAE]
    status = run_script("mae", [*words, "--push-to-hub", "me/model", "steps=4", "run.export_every=2"])
    return status, Hub.calls


def test_exports_are_pushed_in_the_background_and_failures_are_warnings(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    status, calls = push_run(image_folder, tmp_path, monkeypatch, failing="Step 4")
    assert status == 0
    assert calls[0] == ("create", "me/model", True, True), "private"
    assert calls[1:] == [("upload", "me/model", "Step 2"), *[("upload", "me/model", "Step 4")] * retries.ATTEMPTS]
    assert "cannot push" in caplog.text and "no network" in caplog.text


def test_a_slow_push_does_not_replace_a_later_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    arrived = []

    def upload(_: object, commit_message: str, **__: object) -> None:
        time.sleep(0.3 if commit_message == "Step 1" else 0.0)
        arrived.append(commit_message)

    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    first = export.push_in_background(tmp_path, "me/model", 1)
    export.push_in_background(tmp_path, "me/model", 2, [first]).join()
    assert arrived == ["Step 1", "Step 2"]


def test_a_repository_that_cannot_be_pushed_to_is_told_before_training(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    status, calls = push_run(image_folder, tmp_path, monkeypatch, failing="create")
    said = capsys.readouterr().err
    assert status == 1 and len(calls) == 1 and not (tmp_path / "metrics.jsonl").exists()
    assert (
        said.count("\n") == 1
        and "cannot push to me/model: creating the repository failed (401 Unauthorized log in first); " in said
    )


def on_hub(hub: HubServer, token: str, cache: Path, *words: str) -> subprocess.CompletedProcess:
    """A small MAE run in a clean process that takes `hub` for the Hub."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    command = [
        python(environment),
        str(ROOT / "training" / "pretrain_mae.py"),
        "--config",
        "mae_smoke",
        *SMALL_MAE,
        *words,
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert token not in done.stdout + done.stderr
    return done


def test_a_run_pushes_its_exports_to_a_hub(image_folder: Path, tmp_path: Path) -> None:
    """Over HTTP, to a server that follows the Hub's rules."""
    words = ["--data", str(image_folder), "--push-to-hub", "owner/model", "steps=4", "run.export_every=2"]
    with HubServer() as hub:
        done = on_hub(hub, hub.token, tmp_path, *words, "--out", str(tmp_path / "out"))
        assert done.returncode == 0 and "step 4 is at owner/model on the Hub" in done.stderr, done.stderr
        (repo,) = hub.repos.values()
        assert repo.private
        assert sorted(commit.title for commit in repo.commits.values()) == ["Step 2", "Step 4", "initial commit"]
        pushed = {repo.at(oid).files["model.safetensors"].data for oid in list(repo.commits)[1:]}
        assert (tmp_path / "out" / "model" / "model.safetensors").read_bytes() in pushed
        assert (tmp_path / "out" / "exports" / "step_00000002" / "model" / "model.safetensors").read_bytes() in pushed
        done = on_hub(hub, hub.token, tmp_path, *words, "--out", str(tmp_path / "out"))
        assert done.returncode == 0 and f"hf upload owner/model {tmp_path / 'out' / 'model'}" in done.stderr
        assert len(repo.commits) == 3
        done = on_hub(hub, "hf_" + "x" * 34, tmp_path, *words, "--out", str(tmp_path / "refused"))
        assert done.returncode == 1 and "cannot push to owner/model: " in done.stderr and "401" in done.stderr
        assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "refused" / "metrics.jsonl").exists()


@pytest.mark.parametrize("streaming", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_a_run_reads_a_dataset_of_a_hub(streaming: str, image_folder: Path, tmp_path: Path) -> None:
    import datasets

    images = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(image_folder.glob("*.png"))]
    table = datasets.Dataset.from_dict({"image": images, "modality": ["CT", "MR"] * (len(images) // 2)})
    table.cast_column("image", datasets.Image()).to_parquet(tmp_path / "train.parquet", batch_size=4)
    repo = Repo("dataset", "owner/data", private=True)
    blob = Blob((tmp_path / "train.parquet").read_bytes(), lfs=True)
    repo.add("main", "data", {"train.parquet": blob})
    words = ["--data", "owner/data", "--out", str(tmp_path / "out"), "steps=3", f"data.streaming={streaming}"]
    with HubServer() as hub:
        hub.repos["dataset", "owner/data"] = repo
        hub.lfs[blob.sha256] = blob.data
        done = on_hub(hub, hub.token, tmp_path / "cache", *words, "data.modality=MR", "data.workers=1")
        assert done.returncode == 0 and f"; {len(images) // 2} images; " in done.stderr, done.stderr
        done = on_hub(hub, hub.token, tmp_path / "cache", *words, "--data", "owner/missing")
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
        assert (
            "cannot open the data owner/missing (no such folder here, so it was looked for on the Hub)" in done.stderr
        )


def test_tensorboard_receives_the_metrics(image_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ["--config", "mae_smoke", "--data", str(image_folder), "--out", str(tmp_path), *SMALL_MAE]
    assert run_script("mae", [*words, "steps=3", "run.trackers=[tensorboard]"]) == 0
    events = EventAccumulator(str(next(tmp_path.rglob("events.out.tfevents*")).parent)).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]


def test_trackio_receives_the_metrics_as_one_run(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a stop, without a network, and under the name of the run folder."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    trackio = pytest.importorskip("trackio")
    if Path(trackio.utils.TRACKIO_DIR) != tmp_path / "trackio":
        pytest.skip("trackio was imported before, so its folder is not this test's")
    words = ["--config", "mae_smoke", "--data", str(image_folder), "--out", str(tmp_path / "my-run"), *SMALL_MAE]
    words += ["steps=6", "run.checkpoint_every=3", "run.trackers=[trackio]"]
    assert run_script("mae", words) == 0
    shutil.rmtree(tmp_path / "my-run" / "checkpoints" / "step_00000006")
    fresh_state()
    assert run_script("mae", words) == 0
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select run_id, run_name, step, metrics from metrics order by id").fetchall()
        (config,) = connection.execute("select config from configs").fetchall()
    assert {row[1] for row in rows} == {"my-run"} and len({row[0] for row in rows}) == 1
    assert [row[2] for row in rows] == [1, 2, 3, 4, 5, 6, 4, 5, 6]
    lines = [json.loads(line) for line in (tmp_path / "my-run" / "metrics.jsonl").read_text().splitlines()]
    assert [json.loads(row[3])["loss"] for row in rows[:6]] == [line["loss"] for line in lines]
    assert json.loads(config[0])["augment.preset"] == "mae"


def test_an_exported_folder_is_the_tensors_it_was_given(tmp_path: Path) -> None:
    config = config_from_tree({"method": "dino", "model": {"size": "vit-tiny"}})
    model_config = BioVFMConfig.from_size("vit-tiny", num_hidden_layers=1, image_size=32, drop_path_rate=0.3)
    model = BioVFMModel(model_config)
    export.export_models(tmp_path, {"model": model}, config, 7, 1e9, lineages(config), write=True)
    loaded = BioVFMModel.from_pretrained(tmp_path / "model")
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert loaded.config.drop_path_rate == 0.0 and model_config.drop_path_rate == 0.3
    assert "7 steps of 2,048 images" in (tmp_path / "model" / "README.md").read_text()


def test_the_processor_prepares_images_as_training_did(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    config = config_from_tree({"method": "mae", "augment": {"mean": [0.5] * 3, "std": [0.25] * 3}})
    model = BioVFMModel(BioVFMConfig.from_size("vit-tiny", num_hidden_layers=1, image_size=32))
    export.export_models(tmp_path, {"model": model}, config, 1, 1e9, lineages(config), write=True)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model")
    image = torch.arange(32 * 32, dtype=torch.int64).remainder(256).to(torch.uint8).view(32, 32)
    pixels = processor(image.numpy(), return_tensors="pt").pixel_values
    expected = normalise(image.expand(1, 3, 32, 32), config.augment.mean, config.augment.std)
    assert torch.allclose(pixels, expected, atol=1e-5)
