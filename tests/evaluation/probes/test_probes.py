"""The probes against independent implementations, and their choices."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from biovfm_hf.errors import UserError
from evaluation.probes.heads.authors import Head, probe_biovfm
from evaluation.probes.heads.logistic import Objective, fit_preconditioner, fit_standardiser, minimise, probe_fast
from evaluation.probes.judging import feature_warnings
from evaluation.probes.knn import probe_knn
from evaluation.probes.masks.decoders import unet_decoder
from evaluation.probes.masks.problem import mask_shares
from evaluation.probes.probe import Problem, one_hot

MULTI = "multi-label, binary-class"


def blobs(kind="multi-class", classes=3, width=12, counts=(150, 60, 60), seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, width)) * 1.2
    features, labels = {}, {}
    for name, count in zip(("train", "val", "test"), counts, strict=True):
        if kind == MULTI:
            labels[name] = rng.integers(0, 2, (count, classes))
            features[name] = labels[name] @ centres + rng.normal(size=(count, width))
        else:
            labels[name] = np.arange(count) % classes
            features[name] = centres[labels[name]] + rng.normal(size=(count, width))
        features[name] = features[name].astype(np.float32)
    return features, labels


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("independent", [False, True])
def test_minimum_is_that_of_scikit_learn(l2, independent):
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(20, 20)) * np.geomspace(1, 1e-2, 20)  # strongly correlated features
    raw = torch.from_numpy((rng.normal(size=(300, 20)) @ mixing).astype(np.float32))
    features = fit_standardiser(raw)(raw)
    labels = rng.integers(0, 2 if independent else 4, 300)
    targets = torch.from_numpy(labels[:, None].astype(np.float32) if independent else one_hot(labels, 4))
    objective = Objective(features, targets, independent)
    weights, _ = minimise(objective, l2, torch.zeros(21, targets.shape[1]), fit_preconditioner(features))
    reference = LogisticRegression(C=1 / (l2 * 300), tol=1e-9, max_iter=5000).fit(features.numpy(), labels)
    exact = torch.from_numpy(np.vstack([reference.coef_.T, reference.intercept_]).astype(np.float32))
    ours, theirs = (objective.value_and_gradient(w, l2)[0] for w in (weights, exact))
    assert ours == pytest.approx(theirs, rel=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.booleans())
def test_gradient_is_that_of_autograd(seed, independent):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(9, 4, generator=generator)
    targets = torch.rand(9, 3, generator=generator)
    targets = targets.round() if independent else targets / targets.sum(1, keepdim=True)
    weights = torch.randn(5, 3, generator=generator).requires_grad_()
    logits = features @ weights[:-1] + weights[-1]
    if independent:
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(0).sum()
    else:
        loss = torch.nn.functional.cross_entropy(logits, targets)
    (loss + 0.05 * weights[:-1].square().sum()).backward()
    value, gradient, _ = Objective(features, targets, independent).value_and_gradient(weights.detach(), 0.1)
    assert value == pytest.approx(float(loss.detach() + 0.05 * weights[:-1].detach().square().sum()), rel=1e-5)
    assert torch.allclose(gradient, weights.grad, atol=1e-5)


@pytest.mark.parametrize("independent", [False, True])
def test_head_steps_are_those_of_torch(independent):
    generator = torch.Generator().manual_seed(3)
    head = Head(6, 4, independent, generator)
    norm = torch.nn.BatchNorm1d(6, eps=1e-6, affine=False)
    linear = torch.nn.Linear(6, 4)
    with torch.no_grad():
        linear.weight.copy_(head.weight[:, :-1])
        linear.bias.copy_(head.weight[:, -1])
    optimizer = torch.optim.AdamW(linear.parameters(), lr=1e-2, weight_decay=0)
    for step in range(12):
        features = torch.randn(16, 6, generator=generator) * 3 + 1
        labels = torch.randint(0, 4, (16,), generator=generator)
        targets = torch.nn.functional.one_hot(labels, 4).float()
        rate = 1e-2 / (1 + step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        logits = linear(norm(features))
        lossy = torch.nn.functional
        loss = (
            lossy.binary_cross_entropy_with_logits(logits, targets)
            if independent
            else lossy.cross_entropy(logits, labels)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        head.step(features, targets, rate)
    held = torch.randn(7, 6, generator=generator)
    norm.eval()
    assert torch.allclose(head.logits(held), linear(norm(held)), atol=1e-4)
    assert torch.allclose(head.var, norm.running_var, atol=1e-5)


@pytest.mark.parametrize("probe", [probe_fast, probe_biovfm, probe_knn])
@pytest.mark.parametrize("kind", ["multi-class", MULTI])
def test_probes_learn_and_give_probabilities(probe, kind):
    features, labels = blobs(kind)
    scores = probe(Problem(kind, 3, features, labels))
    assert scores.test.shape == (60, 3) and scores.val.shape == (60, 3)
    assert (scores.test >= 0).all() and (scores.test <= 1).all()
    if kind == MULTI:
        assert ((scores.test > 0.5) == labels["test"]).mean() > 0.8
    else:
        np.testing.assert_allclose(scores.test.sum(1), 1, rtol=1e-5)
        assert (scores.test.argmax(1) == labels["test"]).mean() > 0.8


def test_authors_probe_repeats_and_uses_its_views():
    features, labels = blobs()
    first = probe_biovfm(Problem("multi-class", 3, features, labels), epochs=5, seed=1)
    again = probe_biovfm(Problem("multi-class", 3, features, labels), epochs=5, seed=1)
    other = probe_biovfm(Problem("multi-class", 3, features, labels), epochs=5, seed=2)
    assert np.array_equal(first.test, again.test) and not np.array_equal(first.test, other.test)
    views = [features["train"], features["train"][:, ::-1].copy()]
    assert not np.array_equal(probe_biovfm(Problem("multi-class", 3, features, labels), views, 5, 1).test, first.test)
    assert 1 <= first.chosen["epoch"] <= 5


def test_tiny_training_sets_are_possible():
    features, labels = blobs(counts=(3, 3, 3))
    for probe in (probe_fast, probe_biovfm, probe_knn):
        assert np.isfinite(probe(Problem("multi-class", 3, features, labels)).test).all()


@pytest.mark.parametrize("probe", [probe_fast, probe_knn])
@pytest.mark.parametrize("kind", ["multi-class", MULTI])
def test_features_that_hardly_vary_are_separated(probe, kind):
    """The class tokens of an untrained model differ by only 1e-5."""
    features, labels = blobs(kind, counts=(600, 200, 200))
    shift = np.random.default_rng(9).normal(size=12)
    near = {name: (shift + 1e-5 * part).astype(np.float32) for name, part in features.items()}
    centred = {name: (part.astype(np.float64) - shift).astype(np.float32) for name, part in near.items()}
    scores, expected = (probe(Problem(kind, 3, part, labels)).test for part in (near, centred))
    truth = one_hot(labels["test"], 3) > 0
    found, best = (np.mean((part > 0.4) == truth) for part in (scores, expected))
    assert found > 0.8 and found > best - 0.07


@pytest.mark.parametrize(("spread", "warned"), [(0, 1), (1e-4, 1), (0.01, 0), (1, 0)])
def test_features_that_hardly_differ_are_warned_of(spread, warned):
    features = 1 + spread * np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    problem = Problem("multi-class", 3, {"train": features}, {})
    assert problem.spread == pytest.approx(spread, rel=0.1, abs=1e-6)
    assert len(feature_warnings(problem)) == warned


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_features_that_are_not_finite_are_refused(split):
    features, labels = blobs(counts=(5, 5, 5))
    features[split][3, 1] = np.nan
    with pytest.raises(UserError, match=f"{split}: 1 of the 5 feature vectors are not finite"):
        Problem("multi-class", 3, features, labels)


def test_constant_features_are_no_fault():
    features, labels = blobs()
    for part in features.values():
        part[:, 0] = 7.0
    assert np.isfinite(probe_fast(Problem("multi-class", 3, features, labels)).test).all()


def test_knn_votes_by_hand():
    support = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    features = {"train": support, "val": support, "test": np.array([[2, 0]], np.float32)}
    labels = {"train": np.array([0, 1, 1]), "val": np.array([0, 1, 1])}
    found = probe_knn(Problem("binary-class", 2, features, labels), neighbours=2, temperature=0.5).test
    weight = np.exp((0.8 - 1) / 0.5)
    np.testing.assert_allclose(found, [[1 / (1 + weight), weight / (1 + weight)]], rtol=1e-6)


def slow_ml_knn(train, labels, queries, k):
    """Zhang and Zhou's algorithm as published, one case and label at a time."""
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    train, queries = unit(train.astype(np.float64)), unit(queries.astype(np.float64))
    n, count = labels.shape
    out = np.zeros((len(queries), count))
    for label in range(count):
        prior = (1 + labels[:, label].sum()) / (2 + n)
        have, lack = np.zeros(k + 1), np.zeros(k + 1)
        for i in range(n):
            similarity = train @ train[i]
            similarity[i] = -9
            votes = labels[np.argsort(-similarity)[:k], label].sum()
            (have if labels[i, label] else lack)[votes] += 1
        for i, query in enumerate(queries):
            votes = labels[np.argsort(-(train @ query))[:k], label].sum()
            yes = prior * (1 + have[votes]) / (k + 1 + have.sum())
            no = (1 - prior) * (1 + lack[votes]) / (k + 1 + lack.sum())
            out[i, label] = yes / (yes + no)
    return out


