"""The programs in examples/ run, and their notebooks are the same programs."""

import runpy
from pathlib import Path

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, ViTImageProcessor

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = runpy.run_path(str(ROOT / "examples" / "notebooks.py"))
EXAMPLES = NOTEBOOKS["EXAMPLES"]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> list[Path]:
    """Two tiny encoders of transformers' own, as stand-ins for those that the examples would fetch."""
    folders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        folder = tmp_path_factory.mktemp("encoder") / f"encoder{seed}"
        Dinov2Model(Dinov2Config(hidden_size=48, num_hidden_layers=2, num_attention_heads=2)).save_pretrained(folder)
        ViTImageProcessor(size={"height": 56, "width": 56}).save_pretrained(folder)
        folders.append(folder)
    return folders


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs(example, encoders, tmp_path, monkeypatch, capsys):
    """In this process, which has torch and transformers already."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"MODEL": encoders[0], "OTHER_MODEL": encoders[1], "STEPS": 3}.items():
        monkeypatch.setenv(name, str(value))
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_notebook_is_the_same_program(example):
    notebook = example.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert notebook == NOTEBOOKS["notebook"](example.read_text(encoding="utf-8")), "run: python examples/notebooks.py"
