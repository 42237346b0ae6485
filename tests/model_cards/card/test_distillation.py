"""A distilled student's card: what was lost against its teacher, as the results tell it, and the speed of both."""

import re
import shutil

import pytest
import torch

from biovfm_hf import BioVFMConfig, BioVFMImageProcessor, BioVFMModel
from biovfm_hf.cards.origin import Origin, write_origin
from biovfm_hf.errors import UserError
from model_cards.card.command import card
from model_cards.card.options import CardOptions
from model_cards.inputs import speed


@pytest.fixture
def student(saved_model, tmp_path):
    folder = shutil.copytree(saved_model, tmp_path / "student" / "model")
    write_origin(folder, Origin(teachers=("large",)))
    return folder


@pytest.fixture
def teacher(tmp_path):
    """Of eight blocks where the student has two."""
    config = BioVFMConfig(hidden_size=96, num_hidden_layers=8, num_attention_heads=2, image_size=32, patch_size=8)
    BioVFMModel(config).save_pretrained(tmp_path / "large")
    BioVFMImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "large")
    return tmp_path / "large"


def compared(**words):
    common = {"method": "knn", "protocol": "fast", "settings": {}, "seed": 0, "metric": "auc", "p": 0.01}
    return {**common, "title": "AUC", "p_holm": 0.02, **words}


def test_losses_are_student_minus_teacher_in_either_order(student, teacher, make, tmp_path, monkeypatch):
    widths = []

    def timed(passes):
        widths.extend(one().tokens.shape[-1] for one in passes)
        return [0.1, 0.4]

    monkeypatch.setattr(speed, "best_seconds", timed)
    rows = [
        compared(task="busi", model_a="large", model_b="small", difference=0.04, low=0.01, high=0.06),
        compared(task="cxr", model_a="small", model_b="large", difference=-0.02, low=-0.05, high=0.01),
        compared(task="cxr", model_a="small", model_b="other", difference=0.5, low=0.4, high=0.6),
        compared(task="cxr", model_a="small", model_b="large", difference=0.3, low=0.2, high=0.4, metric="mcc"),
    ]
    names = ("small", "large", "other")
    records = [row for name in names for row in make.rows(name, ["busi", "cxr"], method="knn")]
    results = make.results(tmp_path / "results", records, rows)
    words = {"results": results, "known_as": "small", "teacher": f"large={teacher}"}
    text = card(CardOptions(student, **words)).path.read_text()
    section = text.partition("## What distilling lost\n")[2].partition("\n## ")[0]
    assert "| busi | knn | 0 | AUC | -0.040 [-0.060, -0.010] | 0.020 |" in section
    assert "| cxr | knn | 0 | AUC | -0.020 [-0.050, +0.010] | 0.020 |" in section
    assert section.count("knn") == 2 and "its teacher large" in section
    threads = torch.get_num_threads()
    assert widths == [32, 96] and re.search(rf", {threads} threads?, in float32", section)
    assert "80 images a\nsecond of 32 pixels, its teacher 20 of 32 (4 times as fast)" in section
    with pytest.raises(UserError, match=r"hold no record of this model, .* name its record with --teacher NAME=MODEL"):
        card(CardOptions(student, **words | {"teacher": f"largest={teacher}"}))


def test_what_was_not_measured_is_stated(student, saved_model, tmp_path):
    text = card(CardOptions(student)).path.read_text()
    assert "Distilled from large. What it lost on tasks is not recorded here" in text
    assert "Its speed beside the teacher's was not measured." in text
    assert "It was distilled from the model large, kept frozen" in text and "continued from" not in text
    own = shutil.copytree(saved_model, tmp_path / "own")
    assert "distilling" not in card(CardOptions(own)).path.read_text()


def test_the_two_take_turns_and_the_shortest_time_counts(monkeypatch):
    calls, clock = [], iter([0, 5, 5, 6, 6, 8, 8, 12, 12, 15, 15, 17])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    assert speed.best_seconds([lambda: calls.append("a"), lambda: calls.append("b")]) == [2, 1]
    assert calls == ["a", "b"] * 4