def test_ml_knn_is_zhang_and_zhous():
    features, labels = blobs(MULTI, counts=(40, 10, 15))
    found = probe_knn(Problem(MULTI, 3, features, labels), neighbours=5).test
    np.testing.assert_allclose(found, slow_ml_knn(features["train"], labels["train"], features["test"], 5), atol=1e-6)


def test_knn_refuses_senseless_settings():
    features, labels = blobs()
    with pytest.raises(UserError, match="cannot vote"):
        probe_knn(Problem("multi-class", 3, features, labels), neighbours=0)
    with pytest.raises(UserError, match="above 0"):
        probe_knn(Problem("multi-class", 3, features, labels), temperature=0.0)


def test_knn_needs_a_training_case_beside_each():
    features, labels = blobs(MULTI, counts=(2, 3, 3))
    assert np.isfinite(probe_knn(Problem(MULTI, 3, features, labels)).test).all()
    features, labels = blobs(MULTI, counts=(1, 3, 3))
    with pytest.raises(UserError, match="training cases are 1; kNN needs 2 or more"):
        probe_knn(Problem(MULTI, 3, features, labels))


def test_mask_shares_sum_to_one_and_count_pixels():
    mask = np.zeros((8, 8), np.uint8)
    mask[:4, :6] = 2
    shares = mask_shares(mask, 3, (2, 2))
    assert torch.allclose(shares.sum(0), torch.ones(2, 2))
    assert shares[2].tolist() == [[1.0, 0.5], [0.0, 0.0]]
    assert mask_shares(mask, 3, (16, 16)).shape == (3, 16, 16)


