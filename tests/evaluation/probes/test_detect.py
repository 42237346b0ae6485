"""Detection on patch tokens: the pyramid and FCOS, boxes in and out, and the method from end to end."""

import json

import numpy as np
import pytest
import torch

from biovfm_hf.errors import UserError
from evaluation.commands.probe import ProbeOptions, probe
from evaluation.probes import detect
from evaluation.probes.networks.detector import PATCH, STRIDES, Detector, SimplePyramid, places_of
from evaluation.results.records import merge_records, read_scores
from evaluation.statistics.detection import class_figures, group_boxes, match_all, mean_figures
from evaluation.tasks.boxes import image_boxes


def test_pyramid_has_five_maps_from_a_quarter_of_a_patch_to_four():
    maps = list(SimplePyramid(48, 32)(torch.randn(2, 8, 12, 48)).values())
    assert [tuple(each.shape) for each in maps] == [
        (2, 32, 32, 48), (2, 32, 16, 24), (2, 32, 8, 12), (2, 32, 4, 6), (2, 32, 2, 3),
    ]  # fmt: skip
    assert [8 * PATCH // each.shape[2] for each in maps] == list(STRIDES)


def test_places_lie_around_the_middle_of_each_cell():
    places = places_of([(2, 2), (1, 1), (1, 1), (1, 1), (1, 1)])
    middles = (places[:4, :2] + places[:4, 2:]) / 2
    assert middles.tolist() == [[2, 2], [6, 2], [2, 6], [6, 6]]
    assert (places[4:, 2] - places[4:, 0]).tolist() == [8, 16, 32, 64]


def test_a_detector_learns_the_boxes_of_one_image():
    torch.manual_seed(0)
    tokens = torch.randn(1, 6, 8, 32)
    boxes = torch.tensor([[10.0, 12, 40, 50], [60.0, 20, 110, 80]])
    targets = [{"boxes": boxes, "labels": torch.tensor([0, 1])}]
    detector = Detector(32, 2)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-3)
    before = detector.loss(tokens, targets).item()
    for _ in range(40):
        optimizer.zero_grad()
        loss = detector.loss(tokens, targets)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.6 * before
    (found,) = detector.eval().detect(tokens)
    assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)
    for label, box in zip((0, 1), boxes, strict=True):
        best = found["boxes"][found["labels"] == label][0]
        assert (best - box).abs().max() < 8


def test_images_without_boxes_are_ground_alone():
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    loss = Detector(32, 3).loss(torch.randn(2, 4, 4, 32), [empty, empty])
    assert torch.isfinite(loss)


def test_targets_are_cut_at_the_edges_and_mirrored():
    split = type(
        "Split", (), {"boxes": [image_boxes([((50.0, -5, 20, 15), 1, None, False), ((0.0, 0, 9, 9), 0, None, True)])]}
    )
    tokens = torch.zeros(1, 3, 6, 8)
    (plain,) = detect._targets(split, np.array([[60.0, 30]]), np.array([0]), tokens, False)
    np.testing.assert_allclose(plain["boxes"], [[80, 0, 96, 16]])
    assert plain["labels"].tolist() == [1]  # a crowd is not trained on
    (mirrored,) = detect._targets(split, np.array([[60.0, 30]]), np.array([0]), tokens, True)
    np.testing.assert_allclose(mirrored["boxes"], [[0, 0, 16, 16]])


@pytest.fixture(scope="module")
def results(tmp_path_factory, make_wide, box_folder):
    out = tmp_path_factory.mktemp("detected")
    models = [f"{name}={make_wide(name)}" for name in ("first", "second")]
    settings = dict(model=models, tasks=[str(box_folder)], resamples=20, image_size=64, rate=5e-3)
    probe(ProbeOptions(**settings, out=out, method=["detect"], epochs=16))
    return out, settings


@pytest.fixture(scope="module")
def make_wide(tmp_path_factory):
    from tests.evaluation.conftest import save_tiny_model

    def make(name):
        return save_tiny_model(
            tmp_path_factory.mktemp(name), seed=len(name), num_hidden_layers=2, image_size=64, patch_size=16
        )

    return make


def test_records_arrays_comparisons_and_pictures(results):
    out, _ = results
    records = merge_records(out)
    assert [record.method for record in records] == ["detect", "detect"]
    for record in records:
        ap50 = record.metrics["AP50"]
        assert ap50["low"] <= ap50["value"] <= ap50["high"] and ap50["value"] > 0.5, "nothing was learned"
        assert set(record.further["by_class"]) == {"dark", "bright"} and record.primary == "AP"
        assert record.costs["trained_parameters"] < record.costs["parameters"]
        arrays = read_scores(out, record)
        classes = group_boxes(arrays["test_truth"], arrays["test_detections"], 5, 2)
        again = mean_figures([class_figures(match_all(images)) for images in classes])
        assert again["AP"] == pytest.approx(record.metrics["AP"]["value"])
    rows = json.loads((out / "comparisons.json").read_text())
    assert {row["metric"] for row in rows} == {"AP", "AP50", "AP75", "AR100"}
    assert "| AP50 |" in (out / "table.md").read_text()
    picture = next((out / "figures").glob("boxes_first_squares_*.txt"))
    assert "detects with the highest scores" in picture.read_text()


def test_a_record_states_the_images_per_step():
    assert detect.Detect(batch_size=64).identity["batch_size"] == detect.BATCH
    assert detect.Detect(batch_size=4).identity != detect.Detect().identity


def test_the_encoder_can_be_trained_along(results, tmp_path):
    _, settings = results
    one = {**settings, "model": settings["model"][:1]}
    frozen, tuned = (
        probe(ProbeOptions(**one, out=tmp_path, method=["detect"], epochs=1, tune=tune, mirror=True, no_figures=True))
        for tune in (False, True)
    )
    (record,) = [each for each in tuned if each.method == "detect-tuned"]
    assert record.costs["trained_parameters"] == record.costs["parameters"] > 0
    assert frozen[0].costs["share"] < 1 and record.setting("tune") is True


def test_several_seeds_are_joined(results, tmp_path):
    _, settings = results
    one = {**settings, "model": settings["model"][:1]}
    probe(ProbeOptions(**one, out=tmp_path, method=["detect"], epochs=1, seed=[0, 1], no_figures=True))
    assert "0, 1 (mean)" in (tmp_path / "table.md").read_text()


def test_what_is_refused(tiny_model, box_folder, class_folder, tmp_path):
    def options(tasks, **more):
        return ProbeOptions(model=[f"m={tiny_model}"], tasks=[str(tasks)], out=tmp_path, no_figures=True, **more)

    with pytest.raises(UserError, match="no method of linear applies"):
        probe(options(box_folder, method=["linear"]))
    with pytest.raises(UserError, match="no method of detect applies"):
        probe(options(class_folder, method=["detect"]))
    with pytest.raises(UserError, match="network for segmentation"):
        probe(ProbeOptions(model=["scratch:unet-small"], tasks=[str(box_folder)], out=tmp_path, method=["detect"]))
