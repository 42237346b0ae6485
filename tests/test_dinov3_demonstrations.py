"""docs/dinov3.py on miniatures of the real images: a table of the student, equal weights after a kill, a picture."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from PIL import Image

from evaluation.tasks import read_records
from tests.evaluation.miniatures import WRITERS, save, write_medmnist

DOCS = Path(__file__).resolve().parents[1] / "docs"
FEW = {"teacher": 2, "student": 2, "resume": 12, "first": 2, "second": 2}
WIDTHS = ["model.hidden_size=32", "model.num_attention_heads=2"]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """The script as a module, with a few steps of small models."""
    monkeypatch.syspath_prepend(str(DOCS))
    spec = importlib.util.spec_from_file_location("demonstrations", DOCS / "dinov3.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "STEPS", FEW)
    monkeypatch.setattr(module, "EVERY", 2)
    monkeypatch.setattr(module, "TASKS", "busi")
    monkeypatch.setattr(module, "WEIGHTS", (2.0,))
    monkeypatch.setattr(module, "LARGE", WIDTHS)
    monkeypatch.setattr(module, "SMALL", [*WIDTHS, "batch.size=2"])
    return module


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    for name in ("busi", "bccd", "fundus_vessels"):
        WRITERS[name](folder / name)
    write_medmnist(folder / "medmnist", read_records()["pneumoniamnist"])
    for split in ("train_manual", "test"):
        for number in range(3):
            image = np.random.default_rng(number).integers(0, 200, (32, 32)).astype(np.uint8)
            save(folder / "rossa" / split / "image" / f"{number}.png", image)
            save(folder / "rossa" / split / "label" / f"{number}.png", np.where(image > 150, 255, 0).astype(np.uint8))
    return folder


def demonstrate(script, real: Path, out: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    AcceleratorState._reset_state(True)  # other tests of this process may have chosen another precision
    monkeypatch.setattr(sys, "argv", ["dinov3.py", str(real), str(out), "--only", part])
    script.main()


def test_the_students_differences_are_a_table(script, real: Path, tmp_path: Path, monkeypatch) -> None:
    demonstrate(script, real, tmp_path, "distil", monkeypatch)
    head, _, *lines = (tmp_path / "distil.md").read_text().splitlines()
    assert head == "| task, probe | student | scratch | teacher |"
    assert sorted(line.split(" | ")[0] for line in lines) == ["| busi, knn", "| busi, linear"]
    assert all(line.count("student minus it ") == 2 for line in lines)


def test_the_monitors_of_both_runs_are_drawn(script, real: Path, tmp_path: Path, monkeypatch) -> None:
    demonstrate(script, real, tmp_path, "anchor", monkeypatch)
    assert Image.open(tmp_path / "anchor.png").size[0] > 600
    rows = [json.loads(line) for line in (tmp_path / "anchored2" / "metrics.jsonl").read_text().splitlines()]
    assert all(measure in rows[-1] for measure in (*script.MEASURES, "gram_loss"))


@pytest.mark.slow
def test_a_killed_run_from_a_converted_model_ends_in_the_same_weights(
    script, real: Path, tmp_path: Path, monkeypatch
) -> None:
    demonstrate(script, real, tmp_path, "resume", monkeypatch)
    whole, killed = (line.split()[1] for line in (tmp_path / "resume.md").read_text().splitlines())
    assert whole == killed and len(whole) == 64
