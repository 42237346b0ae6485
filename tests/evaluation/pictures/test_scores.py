"""The numbers behind the pictures."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from biovfm_hf.results.record import Record
from evaluation.pictures.encoders import principal_colours
from evaluation.pictures.scores import (
    draw_all,
    draw_rank_against_rank,
    draw_ranks,
    line_look,
    mean_roc,
    rank_table,
    roc_points,
)
from evaluation.results.records import write_record


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([3, 1000]))
def test_the_area_under_the_drawn_curve_is_the_auc(seed, levels):
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(0, 2, 40)]
    scores = rng.integers(0, levels, 42) / levels
    fpr, tpr = roc_points(labels, scores)
    assert oracle.auc(fpr, tpr) == pytest.approx(oracle.roc_auc_score(labels, scores))
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)


def test_a_mean_curve_leaves_out_classes_that_do_not_occur():
    scores = np.eye(3)[[0, 0, 1, 1]] * 0.8 + 0.1
    at, mean = mean_roc("multi-class", np.array([0, 0, 1, 1]), scores)
    assert len(at) == 201 and np.isfinite(mean).all() and mean[-1] == 1


def test_object_and_background_get_different_colours():
    rng = np.random.default_rng(0)
    tokens = rng.normal(0, 0.1, (2, 8, 8, 16))
    tokens[:, 2:6, 2:6] += 3 * rng.normal(size=16)
    colours, grid = principal_colours(tokens)
    assert grid[:, 2:6, 2:6].all() and grid.sum() == 2 * 16
    assert (colours[~grid] == 0).all() and colours.min() >= 0 and colours.max() <= 1


def test_crops_without_background_are_coloured_whole():
    rng = np.random.default_rng(0)
    tokens = rng.normal(0, 0.1, (2, 8, 8, 16))
    tokens[:, :, :3] += 3 * rng.normal(size=16)  # two tissues from edge to edge
    colours, grid = principal_colours(tokens)
    assert grid.all() and (colours.max(-1) > 0).mean() > 0.95


def record(model, task, method, metric, value):
    return Record(model, "r", task, method=method, primary=metric, metrics={metric: {"value": value}})


def test_rank_pictures_take_the_tasks_that_every_model_has(tmp_path):
    records = [
        record(model, f"t{task}", "linear", "auc", 0.5 + 0.1 * number + 0.01 * task)
        for number, model in enumerate("abc")
        for task in range(4)
    ]
    models, values = rank_table([*records, record("a", "alone", "linear", "auc", 0.9)])
    assert models == ["a", "b", "c"] and values.shape == (4, 3)
    draw_ranks(tmp_path / "ranks.png", "linear", records)
    assert "c 1.00, b 2.00, a 3.00" in (tmp_path / "ranks.txt").read_text()
    segmented = [record(model, "s", "segment", "dice", 0.9 - 0.1 * number) for number, model in enumerate("abc")]
    draw_rank_against_rank(tmp_path / "both.png", records, segmented)
    assert "a: classification 3.00, segmentation 1.00" in (tmp_path / "both.txt").read_text()
    near = [
        replace(record(model, "s", "segment", "hd95", value), lower_is_better=["hd95"])
        for model, value in (("a", 2.0), ("b", 9.0))
    ]
    draw_rank_against_rank(tmp_path / "distances.png", records, near)
    assert "a: classification 3.00, segmentation 1.00" in (tmp_path / "distances.txt").read_text()
    draw_ranks(tmp_path / "one.png", "linear", records[:4])
    assert not (tmp_path / "one.png").exists()


def test_names_of_models_with_equal_ranks_are_legible(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("evaluation.pictures.scores.save_figure", lambda figure, path, words: drawn.append(figure))
    tied = [record(f"model {m}", f"t{t}", "linear", "auc", 0.5 + 0.1 * (m > 2)) for m in range(6) for t in range(3)]
    draw_rank_against_rank(tmp_path / "both.png", tied, tied)
    drawn[0].draw_without_rendering()
    boxes = [label.get_window_extent() for label in drawn[0].axes[0].texts]
    assert len(boxes) == 6 and not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])
    draw_ranks(tmp_path / "ranks.png", "linear", tied)
    names = [text for text in drawn[1].axes[0].texts if "model" in text.get_text()]
    assert len(names) == 6  # no name is crossed by another's line
    assert all(
        name.get_bbox_patch() and name.zorder > line.zorder for name in names for line in drawn[1].axes[0].lines
    )


def write_scored(out, model, task, auc, seed=0, **settings):
    """A record that states `auc` as its AUC, with scores beside it."""
    identity = dict(model=model, task=task, method="linear", protocol="fast", seed=seed, settings=settings)
    labels = np.arange(8) % 2
    arrays = dict(test_labels=labels[:, None], test_scores=labels[:, None] * auc, thresholds=np.array([0.5]))
    named = dict(kind="binary-class", primary="auc", classes=["no", "yes"], thresholds=[0.5], revision="r", data="d")
    return write_record(out, Record(**identity, **named, metrics={"auc": {"value": auc}}), arrays)


def test_pictures_keep_settings_apart(tmp_path):
    """Two feature vectors that rank the models in opposite order."""
    records = {
        held: [write_scored(tmp_path, model, task, value, features=held) for model, value in pair for task in "tu"]
        for held, pair in (("both", [("a", 0.9), ("b", 0.8)]), ("class", [("a", 0.6), ("b", 0.7)]))
    }
    draw_all(tmp_path, records["both"])
    figures = tmp_path / "figures"
    assert "a: AUC 0.900; b: AUC 0.800" in (figures / "roc_t_linear_fast.txt").read_text()
    draw_all(tmp_path, records["both"] + records["class"])
    said = {path.name: path.read_text() for path in figures.glob("*.txt")}
    stem = "linear-protocol-fast-features-"
    assert "a: AUC 0.900; b: AUC 0.800" in said[f"roc_t_{stem}both.txt"]
    assert "a: AUC 0.600; b: AUC 0.700" in said[f"roc_t_{stem}class.txt"]
    assert "a 1.00, b 2.00" in said[f"ranks_{stem}both.txt"] and "b 1.00, a 2.00" in said[f"ranks_{stem}class.txt"]
    assert all(f"{stem}both" in name or f"{stem}class" in name for name in said)  # none of one of them under no name


def test_pictures_of_earlier_names_go(tmp_path):
    """Another seed for one of two settings renames both; pictures with the old names would show old numbers."""
    one, other = (write_scored(tmp_path, "a", "t", 0.9, features=held) for held in ("both", "class"))
    draw_all(tmp_path, [one, other])
    (tmp_path / "figures" / "pca_a_t.png").touch()
    draw_all(tmp_path, [replace(one, joined=(0, 1)), other])
    stems = {path.stem for path in (tmp_path / "figures").iterdir()}
    names = ("linear-protocol-fast-seed-0-1-mean-features-both", "linear-protocol-fast-seed-0-features-class")
    assert stems == {"pca_a_t", *(f"{kind}_t_{name}" for kind in ("roc", "confusion") for name in names)}


def test_pictures_of_some_models_state_how_many_there_are(tmp_path):
    draw_all(tmp_path, [write_scored(tmp_path, f"model{number}", "t", 0.9) for number in range(9)])
    for kind, shown in (("roc", 8), ("confusion", 4)):
        said = (tmp_path / "figures" / f"{kind}_t_linear_fast.txt").read_text()
        assert len({line_look(number) for number in range(shown)}) == shown
        assert said.count("model") == shown + 1 and f"(the first {shown} of 9 models)" in said.replace(" method", "")


def test_curves_on_different_data_say_so(tmp_path):
    records = [write_scored(tmp_path, model, "t", 0.9) for model in "ab"]
    for other, said in (("d", False), ("changed", True)):
        draw_all(tmp_path, [records[0], replace(records[1], data=other)])
        for path in (tmp_path / "figures").glob("*_t_*.txt"):
            assert ("not all of the same data" in path.read_text()) == said


def test_many_seeds_make_no_name_too_long(tmp_path):
    records = [write_scored(tmp_path, "a", "t", 0.9, features=held) for held in ("both", "class")]
    draw_all(tmp_path, [replace(record, joined=tuple(range(100))) for record in records])
    assert len(list((tmp_path / "figures").glob("roc_t_*.png"))) == 2


def test_a_curve_of_several_seeds_says_which_it_is(tmp_path):
    record = replace(write_scored(tmp_path, "a", "t", 0.9, seed=3), joined=(3, 4))
    draw_all(tmp_path, [record])
    assert (
        "a: AUC 0.900, mean of 2 seeds (curve of seed 3)" in (tmp_path / "figures/roc_t_linear_fast.txt").read_text()
    )
    assert "a, seed 3: 8 of 8 right" in (tmp_path / "figures" / "confusion_t_linear_fast.txt").read_text()
