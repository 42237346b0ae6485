"""A study file, and training processes that are replaced."""

import subprocess
from pathlib import Path

import pytest

from biovfm_hf import BioVFMConfig
from biovfm_hf.reading.documents import read_yaml
from evaluation.analysis.study import pretraining

STUDY = """
families:
  DINO: {objective: dino, config: dino_smoke, steps: 5}
  MAE: {config: own.yaml}
sizes:
  narrow: {model.hidden_size: 48, augment.global_scale: [0.5, 1.0]}
  wide: {model.hidden_size: 96, steps: 9}
subsets: {all: images}
overrides: {steps: 3, batch.size: 4}
probe: {tasks: [pneumoniamnist, busi], data: sets, method: knn, no_figures: true, download: false}
"""


@pytest.fixture
def plan_file(tmp_path):
    def write(text=STUDY):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "own.yaml").write_text("method: mae\nsteps: 1\n")
        (tmp_path / "study.yaml").write_text(text)
        return tmp_path / "study.yaml"

    return write


def width_of(words):
    """The model's width in the config file that a training process is started with."""
    return read_yaml(Path(words[words.index("pretrain") + 1]))["model"]["hidden_size"]


@pytest.fixture
def fake_training(monkeypatch):
    """Replaces the training process: writes the files of a finished run and records the commands."""
    calls = []

    def run(words, check, env):
        calls.append(words)
        out = Path(words[words.index("--out") + 1])
        BioVFMConfig(hidden_size=width_of(words), num_attention_heads=3).save_pretrained(out / "model")
        (out / "metrics.jsonl").write_text('{"step": 1, "images": 200}\n{"step": 2, "images": 400}\n')
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(pretraining.subprocess, "run", run)
    return calls
