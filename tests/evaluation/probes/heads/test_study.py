"""The radiology study's heads: their steps equal torch's, and validation makes the choice."""

import numpy as np
import pytest
import torch

from evaluation.probes.heads.study import RATES, HeadSettings, _train, _validation_auc, probe_study
from evaluation.probes.probe import Problem
from evaluation.probes.tuning.optimisation import shuffled

MULTI = "multi-label, binary-class"


def drawn(kind="multi-class", outputs=3, width=6, counts=(90, 45, 60), telling=3, seed=0):
    """A problem whose first `telling` columns determine the labels; the others are noise."""
    rng = np.random.default_rng(seed)
    centres = 4 * rng.normal(size=(outputs, telling))
    features, labels = {}, {}
    for name, count in zip(("train", "val", "test"), counts, strict=True):
        if kind == MULTI:
            labels[name] = rng.integers(0, 2, (count, outputs))
            means = labels[name] @ centres
        else:
            labels[name] = np.arange(count) % outputs
            means = centres[labels[name]]
        noise = rng.normal(size=(count, width))
        noise[:, :telling] += means
        features[name] = noise.astype(np.float32)
    return Problem(kind, outputs, features, labels)


ALL = {"all": np.ones(6, bool)}
PARTS = {"signal": np.arange(6) < 3, "noise": np.arange(6) >= 3}


@pytest.mark.parametrize(("kind", "outputs"), [("multi-class", 3), ("binary-class", 2), (MULTI, 3)])
def test_heads_side_by_side_are_trained_as_torch_trains_each(kind, outputs):
    problem = drawn(kind, outputs)
    choices = [HeadSettings("signal", 1e-2), HeadSettings("noise", 5e-2)]
    weights = _train(problem, PARTS, choices, 3, 0)
    for number, choice in enumerate(choices):
        columns = torch.from_numpy(PARTS[choice.features])
        one = _train(problem, PARTS, [choice], 0 + 1, 0)  # for its initial weights' shape alone
        assert one.shape[1:] == weights.shape[1:]
        linear = torch.nn.Linear(3, weights.shape[1])
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(2, weights.shape[1], 7, generator=generator) * 0.01
        with torch.no_grad():
            linear.weight.copy_(start[number][:, :-1][:, columns])
            linear.bias.zero_()
        optimizer = torch.optim.SGD(linear.parameters(), lr=choice.rate, momentum=0.9, weight_decay=0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
        features, targets = torch.from_numpy(problem.features["train"]), torch.from_numpy(problem.targets("train"))
        targets = targets[:, 1:] if kind == "binary-class" else targets
        for rows in shuffled(90, 90, 3, 0):
            logits = linear(features[rows][:, columns])
            if kind == "multi-class":
                loss = torch.nn.functional.cross_entropy(logits, targets[rows])
            else:
                each = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets[rows], reduction="none")
                loss = each.sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        assert torch.allclose(weights[number][:, :-1][:, columns], linear.weight, atol=1e-5)
        assert torch.allclose(weights[number][:, -1], linear.bias, atol=1e-5)
        assert (weights[number][:, :-1][:, ~columns] == 0).all()


@pytest.mark.parametrize(("kind", "outputs"), [("multi-class", 3), ("binary-class", 2), (MULTI, 3)])
def test_the_informative_input_is_chosen_and_the_record_has_every_trial(kind, outputs):
    problem = drawn(kind, outputs)
    scores = probe_study(problem, PARTS, epochs=40)
    chosen = scores.chosen
    assert chosen["features"] == "signal" and chosen["rate"] in RATES and len(chosen["tried"]) == 8
    assert chosen["val_auc"] == max(chosen["tried"].values()) > 0.8
    assert scores.test.shape == (60, outputs) and (scores.test >= 0).all() and (scores.test <= 1).all()
    columns = 1 if kind == "binary-class" else outputs
    assert scores.trained == columns * 4  # three inputs and a bias
    if kind == "multi-class":
        assert (scores.test.argmax(1) == problem.labels["test"]).mean() > 0.8


def test_the_last_head_has_seen_the_validation_cases_and_its_validation_scores_have_not():
    """With random labels, validation scores must stay at chance, even though training uses them later."""
    rng = np.random.default_rng(0)
    labels = {name: rng.integers(0, 2, count) for name, count in (("train", 40), ("val", 300), ("test", 20))}
    features = {name: rng.normal(size=(len(part), 30)).astype(np.float32) for name, part in labels.items()}
    features["test"] = features["val"][:20]
    problem = Problem("binary-class", 2, features, labels)
    scores = probe_study(problem, {"all": np.ones(30, bool)}, epochs=300)
    of_test = np.mean((scores.test[:, 1] > 0.5) == labels["val"][:20])
    of_val = np.mean((scores.val[:, 1] > 0.5) == labels["val"])
    assert of_test > 0.6 and abs(of_val - 0.5) < 0.12


def test_auc_leaves_out_labels_without_cases_and_divergence_loses():
    problem = drawn(MULTI)
    problem.labels["val"][:, 0] = 0
    scores = problem.targets("val") * 0.8 + 0.1
    assert _validation_auc(problem, scores) == 1.0
    assert _validation_auc(problem, np.full((45, 3), np.nan)) == -np.inf
    problem.labels["val"][:] = 0
    assert _validation_auc(problem, scores) < 0


def test_few_cases_get_as_many_steps_as_600():
    problem = drawn(counts=(3, 3, 3))
    assert np.isfinite(probe_study(problem, ALL).test).all()
