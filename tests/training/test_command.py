"""The words on the command line, the estimates of --dry-run, and what a run tells the outside world."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from biovfm_hf import BioVFMConfig, BioVFMModel
from training import export, pretrain_dino, pretrain_mae
from training.config import config_from_tree, load_config, model_fields, parse_overrides
from training.data import normalise
from training.estimate import flops_per_image, peak_flops, tokens_per_image
from training.schedule import StepValues

from .conftest import SMALL_DINO, SMALL_MAE

ROOT = Path(__file__).parents[2]
MODULES = {"dino": pretrain_dino, "mae": pretrain_mae}
SMALL = {"dino": SMALL_DINO, "mae": SMALL_MAE}


def test_help_needs_no_torch_and_wrong_words_exit_with_2() -> None:
    """As a file, as in `python training/pretrain_dino.py --help`."""
    program = "import runpy, sys; sys.argv = ['x', *{words}]; runpy.run_path({script!r}, run_name='__main__')"
    script = str(ROOT / "training" / "pretrain_dino.py")
    checked = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); "
    for words, status in ((["--help"], 0), (["--out", "x"], 2)):
        command = [sys.executable, "-c", checked + program.format(words=words, script=script)]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
        assert done.returncode == status and done.stdout.strip().endswith("False")
    assert "examples:" in subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True).stdout


@pytest.mark.parametrize("method", ["dino", "mae"])
def test_a_dry_run_prints_a_config_that_loads_and_trains_nothing(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["--config", f"{method}_vit_small", "--out", str(tmp_path / "out"), "--dry-run"]
    assert MODULES[method].main(words) == 0
    printed = capsys.readouterr().out
    assert config_from_tree(yaml.safe_load(printed)) == load_config(method, f"{method}_vit_small", {})
    for phrase in ("parameters", "GiB of states", "GFLOP an image", "hours of one H100"):
        assert phrase in printed
    assert not (tmp_path / "out").exists()


def test_the_scaling_studys_parameter_counts() -> None:
    """The x-axis of BioVFM's scaling plots: trained MAE parameters of tiny to large, in millions."""
    for size, millions in (("tiny", 31.2), ("small", 47.4), ("base", 111.66), ("large", 329.24)):
        config = load_config("mae", f"mae_vit_{size}", {})
        with torch.device("meta"):
            objective = pretrain_mae.load_method().build(config, model_fields(config))
        trained = sum(parameter.numel() for parameter in objective.parameters() if parameter.requires_grad)
        assert trained / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("method", ["dino", "mae"])
def test_estimated_operations_are_those_that_torch_counts(method: str) -> None:
    config = load_config(method, f"{method}_smoke", parse_overrides(["model.drop_path_rate=0.0"]))
    recipe = MODULES[method].load_method()
    objective = recipe.build(config, model_fields(config)).train()
    import numpy as np

    images = 8
    extra = recipe.batch_extra(config)(np.arange(images), np.random.default_rng(0))
    size, local = config.augment.global_size, config.augment.local_size
    crops = {"global_crops": torch.zeros(images * config.augment.global_count, 3, size, size)}
    if method == "dino":
        crops["local_crops"] = torch.zeros(images * config.augment.local_count, 3, local, local)
    with FlopCounterMode(display=False) as counter:
        values = StepValues(lr=0.0, last_layer_lr=0.0, weight_decay=0.0, momentum=0.9, teacher_temp=0.07)
        objective({**crops, **extra}, values)[0].backward()
    counted = counter.get_total_flops() / images
    assert flops_per_image(config, model_fields(config), objective) == pytest.approx(counted, rel=0.25)


def test_tokens_of_the_published_recipe() -> None:
    config = load_config("dino", "dino_vit_large", {})
    assert tokens_per_image(config, model_fields(config)) == (690, 394)
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12 and peak_flops("GeForce") is None


@pytest.mark.parametrize("extra", ["run.precision=bf16", "run.activation_checkpointing=true"])
@pytest.mark.parametrize("method", ["dino", "mae"])
def test_precision_and_checkpointing_change_the_means_not_the_training(
    method: str, extra: str, image_folder: Path, tmp_path: Path
) -> None:
    import json

    losses = []
    for name, more in (("plain", []), ("other", [extra])):
        words = ["--config", f"{method}_smoke", "--data", str(image_folder), "--out", str(tmp_path / name)]
        assert MODULES[method].main([*words, *SMALL[method], "steps=3", "model.drop_path_rate=0.2", *more]) == 0
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
        fresh_state()
    exact = "checkpointing" in extra
    assert losses[1] == pytest.approx(losses[0], rel=1e-5 if exact else 0.05)
    assert exact or losses[1] != losses[0]


def fresh_state() -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)


def test_exports_are_pushed_in_the_background_and_failures_are_warnings(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import huggingface_hub

    pushed: list[tuple[str, bool, str]] = []

    class Api:
        def create_repo(self, repository: str, exist_ok: bool) -> None:
            assert exist_ok

        def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> None:
            in_background = threading.current_thread() is not threading.main_thread()
            assert (folder_path / "model.safetensors").is_file()
            pushed.append((repo_id, in_background, commit_message))
            if len(pushed) == 2:
                raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    words = ["--config", "mae_smoke", "--data", str(image_folder), "--out", str(tmp_path), *SMALL_MAE]
    assert pretrain_mae.main([*words, "--push-to-hub", "me/model", "steps=4", "run.export_every=2"]) == 0
    assert pushed == [("me/model", True, "Step 2"), ("me/model", True, "Step 4")]
    assert "cannot push" in caplog.text and "no network" in caplog.text


def test_tensorboard_receives_the_metrics(image_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ["--config", "mae_smoke", "--data", str(image_folder), "--out", str(tmp_path), *SMALL_MAE]
    assert pretrain_mae.main([*words, "steps=3", "run.trackers=[tensorboard]"]) == 0
    events = EventAccumulator(str(next(tmp_path.rglob("events.out.tfevents*")).parent)).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]


def test_an_exported_folder_is_the_tensors_it_was_given(tmp_path: Path) -> None:
    config = config_from_tree({"method": "dino", "model": {"size": "vit-tiny"}})
    model_config = BioVFMConfig.from_size("vit-tiny", num_hidden_layers=1, image_size=32, drop_path_rate=0.3)
    model = BioVFMModel(model_config)
    export.export_models(tmp_path, {"model": model}, config, step=7, write=True)
    loaded = BioVFMModel.from_pretrained(tmp_path / "model")
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert loaded.config.drop_path_rate == 0.0 and model_config.drop_path_rate == 0.3
    assert "7 steps of 2,048 images" in (tmp_path / "model" / "README.md").read_text()


def test_the_processor_prepares_images_as_training_did(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    config = config_from_tree({"method": "mae", "augment": {"mean": [0.5] * 3, "std": [0.25] * 3}})
    model = BioVFMModel(BioVFMConfig.from_size("vit-tiny", num_hidden_layers=1, image_size=32))
    export.export_models(tmp_path, {"model": model}, config, step=1, write=True)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model")
    image = torch.arange(32 * 32, dtype=torch.int64).remainder(256).to(torch.uint8).view(32, 32)
    pixels = processor(image.numpy(), return_tensors="pt").pixel_values
    expected = normalise(image.expand(1, 3, 32, 32), config.augment.mean, config.augment.std)
    assert torch.allclose(pixels, expected, atol=1e-5)