def test_unet_decoder_enlarges_sixteen_times():
    decoder = unet_decoder(24, 3)
    maps = [torch.randn(2, 24, 4, 5) for _ in range(5)]
    assert decoder(maps).shape == (2, 3, 64, 80)


@pytest.mark.parametrize("width", [64, 100])
def test_probe_and_model_have_one_unet_decoder(width):
    from biovfm_hf import BioVFMConfig
    from biovfm_hf.modeling_biovfm import BioVFMUNetDecoder

    config = BioVFMConfig(hidden_size=width, num_attention_heads=4, num_labels=3, segmentation_head="unet")
    probe, model = unet_decoder(width, 3).eval(), BioVFMUNetDecoder(config).eval()
    model.load_state_dict(probe.state_dict())
    maps = [torch.randn(2, width, 6, 6) for _ in range(5)]
    assert torch.equal(probe(maps), model(maps))


def test_unet_decoder_enlarges_skips_with_corners_aligned():
    """As in the radiology study's code; its reference logits fit only this way."""
    block = unet_decoder(16, 2).eval().blocks[0]
    block.skip, block.up = torch.nn.Identity(), torch.nn.Upsample(scale_factor=2)
    block.join = torch.nn.Identity()
    skip = torch.randn(1, 16, 4, 4)
    enlarged = block(torch.zeros(1, 16, 4, 4), skip)[:, 16:]
    for corner in (0, -1):
        assert torch.equal(enlarged[..., corner, corner], skip[..., corner, corner])
