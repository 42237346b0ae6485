"""The registry of objectives: what every entry must hold, and a further one that touches nothing but its folder."""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import invalidate_caches
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModel

from biovfm_hf import BioVFMConfig, BioVFMModel
from biovfm_hf.cards.objective import read_objective
from biovfm_hf.errors import UserError
from evaluation.analysis.scaling.model_size import axis_values
from evaluation.analysis.scaling.tables import Point
from evaluation.analysis.scaling_command import main
from model_cards.card.facts import gather
from model_cards.card.options import CardOptions
from model_cards.card.render import render_card
from model_cards.formats import short_count
from model_cards.inputs.run import summarise_run
from model_cards.report.material import Material
from model_cards.report.pictures import PictureStore
from model_cards.report.training import training_section
from training import objectives
from training.command import pretrain, run_script
from training.config_file import config_from_tree, load_config, shipped_configs
from training.data.batches import Drawn
from training.estimate import describe
from training.objectives.method import Method
from training.recipes import counted_objectives
from training.schedule import StepValues
from training.settings.architecture import biovfm_config
from training.settings.augment import preset
from training.settings.config import TrainConfig
from training.settings.typed import plain

from ..conftest import SMALL

SIMMIM = "tests.training.objectives.simmim"


@pytest.fixture(autouse=True)
def further() -> Iterator[None]:
    """SimMIM among the objectives."""
    objectives.register(SIMMIM)
    yield
    objectives.unregister("simmim")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A frozen teacher, for the objective that has one."""
    folder = tmp_path_factory.mktemp("teacher")
    BioVFMModel(BioVFMConfig.from_size("vit-tiny", num_hidden_layers=1, image_size=32)).save_pretrained(folder)
    return str(folder)


def small(name: str, teacher: str) -> TrainConfig:
    tree: dict = {"method": name, "model": {"size": "vit-tiny", "num_hidden_layers": 1}, "batch": {"size": 4}}
    tree["augment"] = {"global_size": 32, **({"local_size": 16} if objectives.config_of(name).local_crops else {})}
    if name == "distill":
        tree["distill"] = {"teacher": teacher}
    return config_from_tree(tree)


@pytest.mark.parametrize("name", [*objectives.names(), "simmim"])
def test_an_entry_has_everything_that_other_code_reads(name: str, teacher: str) -> None:
    """Walked by name, and the next test sees that no objective is left out."""
    kind, method = objectives.config_of(name), objectives.method_of(name)
    assert issubclass(kind, TrainConfig) and isinstance(method, Method)
    assert kind().method == name and kind.title
    assert config_from_tree({"method": name}) == kind(), "a recipe that says nothing has the objective's own defaults"
    assert re.fullmatch(r"[a-z][\w -]+: \w.{9,}[^.]", kind.summary), "a card says: It was pretrained by SUMMARY."
    assert kind.smallest_batch >= 1 and kind.crops >= 1
    config = small(name, teacher)
    model_config = biovfm_config(config)
    torch.manual_seed(0)
    objective = method.build(config, model_config).train()
    extra, drawn = method.batch_extra(config), Drawn(np.arange(4), np.arange(4), 32)
    batch = extra(drawn, np.random.default_rng(0)) if extra else {}
    batch["global_crops"] = torch.randn(4 * kind.crops, 3, 32, 32)
    if kind.local_crops:
        batch["local_crops"] = torch.randn(4 * config.augment.local_count, 3, 16, 16)
    values = method.schedule(config, 1e-3).at(3)
    assert isinstance(values, StepValues)
    loss, terms = objective(batch, values)
    loss.backward()
    method.after_step(objective, values)
    assert loss.isfinite() and terms and not any(term.requires_grad for term in terms.values())
    groups = method.parameter_groups(objective, config)
    named = [one for group in groups for one in group["names"]]
    trained = [parameter for parameter in method.trained(objective).parameters() if parameter.requires_grad]
    assert len(named) == len(set(named)) == len(trained)
    assert list(method.exported(objective))[-1] == "model"
    tokens = torch.randn(2, 5, 192)
    assert method.features(tokens, 1).shape == (2, 192)
    assert method.flops_per_image(config, model_config) > 0 and method.tokens_per_image(config, model_config) > 1
    assert "GFLOP an image" in describe(config, method)


def test_every_folder_is_walked_and_holds_the_same_files() -> None:
    folder = Path(objectives.__file__).parent
    assert {"dino", "distill", "mae", "simmim"} <= set(objectives.names())
    same = {"__init__.py", "config.py", "method.py", "objective.py"}
    for name in {path.parent.name for path in folder.glob("*/*.py")}:
        assert same <= {path.name for path in (folder / name).glob("*.py")}
        assert f"{name}_smoke" in shipped_configs(name)
    scripts = {path.stem for path in folder.parent.glob("pretrain_*.py")}
    assert scripts == {"pretrain_dino", "pretrain_mae"}, "`-m biovfm_hf.cli pretrain` runs any objective"
    for page in ("CONTRIBUTING.md", "docs/pretraining.md"):
        text = (folder.parents[1] / page).read_text(encoding="utf-8")
        assert all(file in text for file in (*same, "NAME_smoke.yaml")), f"{page} leaves one out"


def test_an_unknown_objective_is_reported_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="there is no objective 'dyno'; did you mean dino"):
        config_from_tree({"method": "dyno"})
    with pytest.raises(UserError, match=f"one of {', '.join(objectives.names())}"):
        config_from_tree({"steps": 3})


def test_a_preset_replaces_the_objectives_own_augmentation() -> None:
    named = config_from_tree({"method": "simmim", "augment": {"preset": "mae", "blur_p": [0.5, 0, 0]}}).augment
    assert named == replace(preset("mae"), blur_p=(0.5, 0.0, 0.0))
    own = config_from_tree({"method": "simmim", "augment": {"blur_p": [0.5, 0, 0]}}).augment
    assert own == replace(named, global_scale=(0.67, 1.0), flip_by_modality={"Microscopy": (0.5, 0.5)})
    hint = "no local ones; give augment.global_count=1 and augment.local_count=0"
    with pytest.raises(UserError, match=hint):
        config_from_tree({"method": "simmim", "augment": {"preset": "dinov2"}})
    fitting = {"preset": "dinov2", "global_count": 1, "local_count": 0}
    assert config_from_tree({"method": "simmim", "augment": fitting}).augment.jitter_p == 0.8


def test_an_incomplete_objective_is_named_and_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "unfinished"
    package.mkdir()
    (package / "method.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    objectives.register("unfinished")
    try:
        assert load_config("mae_smoke").method == "mae"
        with pytest.raises(UserError, match="unknown config key stepz; did you mean steps"):
            load_config("mae_smoke", {"stepz": 1})
        assert "mae" in counted_objectives() and "unfinished" not in counted_objectives()
        with pytest.raises(UserError, match=r"objective unfinished is incomplete: unfinished/config\.py with CONFIG"):
            objectives.config_of("unfinished")
        with pytest.raises(UserError, match=r"unfinished/method\.py with METHOD is missing"):
            objectives.method_of("unfinished")
        (package / "method.py").unlink()
        monkeypatch.delitem(sys.modules, "unfinished.method")  # as in a process that begins now
        (package / "config.py").write_text("from training.objectives.mae.config import CONFIG\n")
        invalidate_caches()
        assert "unfinished" not in counted_objectives()  # it has no method yet, so nothing counts its compute
    finally:
        objectives.unregister("unfinished")


@pytest.mark.parametrize(
    ("file", "content", "fault"),
    [
        ("method", "METHOD = missing_name", "NameError"),
        ("method", "METHOD = (", "SyntaxError"),
        ("method", "import no_such_package", "No module named 'no_such_package'"),
        ("config", "raise RuntimeError('half done')", "RuntimeError: half done"),
        ("config", "class CONFIG:\n    def __init__(self):\n        raise ValueError('no default')", "no default"),
    ],
)
def test_a_broken_objective_is_told_by_name_and_stops_no_other(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
    file: str,
    content: str,
    fault: str,
) -> None:
    name = tmp_path.name  # of its own, so that no module of another case is taken
    (tmp_path / name).mkdir()
    for each in ("config", "method"):
        (tmp_path / name / f"{each}.py").write_text(f"from training.objectives.mae.{each} import {each.upper()}\n")
    (tmp_path / name / f"{file}.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    objectives.register(name)
    try:
        assert main(["sizes"]) == 0 and main(["sizes"]) == 0
        assert "MAE GFLOP/img" in capsys.readouterr().out
        (told,) = [record.getMessage() for record in caplog.records]
        assert told.startswith(f"{name} is left out of the objectives: ") and fault in told
        with pytest.raises(UserError, match="unknown config key stepz; did you mean steps"):
            load_config("mae_smoke", {"stepz": 1})
        with pytest.raises((UserError, ModuleNotFoundError), match=re.escape(fault)):
            (objectives.config_of if file == "config" else objectives.method_of)(name)
    finally:
        objectives.unregister(name)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "simmim.yaml"
    path.write_text("method: simmim\nsteps: 8\nmodel: {size: vit-tiny}\noptim: {warmup_steps: 0.1}\n")
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_further_objective_trains_resumes_and_is_loaded(recipe: Path, image_folder: Path, tmp_path: Path) -> None:
    """Through the Python function; its own section is read, checked and written like any other."""
    more = ["run.checkpoint_every=4", "run.export_every=4", "watch.every=4", "simmim.ratio=0.5", *SMALL]
    for out in ("whole", "resumed"):
        model = pretrain(recipe, data=image_folder, out=tmp_path / out, overrides=more)
        assert model == tmp_path / out / "model"
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(9)) and "simmim_loss" in lines[-1] and "rankme" in lines[-1]
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "step_00000008")
    shutil.rmtree(tmp_path / "resumed" / "model")
    pretrain(recipe, data=image_folder, out=tmp_path / "resumed", overrides=more)
    for name in ("model/model.safetensors", "checkpoints/step_00000008/optimizer.safetensors"):
        assert digest(tmp_path / "whole" / name) == digest(tmp_path / "resumed" / name)
    loaded = AutoModel.from_pretrained(tmp_path / "whole" / "model")
    assert loaded(torch.zeros(1, 3, 32, 32)).last_hidden_state.shape == (1, 5, 32)
    stub = (tmp_path / "whole" / "model" / "README.md").read_text()
    assert "pretrained with SimMIM" in stub and "predicted by one layer" in stub
    written = yaml.safe_load((tmp_path / "whole" / "config.yaml").read_text())
    assert written["simmim"] == {"ratio": 0.5} and "dino" not in written
    check_card_of_simmim(tmp_path / "whole")
    check_report_of_simmim(tmp_path / "whole")


def check_card_of_simmim(run: Path) -> None:
    """Its card names it alone, and counts as its `Method` does."""
    card = render_card(gather(CardOptions(run / "model", run=run)))
    assert "pretrained with the SimMIM recipe" in card and "predicted by one layer" in card
    assert "- simmim\n" in card and "the recipe from SimMIM (arXiv 2111.09886)" in card
    assert not any(other in card for other in ("DINOv2", "- dinov2", "MAE"))
    objective = read_objective(run / "model")
    config = load_config(run / "config.yaml")
    assert objective is not None
    assert objective.flops_per_image == objectives.method_of("simmim").flops_per_image(config, biovfm_config(config))
    images = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["images"]
    assert f"Whole run: about {short_count(images * objective.flops_per_image)}FLOP" in card


def check_report_of_simmim(run: Path) -> None:
    """Its report has its own settings among the main ones, its values in their groups, and nothing of DINOv2."""
    summary = summarise_run(run)
    section = training_section(Material(PictureStore(0), runs=[summary]))
    assert section is not None and ("Masked share", ["0.5"]) in section["settings"]
    charts = {
        group["title"]: {chart["name"]: chart["note"] for chart in group["charts"]} for group in section["groups"]
    }
    assert charts["Losses"].keys() == {"loss", "simmim_loss", "pixel_error"}
    assert charts["Losses"]["pixel_error"] == "Mean difference of masked pixels."
    assert charts["Schedules and gradients"].keys() >= {"lr", "weight_decay"} and "last_layer_lr" not in summary.series
    assert charts["Schedules and gradients"]["grad_norm"] == "Norm of the gradient before clipping."
    assert charts["Speed"].keys() >= {"images_per_second", "memory_gib"}
    assert ("Objective", ["SimMIM"]) in section["settings"]


def test_scaling_knows_the_compute_of_a_further_objective() -> None:
    points = [Point("SimMIM", 5.53, "t", 90), Point("other", 85.8, "t", 95, objective="simmim")]
    each, _ = axis_values(points, "compute")
    for flops, size in zip(each, ("vit-tiny", "vit-base"), strict=True):
        config = config_from_tree({"method": "simmim", "model": {"size": size}})
        assert flops * 1e9 == objectives.method_of("simmim").flops_per_image(config, biovfm_config(config))


def test_a_further_objective_learns_and_runs_as_a_script(recipe: Path, image_folder: Path, tmp_path: Path) -> None:
    words = ["--config", str(recipe), "--data", str(image_folder), "--out", str(tmp_path / "out"), *SMALL]
    assert run_script("simmim", [*words, "steps=30", "batch.size=12", "optim.base_lr=0.05", "optim.lr_rule=none"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    with pytest.raises(UserError, match=r"simmim\.ratio is 2\.0; it must be from 0 to 1"):
        load_config(recipe, {"simmim.ratio": 2})
    assert plain(load_config(recipe))["simmim"] == {"ratio": 0.6}
