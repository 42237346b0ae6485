"""Linear probes as methods: which vectors are read and chosen, and what the record says."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from biovfm_hf.errors import UserError
from evaluation.encoders.encoder import Encoder, to_square
from evaluation.encoders.load import load_encoder
from evaluation.encoders.tokens import Encoded
from evaluation.probes.linear import Linear, StudyLinear, _inputs
from evaluation.probes.probe import STUDY, ProbeRun, Trial
from evaluation.statistics.split import checked_split
from evaluation.statistics.undefined import point_metrics
from evaluation.tasks import Task, open_task


@pytest.fixture(scope="module")
def trial(tmp_path_factory, tiny_model, class_folder):
    encoder, task = load_encoder(str(tiny_model)), open_task(str(class_folder), class_folder)
    cache = tmp_path_factory.mktemp("cache")
    pairs = {name: replace(split, labels=np.arange(len(split.images) // 3) % 2,
                           case_of_image=np.arange(len(split.images)) // 3)
             for name, split in task.splits.items()}  # fmt: skip

    def make(probe, volumes=False, **settings):
        used = Task(task.record, pairs) if volumes else task
        return Trial(encoder, used, ProbeRun(probe, resamples=20, **settings), cache)

    return make


def test_auto_is_the_better_of_both_vectors_on_validation(trial):
    answers = {name: probe.run(trial(probe)) for name, probe in (
        (name, Linear(features=name)) for name in ("auto", "class", "both")
    )}  # fmt: skip
    chosen = answers["auto"].chosen
    assert chosen["features"] == min(chosen["val_loss"], key=chosen["val_loss"].get)
    assert set(chosen["val_loss"]) == {"class", "both"} and chosen["l2"] > 0
    taken = answers[chosen["features"]]
    assert np.array_equal(answers["auto"].arrays["test_scores"], taken.arrays["test_scores"])
    assert answers["auto"].trained == taken.trained and Linear(features="auto").identity["features"] == "auto"


@pytest.mark.parametrize(("pool", "volumes"), [("mean", True), ("mean_max", True), ("mean_max", False)])
def test_the_columns_of_an_input_are_those_vectors(trial, pool, volumes):
    probe = StudyLinear()
    one = trial(probe, volumes, protocol=STUDY, pool=pool)
    problem = one.problem(probe.reads(one))
    inputs = _inputs(one, problem, ("class4", "class3", "class2", "class", "mean"), ("class", "both", "last4"))
    for name, columns in inputs.items():
        expected = one.problem(name).features["val"]
        np.testing.assert_allclose(problem.features["val"][:, columns], expected, atol=1e-5)


def test_the_study_chooses_among_four_inputs_and_four_rates(trial):
    probe = StudyLinear(epochs=30)
    answer = probe.run(trial(probe, protocol=STUDY))
    chosen = answer.chosen
    assert len(chosen["tried"]) == 16 and chosen["val_auc"] == max(chosen["tried"].values())
    kept = {name: answer.arrays[f"val_{name}"] for name in ("labels", "scores")}
    split = checked_split("binary-class", kept["labels"], kept["scores"]).decided_at(np.array([0.5]))
    assert point_metrics(split)["auc"] == pytest.approx(chosen["val_auc"])
    assert answer.metrics["auc"]["value"] > 0.6
    fixed = StudyLinear(features="both", epochs=2)
    assert set(fixed.run(trial(fixed, protocol=STUDY)).chosen["tried"]) == {
        f"both {rate}" for rate in ("0.001", "0.005", "0.01", "0.05")
    }


def colours(side=2):
    """A model without blocks or class token: the mean colours of a grid of cells."""

    def read(module, pixels, blocks, reading):
        tokens = module(pixels).flatten(2).transpose(1, 2)
        return Encoded(tokens, tokens, (side, side))

    def preprocess(images):
        return to_square(images, 32, (0.0,) * 3, (1.0,) * 3)

    pool = torch.nn.AdaptiveAvgPool2d(side)
    return Encoder("c", "1", pool, preprocess, "plain", 32, (0.0,) * 3, (1.0,) * 3, read=read)


def test_a_model_without_blocks_or_class_token_has_one_input(tmp_path, trial):
    task = trial(Linear()).task
    for probe, protocol in ((StudyLinear(epochs=2), STUDY), (Linear(features="auto"), "fast")):
        answer = probe.run(Trial(colours(), task, ProbeRun(probe, protocol, resamples=5), tmp_path))
        assert answer.chosen["features"] == "mean" and answer.trained in (4, 8)
    lacking = StudyLinear(features="last4")
    with pytest.raises(UserError, match="c has no last4; it has mean"):
        lacking.run(Trial(colours(), task, ProbeRun(lacking, STUDY, resamples=5), tmp_path))
