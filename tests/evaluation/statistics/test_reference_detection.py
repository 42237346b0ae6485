"""COCO's figures of boxes: those of pycocotools."""

import json
from dataclasses import replace

import numpy as np
import pytest

from evaluation.statistics.detection import (
    NAMES,
    Boxes,
    class_figures,
    join,
    match_boxes,
    mean_figures,
    resampled_figures,
)
from evaluation.tasks.coco import read_boxes


def matches(images):
    return join([match_boxes(each) for each in images])


def boxes(truth=(), detected=(), scores=(), crowd=None, areas=None):
    truth, detected = (np.array(each, float).reshape(-1, 4) for each in (truth, detected))
    areas = truth[:, 2:].prod(-1) if areas is None else np.array(areas, float)
    crowd = np.zeros(len(truth), bool) if crowd is None else np.array(crowd)
    return Boxes(truth, areas, crowd, detected, np.array(scores, float))


def test_reference_pycocotools(reference_dir):
    paths = sorted(reference_dir.glob("detection_*.json"))
    assert paths, f"no detection references in {reference_dir}"
    for path in paths:
        wanted = json.loads(path.read_text())
        classes = {name: class_figures(matches(images)) for name, images in read_boxes(path).items()}
        means = mean_figures(list(classes.values()))
        for name, value in wanted["pycocotools"].items():
            figure = -1 if np.isnan(means[name]) else means[name]
            assert figure == pytest.approx(value, abs=1e-6), f"{path.name} {name}"
        for name, values in wanted["per_class_AP_AP50"].items():
            figures = [classes[name]["AP"], classes[name]["AP50"]]
            np.testing.assert_allclose(np.nan_to_num(figures, nan=-1), values, rtol=0, atol=1e-6, err_msg=name)


def test_a_crowd_takes_many_detections_and_is_no_thing_to_detect():
    crowd = boxes([[0, 0, 100, 100], [200, 0, 50, 50]], [[0, 0, 20, 20], [40, 40, 20, 20], [200, 0, 50, 50]],
                  [0.9, 0.8, 0.7], crowd=[True, False])  # fmt: skip
    assert class_figures(matches([crowd]))["AP"] == pytest.approx(1)
    assert np.isnan(class_figures(matches([boxes([[0, 0, 9, 9]], crowd=[True])]))["AP"])


def test_the_area_is_that_of_the_annotation():
    figures = class_figures(matches([boxes([[0, 0, 50, 50]], [[0, 0, 50, 50]], [0.5], areas=[900])]))
    assert figures["APs"] == pytest.approx(1)
    assert np.isnan(figures["APm"])
    edge = class_figures(matches([boxes([[0, 0, 32, 32]], [[0, 0, 32, 32]], [0.5])]))
    assert edge["APs"] == edge["APm"] == pytest.approx(1)


def test_a_second_detection_of_one_thing_is_wrong_and_the_first_of_equal_scores_goes_first():
    image = boxes([[0, 0, 10, 10], [50, 50, 10, 10]], [[0, 0, 10, 10]] * 2 + [[50, 50, 10, 10]], [0.9, 0.8, 0.7])
    figures = class_figures(matches([image]))
    assert figures["AR1"] == pytest.approx(0.5)
    assert figures["AR10"] == pytest.approx(1)
    assert figures["AP50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    tied = [boxes(detected=[[0, 0, 9, 9]], scores=[0.5]), boxes([[0, 0, 9, 9]], [[0, 0, 9, 9]], [0.5])]
    assert class_figures(matches(tied))["AP50"] == pytest.approx(0.5)
    assert class_figures(matches(tied[::-1]))["AP50"] == pytest.approx(1)


def test_at_most_a_hundred_detections_of_an_image_count():
    late = boxes([[0, 0, 9, 9]], [[50, 50, 9, 9]] * 100 + [[0, 0, 9, 9]], [*np.linspace(1, 0.5, 100), 0.1])
    assert class_figures(matches([late]))["AR100"] == 0


def test_weights_count_images_as_often_as_copies_of_them_would(reference_dir):
    images = next(iter(read_boxes(reference_dir / "detection_a.json").values()))
    rng = np.random.default_rng(3)
    images = [replace(each, scores=rng.random(len(each.scores))) for each in images]  # ties could be ordered otherwise
    for weights in rng.multinomial(len(images), np.full(len(images), 1 / len(images)), 5):
        copies = matches([each for each, count in zip(images, weights, strict=True) for _ in range(count)])
        weighted = class_figures(matches(images), weights)
        for name in NAMES:
            assert weighted[name] == pytest.approx(class_figures(copies)[name], abs=1e-9, nan_ok=True), name


def test_resamples_follow_their_seed(reference_dir):
    classes = [matches(images) for images in read_boxes(reference_dir / "detection_a.json").values()]
    first, again, other = (resampled_figures(classes, 5, seed)["AP"] for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()
