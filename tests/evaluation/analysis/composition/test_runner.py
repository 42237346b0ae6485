"""`biovfm scaling mixture run`: its plan, its commands, resuming, and its results from the scores."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from scipy.stats import ttest_ind

import biovfm_hf
from biovfm_hf.errors import UserError
from evaluation.analysis.composition.confirmation import welch
from evaluation.analysis.composition.plan import read_mixture_plan
from evaluation.analysis.scaling_command import main
from evaluation.analysis.study import pretraining
from evaluation.analysis.study.pretraining import pretrain, run_files

COUNTS = {"CT": 30, "US": 12, "X-Ray": 6, "PET": 2}
MIXTURE = """
data: images
by: modality
groups: [CT, US, X-Ray]
config: mae_smoke
overrides: {steps: 4, batch.size: 10, model.hidden_size: 48, data.workers: 0}
design: {lattice: 2}
held_out: 3
replicates: 3
epochs: 3
confirm: 2
probe: {tasks: TASK, method: knn, no_figures: true, resamples: 20}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset of four modalities, as `biovfm build` names its column."""
    folder = tmp_path_factory.mktemp("mixture") / "images"
    rng = np.random.default_rng(0)
    names = [name for name, count in COUNTS.items() for _ in range(count)]
    images = [Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8)) for _ in names]
    features = datasets.Features({"image": datasets.Image(), "modality": datasets.ClassLabel(names=sorted(COUNTS))})
    features["path"] = datasets.Value("string")
    rows = {"image": images, "modality": names, "path": [f"{number}.png" for number in range(len(names))]}
    table = datasets.Dataset.from_dict(rows, features=features)
    table.to_parquet(str(folder / "train.parquet"))
    return folder


@pytest.fixture
def plan_file(data, tmp_path, class_folder):
    def write(text=MIXTURE):
        (tmp_path / "mixture.yaml").write_text(
            text.replace("images\n", f"{data}\n").replace("TASK", str(class_folder))
        )
        return tmp_path / "mixture.yaml"

    return write


@pytest.fixture
def fake_training(monkeypatch, tmp_path_factory, make_model):
    """Replaces the training process: writes a model and records the commands."""
    models = [make_model(tmp_path_factory.mktemp("model") / str(seed), seed=seed) for seed in range(3)]
    calls = []

    def run(words, check, env):
        calls.append(words)
        out = Path(words[words.index("--out") + 1])
        shutil.copytree(models[len(calls) % 3], out / "model")
        (out / "metrics.jsonl").write_text('{"step": 4, "images": 40}\n')
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(pretraining.subprocess, "run", run)
    return calls


def test_a_plan_bounds_shares_and_holds_every_run(plan_file):
    plan = read_mixture_plan(plan_file())
    assert plan.seen == 40 and plan.groups == ["CT", "US", "X-Ray"] and plan.others == ["PET"]
    np.testing.assert_allclose(plan.limits, [1, 0.9, 0.45])
    names = [mixture.name for mixture in plan.mixtures]
    assert names[-5:] == ["uniform-1", "uniform-2", "h000", "h001", "h002"]
    assert [mixture.seed for mixture in plan.mixtures[-5:]] == [1, 2, 0, 0, 0]
    for mixture in plan.mixtures:
        assert mixture.shares.sum() == pytest.approx(1) and (mixture.shares <= plan.limits + 1e-4).all()
    np.testing.assert_allclose(plan.mixtures[1].shares, [30 / 48, 12 / 48, 6 / 48], atol=1e-5)
    assert len({tuple(mixture.shares.round(3)) for mixture in plan.mixtures}) == len(names) - 2


def test_only_the_images_that_pretraining_uses_are_counted(plan_file, tmp_path):
    chosen = [*range(10), *range(30, 36), *range(42, 48)]  # of CT, US and X-Ray
    (tmp_path / "selection.txt").write_text("".join(f"{number}.png\n" for number in chosen))
    (tmp_path / "small.yaml").write_text("method: mae\ndata: {modality: [CT, US]}\n")
    selected = f"data.selection: {tmp_path / 'selection.txt'}, steps: 4"
    text = (
        MIXTURE.replace("steps: 4", selected)
        .replace("mae_smoke", "small.yaml")
        .replace("groups: [CT, US, X-Ray]\n", "")
    )
    plan = read_mixture_plan(plan_file(text.replace("epochs: 3", "epochs: 5")))
    assert plan.groups == ["CT", "US"] and plan.images.tolist() == [10, 6] and plan.others == []
    np.testing.assert_allclose(plan.limits, [1, 0.75])  # five passes over them, of 40 images seen


def test_pretraining_accepts_every_config(plan_file, data, tmp_path, fake_training):
    plan = read_mixture_plan(plan_file())
    run = plan.runs(plan.mixtures)[2]
    assert run.overrides["data.weights"]["PET"] == 0
    pretrain([run], plan.launch, tmp_path / "out")
    config = run_files(tmp_path / "out", run).config
    text = biovfm_hf.pretrain(config, data=run.data, dry_run=True)
    assert "weight_by: modality" in str(text)
    made = biovfm_hf.pretrain(config, data=run.data, out=tmp_path / "run", overrides={"steps": 1})
    assert (made / "config.json").is_file()


def test_designs_of_draws_and_lists(plan_file, tmp_path):
    plan = read_mixture_plan(plan_file(MIXTURE.replace("lattice: 2", "draws: 9").replace("epochs: 3", "epochs: 9")))
    assert sum(not mixture.held_out for mixture in plan.mixtures) in range(11, 14)
    (tmp_path / "own.csv").write_text("CT,US,X-Ray\n0.2,0.5,0.3\n0.6,0.1,0.3\n")
    plan = read_mixture_plan(plan_file(MIXTURE.replace("lattice: 2", "list: own.csv")))
    np.testing.assert_allclose(plan.mixtures[2].shares, [0.2, 0.5, 0.3])
    (tmp_path / "own.csv").write_text("CT,US,X-Ray\n0.2,0.5,0.4\n")
    with pytest.raises(UserError, match="sum 1 in each row"):
        read_mixture_plan(plan_file(MIXTURE.replace("lattice: 2", "list: own.csv")))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("by: modality", "by: organ", "no column 'organ'"), ("[CT, US, X-Ray]", "[CT, MR]", "no image has modality 'MR'"),
     ("[CT, US, X-Ray]", "[CT]", "two or more"), ("confirm: 2", "confirm: -1", "confirm must be"),
     ("confirm: 2", "confirms: 2", "unknown key confirms"), ("lattice: 2", "lattice: no", "whole number"),
     ("lattice: 2", "grid: 2", "design must be one of"), ("epochs: 3", "epochs: 0.5", "train for fewer"),
     ("steps: 4", "step: 4", "step"), ("steps: 4", "epochs: 4", "give steps and not epochs"),
     ("held_out: 3", "held_out: 1", "held_out must be"), ("config: mae_smoke", "", "lacks config")],
)  # fmt: skip
def test_mistakes_are_reported_before_anything_is_trained(plan_file, fake_training, old, new, message):
    assert old in MIXTURE
    with pytest.raises(UserError, match=message):
        read_mixture_plan(plan_file(MIXTURE.replace(old, new)))
    assert not fake_training


def test_the_whole_run_resumes_and_recommends(plan_file, fake_training, tmp_path, capsys):
    words = ["mixture", "run", str(plan_file()), "--out", str(tmp_path / "out"), "--resamples", "20"]
    assert main([*words, "--dry-run"]) == 0
    assert ".yaml: mae_smoke with" in capsys.readouterr().out and not fake_training
    assert main(words) == 0
    report = json.loads((tmp_path / "out" / "mixture.json").read_text())
    rows = list(csv.DictReader((tmp_path / "out" / "mixtures.csv").open()))
    assert len(fake_training) == len(rows) + 3 * 2  # the design, and three mixtures with two fresh seeds
    assert set(report["reports"]) == {"mean"} and report["seen"] == 40
    assert sum(share["value"] for share in report["reports"]["mean"]["shares"].values()) == pytest.approx(1)
    confirmed = report["confirmed"]
    assert all(len(scores) == 2 for scores in confirmed["scores"].values())
    assert set(confirmed["differences"]) == {"uniform", "natural"}
    assert "fresh seeds" in capsys.readouterr().out and (tmp_path / "out" / "mixture.txt").is_file()
    trained = len(fake_training)
    assert main(words) == 0 and len(fake_training) == trained
    again = ["mixture", str(tmp_path / "out" / "mixtures.csv"), "--out", str(tmp_path / "again.json")]
    assert main([*again, "--images", "30,12,6", "--seen", "40", "--epochs", "3"]) == 0
    shares = json.loads((tmp_path / "again.json").read_text())["shares"]
    assert shares["X-Ray"]["high"] <= 0.45 + 1e-6


def test_welch_is_scipys():
    a, b = np.array([0.8, 0.82, 0.81]), np.array([0.78, 0.83, 0.79])
    found = welch(a, b)
    assert found["p"] == pytest.approx(ttest_ind(a, b, equal_var=False).pvalue)
    assert found["low"] < found["value"] < found["high"]
    assert welch(a[:1], b[:1])["p"] is None
