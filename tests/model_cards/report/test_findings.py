"""The report's first sentences: which differences are real, and what to do next."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from biovfm_hf.results.record import Record
from evaluation.tasks.shared_patients import warnings_without_subjects
from model_cards.inputs.results import Comparison, load_comparisons
from model_cards.report.charts import Difference, difference_chart, interval_mark
from model_cards.report.evaluation import evaluation_section
from model_cards.report.figures import caption_of
from model_cards.report.findings import findings_section
from model_cards.report.material import Material
from model_cards.report.pictures import PictureStore

ROW = Comparison(
    task="lungs", method="linear", protocol="fast", settings="", seed="0", metric="auc", model_a="out/dino/model",
    model_b="out/mae/model", difference=0.02, low=0.01, high=0.03, p=0.0002, p_holm=0.0004, title="AUC",
)  # fmt: skip


def record(model, seed=0, task="lungs"):
    row = dict(model=model, task=task, method="linear", protocol="fast", seed=seed, n_train=10, n_test=10)
    measured = {"primary": "auc", "metrics": {"auc": {"value": 0.8, "low": 0.7, "high": 0.9}}}
    return Record.read(row | measured, "a record")


def findings(*rows, models=("out/dino/model", "out/mae/model"), seeds=(0,)):
    tasks = dict.fromkeys(row.task for row in rows) or ["lungs"]
    records = [record(model, seed, task) for model in models for seed in seeds for task in tasks]
    return findings_section(Material(PictureStore(0), records=records, comparisons=list(rows)))


def test_a_real_difference_is_a_sentence():
    (sentence,) = findings(ROW)["sentences"]
    assert sentence == (
        "dino is better than mae on lungs by 0.020 AUC (95% interval 0.010 to 0.030), linear, "
        "p\u00a0<0.001 after adjustment."
    )


def test_the_better_one_comes_first_whichever_is_a():
    (sentence,) = findings(replace(ROW, difference=-0.02, low=-0.03, high=-0.01, p_holm=0.02))["sentences"]
    assert sentence.startswith("mae is better than dino on lungs by 0.020 AUC (95% interval 0.010 to 0.030)")
    assert "p\u00a0=\u00a00.020" in sentence


@pytest.mark.parametrize(
    ("stated", "a_is_better"), [({}, True), ({"lower_is_better": True}, False), ({"lower_is_better": False}, True)]
)
def test_the_lower_one_is_better_where_the_metric_says_so(tmp_path, stated, a_is_better):
    row = {"task": "t", "method": "segment", "metric": "their_own", "model_a": "a", "model_b": "b", "difference": 1.0}
    (tmp_path / "comparisons.json").write_text(json.dumps([row | stated]))
    (comparison,) = load_comparisons(tmp_path)
    assert comparison.favours_a == a_is_better


def test_the_metric_that_a_task_names_as_its_own_counts():
    boxes = {"model": "a", "task": "lungs", "method": "detect", "primary": "AP", "metrics": {"AP": {"value": 0.4}}}
    material = Material(
        PictureStore(0),
        records=[Record.read(boxes, "a record")],
        comparisons=[replace(ROW, metric="AP", title="AP (boxes)")],
    )
    assert "by 0.020 AP (boxes)" in findings_section(material)["sentences"][0]


def test_shared_patients_come_first_and_other_warnings_beside_their_task():
    files = [Path(f"patient{number // 2:03d}_{number}.png") for number in range(40)]
    leaks = list(warnings_without_subjects(files, np.array(["train", "test"] * 20), listed=True))
    flat = "intervals without width: all resamples of the 10 test cases agree, which a few cases often do"
    records = [replace(record(model), warnings=[flat, *leaks], leaks=leaks) for model in ("a", "b")]
    material = Material(PictureStore(0), records=[*records, replace(record("a"), task="skin", warnings=[flat])])
    told = findings_section(material)["leaks"]
    assert len(leaks) == 2 and told == [f"Do not trust the scores on lungs yet: {leak}." for leak in leaks]
    (table,) = evaluation_section(material)["tables"]
    assert {task: texts for task, _, texts in table["tasks"]} == {"lungs": [*leaks, flat], "skin": [flat]}
    assert findings(ROW)["leaks"] == []


def test_an_interval_without_width_has_caps_and_the_zero_line_leaves_labels_free():
    flat = interval_mark(1.0, 1.0, 1.0, (0.0, 1.1))
    x = flat.split('<path class="whisker s0" d="M')[1].split(" ")[0]
    assert flat.count(f"M{x} 3V17") == 2 and "whisker" not in interval_mark(1.0, None, None, (0.0, 1.1))
    picture = difference_chart([Difference("a", 0.2, 0.1, 0.3, True), Difference("b", 0.1, 0.0, 0.2, False)])
    zero = picture.split('<path class="axis" d="')[1].split('"')[0]
    spans = [tuple(map(int, part.split(" ")[1].split("V"))) for part in zero.split("M")[1:]]
    labels = [int(y) for y in re.findall(r'class="label" x="10" y="(\d+)"', picture)]
    assert len(labels) == 2 and not any(top < y + 4 and y - 12 < bottom for y in labels for top, bottom in spans)


def test_chance_is_called_chance_and_more_cases_are_the_next_step():
    unclear = replace(ROW, low=-0.04, high=0.08, p_holm=0.4)
    told = findings(unclear)
    assert told["sentences"] == ["No difference between the models is shown: 1 comparison could be chance."]
    assert any("on lungs the interval of the difference is 0.120 wide" in step for step in told["next_steps"])
    assert told["next_steps"][0].startswith("To tell the models apart")
    both = findings(ROW, unclear)
    assert both["sentences"][-1] == "The other comparison shows no difference."
    assert both["next_steps"][0].startswith("To tell the others apart")


def test_equal_scores_are_called_equal():
    told = findings(replace(ROW, difference=0.0, low=0.0, high=0.0, p_holm=1.0))
    assert told["next_steps"][0].startswith("On lungs the models score the same on every resample.")


def test_many_differences_are_counted():
    sentences = findings(*[replace(ROW, task=f"t{number}") for number in range(9)])["sentences"]
    assert len(sentences) == 7 and sentences[-1].startswith("3 more differences are real")


def test_next_steps_for_one_model_for_none_compared_and_for_one_seed():
    assert findings(models=("a",))["next_steps"][0].startswith("Only one model was scored.")
    assert findings()["next_steps"][0].startswith("The models were not compared")
    assert any("one seed" in step for step in findings(ROW)["next_steps"])
    assert not any("one seed" in step for step in findings(ROW, seeds=(0, 1))["next_steps"])


def test_the_picture_has_a_description_of_all_that_it_draws():
    picture = str(findings(ROW, replace(ROW, task="<b>", p_holm=0.5))["picture"])
    assert picture.count("<circle") == 2 and "not significant" in picture and "<b>" not in picture


def test_the_picture_takes_the_worse_from_the_better():
    told = str(findings(ROW)["picture"])
    assert told.count("dino − mae, lungs, linear, AUC: +0.020") == 1
    other = replace(ROW, model_a=ROW.model_b, model_b=ROW.model_a, difference=-0.02, low=-0.03, high=-0.01)
    assert str(findings(other)["picture"]) == told


@pytest.mark.parametrize(
    ("stem", "caption"),
    [
        ("roc_busi_linear", "Share of cases found at each share of false alarms: busi, linear"),
        ("pca", "Patch tokens as colours; patches of one colour are similar to the model"),
        ("my_own_plot", "my own plot"),
    ],
)
def test_captions_are_text(stem, caption):
    assert caption_of(stem) == caption
