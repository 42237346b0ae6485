"""The sentences at the end of a quickstart state the results of its comparisons, good or bad."""

import json
from pathlib import Path

import pytest

from biovfm_hf.quickstart.findings import Gain, read_gains, sentences
from training.objectives import config_of


def row(a: str, method: str, metric: str, difference: float, low: float, high: float, b: str = "") -> dict:
    return {"model_a": a, "model_b": b or f"{a}-random", "method": method, "metric": metric, "task": "t",
            "difference": difference, "low": low, "high": high}  # fmt: skip


def test_only_models_against_their_own_twins_are_reported_in_one_order(tmp_path: Path) -> None:
    rows = [
        row("mae", "knn", "auc", 0.01, -0.01, 0.03),
        row("dino", "segment", "dice", 0.002, 0.001, 0.003),
        row("dino", "linear", "accuracy", 0.5, 0.4, 0.6),
        row("dino", "linear", "auc", 0.5, 0.4, 0.6, b="mae"),
        row("dino", "knn", "auc", 0.035, 0.025, 0.044),
    ]
    (tmp_path / "comparisons.json").write_text(json.dumps(rows))
    gains = read_gains(tmp_path / "comparisons.json")
    assert [(gain.model, gain.probe) for gain in gains] == [("dino", "knn"), ("dino", "segment"), ("mae", "knn")]
    assert [gain.verdict for gain in gains] == ["better", "better", "no different"]
    assert gains[0].figures == "+3.5 (+2.5 to +4.4)"


def test_an_objective_has_the_title_that_training_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_of("mae"), "title", "Masked autoencoder")
    assert sentences([Gain("mae", "knn", "auc", 3.5, 2.5, 4.4)])[0].startswith("Masked autoencoder's pretraining made")


def test_sentences_keep_nothing_back() -> None:
    gains = [
        Gain("dino", "knn", "auc", 3.5, 2.5, 4.4),
        Gain("dino", "linear", "auc", -2.0, -3.0, -1.0),
        Gain("dino", "segment", "dice", 0.1, -0.1, 0.3),
    ]
    first, note = sentences(gains)
    assert first == (
        "DINOv2's pretraining made features better by 1 of 3 probes (nearest neighbours +3.5 (+2.5 to +4.4) AUC), "
        "no different by 1 of 3 probes (segmentation +0.1 (-0.1 to +0.3) Dice), and worse by 1 of 3 probes "
        "(a linear layer -2.0 (-3.0 to -1.0) AUC)."
    )
    assert note.startswith("Figures are points")
