"""`biovfm score --task detection`."""

import json

import pytest

from biovfm_hf.errors import UserError
from evaluation.commands.score import main


@pytest.fixture
def stored():
    box = {"image_id": 7, "category_id": 1, "bbox": [10, 10, 40, 40]}
    gt = {"images": [{"id": 7}, {"id": 8}], "annotations": [box], "categories": [{"id": 1, "name": "cell"}]}
    return {"gt": gt, "detections": [{**box, "score": 0.9}]}


@pytest.fixture
def score(tmp_path):
    def run(stored, *words):
        path = tmp_path / "boxes.json"
        path.write_text(json.dumps(stored))
        return main([str(path), "--task", "detection", "--resamples", "30", *words])

    return run


def test_json_has_all_that_the_screen_shows(score, stored, tmp_path, capsys):
    stored["gt"]["categories"].append({"id": 2, "name": "platelet"})
    assert score(stored, "--json", str(tmp_path / "out.json")) == 0
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["metrics"]["AP"] == pytest.approx({"value": 1.0, "mean": 1.0, "low": 1.0, "high": 1.0})
    assert results["metrics"]["APl"]["value"] is None
    assert results["classes"] == {"cell": {"AP": pytest.approx(1), "AP50": pytest.approx(1)},
                                  "platelet": {"AP": None, "AP50": None}}  # fmt: skip
    assert results["n_test"] == 2
    shown = capsys.readouterr().out
    assert "2 test images" in shown
    assert "cell: AP 1.0000, AP50 1.0000" in shown
    assert "no box of platelet" in shown


def test_a_truth_without_boxes_leaves_all_undefined(score, stored, capsys):
    stored["gt"]["annotations"] = []
    assert score(stored) == 0
    assert "undefined: no box" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["detections"][0].update(image_id=9), "detection 0 names image 9"),
        (lambda s: s["detections"][0].update(category_id=[1]), "COCO's form"),
        (lambda s: s["gt"]["annotations"][0].update(category_id=5), "annotation 0 names category 5"),
        (lambda s: s["detections"][0].pop("score"), "lacks 'score'"),
        (lambda s: s["detections"][0].update(score=float("nan")), "not a finite number"),
        (lambda s: s["detections"][0].update(bbox=[0, 0, -1, 4]), "bbox"),
        (lambda s: s["detections"][0].update(bbox=[0, 0, 4]), "COCO's form"),
        (lambda s: s["gt"].update(images=[]), "no images"),
        (lambda s: s.pop("gt"), "lacks 'gt'"),
        (lambda s: s.update(detections=3), "COCO's form"),
        (lambda s: s["gt"]["annotations"][0].update(area="wide"), "COCO's form"),
        (lambda s: s["gt"]["annotations"][0].update(area=None), "area is not a finite number"),
        (lambda s: s["detections"][0].update(score=10**400), "COCO's form"),
    ],
)
def test_files_that_do_not_fit_are_named_with_the_reason(score, stored, change, message):
    change(stored)
    with pytest.raises(UserError, match=message) as caught:
        score(stored)
    assert "boxes.json" in str(caught.value)


def test_options_of_other_tasks_are_refused(score, stored, capsys):
    with pytest.raises(SystemExit) as caught:
        score(stored, "--trust")
    assert caught.value.code == 2
    assert "detection takes no trust" in capsys.readouterr().err
