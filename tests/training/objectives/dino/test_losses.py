import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.objectives.dino import losses
from training.objectives.dino.heads import DINOHead, Prototypes
from training.objectives.dino.losses import (
    Part,
    centred_softmax,
    koleo_loss,
    prototype_cross_entropy,
    sinkhorn_knopp,
    update_center,
)


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def textbook_sinkhorn(scores: Tensor, temperature: float, iterations: int) -> Tensor:
    """The textbook matrix form, prototypes as rows, in float64 and the log domain so that nothing overflows."""
    matrix = (scores.double() / temperature).t()
    prototypes, samples = matrix.shape
    matrix = matrix - matrix.flatten().logsumexp(0)
    for _ in range(iterations):
        matrix = matrix - matrix.logsumexp(1, keepdim=True) - math.log(prototypes)
        matrix = matrix - matrix.logsumexp(0, keepdim=True) - math.log(samples)
    return (matrix + math.log(samples)).exp().t()


@settings(deadline=None, max_examples=50)
@given(
    samples=st.integers(1, 12),
    prototypes=st.integers(1, 20),
    temperature=st.floats(0.04, 1.0),
    iterations=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_sinkhorn_knopp_equals_the_textbook(
    samples: int, prototypes: int, temperature: float, iterations: int, seed: int
) -> None:
    scores = random(samples, prototypes, seed=seed, scale=0.5)
    assignment = sinkhorn_knopp(scores, temperature, iterations)
    torch.testing.assert_close(
        assignment.double(), textbook_sinkhorn(scores, temperature, iterations), rtol=2e-5, atol=1e-7
    )
    torch.testing.assert_close(assignment.sum(1), torch.ones(samples))


def test_sinkhorn_knopp_survives_scores_that_overflow_an_exponential() -> None:
    scores = random(16, 8, scale=20.0)  # exp(20 / 0.04) has no float32
    scores[3] += 100.0  # one sample towers over the others
    assignment = sinkhorn_knopp(scores, 0.04)
    assert not torch.exp(scores / 0.04).isfinite().all()
    assert assignment.isfinite().all()
    torch.testing.assert_close(assignment.sum(1), torch.ones(16))


def test_sinkhorn_knopp_after_an_overflow_is_the_exact_solution() -> None:
    scores = random(12, 6) + 40.0  # the same offset everywhere changes nothing but overflows
    torch.testing.assert_close(
        sinkhorn_knopp(scores, 0.07).double(), textbook_sinkhorn(scores, 0.07, 3), rtol=2e-4, atol=1e-6
    )


def test_sinkhorn_knopp_uses_an_unused_prototype() -> None:
    scores = random(64, 4, scale=0.01)
    scores[:, 2] -= 1.0
    plain = torch.softmax(scores / 0.1, dim=1).mean(0)
    assert plain[2] < 1e-4
    assert sinkhorn_knopp(scores, 0.1).mean(0)[2] == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("gap", [10.0, 1000.0])
def test_a_prototype_out_of_reach_is_not_nan(gap: float) -> None:
    scores = random(6, 3)
    scores[:, 1] -= gap
    assert sinkhorn_knopp(scores, 0.04).isfinite().all()


def test_no_masked_patches_give_no_targets() -> None:
    assert sinkhorn_knopp(torch.empty(0, 5), 0.07).shape == (0, 5)


def test_scores_are_left_alone() -> None:
    scores = random(4, 5)
    before = scores.clone()
    sinkhorn_knopp(scores, 1.0)
    assert scores.equal(before)


def test_centre_follows_the_mean_and_ignores_an_empty_batch() -> None:
    center, scores = torch.zeros(1, 3), torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    update_center(center, scores, 0.9)
    torch.testing.assert_close(center, torch.full((1, 3), 0.2))
    update_center(center, torch.empty(0, 3), 0.9)
    torch.testing.assert_close(center, torch.full((1, 3), 0.2))
    wanted = torch.softmax((scores - 0.2) / 0.5, dim=1)
    torch.testing.assert_close(centred_softmax(scores, center, 0.5), wanted)


def prototypes_of(count: int, width: int) -> Prototypes:
    prototypes = Prototypes(count, width)
    with torch.no_grad():
        prototypes.weight_v.copy_(random(count, width, seed=1))
        prototypes.weight_g.copy_(random(count, 1, seed=5).abs() + 0.5)
    return prototypes


def plain_cross_entropy(vectors: Tensor, prototypes: Prototypes, parts: list[Part], temperature: float) -> Tensor:
    """Per part, the weighted sum with all scores at hand."""
    values = []
    for rows, part in zip(vectors.split([part.rows for part in parts]), parts, strict=True):
        repeats = part.rows // max(len(part.targets), 1)
        log_probabilities = F.log_softmax(prototypes(rows) / temperature, dim=1)
        loss = -(part.targets.repeat(repeats, 1) * log_probabilities).sum(1)
        weights = part.weights.repeat(repeats) if isinstance(part.weights, Tensor) else part.weights
        values.append((loss * weights).sum())
    return torch.stack(values)


@pytest.mark.parametrize("chunk", [1, 37, 1 << 20])
@pytest.mark.parametrize("block", [2, 25, 1 << 10])
def test_prototype_cross_entropy_and_gradients(monkeypatch: pytest.MonkeyPatch, chunk: int, block: int) -> None:
    monkeypatch.setattr(losses, "_CHUNK", chunk)
    monkeypatch.setattr(losses, "_BLOCK", block)
    targets = [torch.softmax(random(rows, 11, seed=rows), dim=1) * 2 for rows in (6, 4)]  # rows need not sum to 1
    parts = [Part(6, targets[0], 0.3, 1.5), Part(12, targets[1], random(4, seed=3).abs(), 0.5)]
    prototypes, vectors = prototypes_of(11, 5), random(18, 5).requires_grad_()
    learned = [vectors, prototypes.weight_v, prototypes.weight_g]
    total, values = prototype_cross_entropy(vectors, prototypes, parts, 0.1)
    plain = plain_cross_entropy(vectors, prototypes, parts, 0.1)
    torch.testing.assert_close(torch.stack(values), plain)
    plain_total = 1.5 * plain[0] + 0.5 * plain[1]
    torch.testing.assert_close(total, plain_total)
    assert not any(value.requires_grad for value in values)
    torch.testing.assert_close(
        torch.autograd.grad(2 * total, learned), torch.autograd.grad(2 * plain_total, learned), rtol=1e-4, atol=1e-5
    )


def test_prototype_cross_entropy_without_rows_has_zero_gradients() -> None:
    vectors, prototypes = torch.empty(0, 4, requires_grad=True), prototypes_of(7, 4)
    total, _ = prototype_cross_entropy(vectors, prototypes, [Part(0, torch.empty(0, 7), torch.empty(0))], 0.1)
    total.backward()
    assert total == 0.0 and vectors.grad.shape == (0, 4)
    assert prototypes.weight_v.grad.eq(0).all() and prototypes.weight_g.grad.eq(0).all()


def test_prototype_cross_entropy_goes_backward_once() -> None:
    vectors = random(4, 4).requires_grad_()
    part = Part(4, torch.softmax(random(4, 7), dim=1), 1.0)
    total, _ = prototype_cross_entropy(vectors, prototypes_of(7, 4), [part], 0.1)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass"):
        total.backward()


def test_prototype_cross_entropy_in_bfloat16_is_close() -> None:
    vectors, prototypes = F.normalize(random(16, 8), dim=1), prototypes_of(32, 8)
    part = Part(16, torch.softmax(random(16, 32, seed=2), dim=1), 1.0)
    exact, _ = prototype_cross_entropy(vectors, prototypes, [part], 0.5)
    exact_grad = torch.autograd.grad(exact, prototypes.weight_v)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = prototype_cross_entropy(vectors, prototypes, [part], 0.5)
    rounded_grad = torch.autograd.grad(rounded, prototypes.weight_v)[0]
    assert rounded.dtype == rounded_grad.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=1e-2)
    assert (rounded_grad - exact_grad).norm() < 2e-2 * exact_grad.norm()


def test_koleo_is_the_mean_log_distance_to_the_nearest() -> None:
    features = random(7, 4)
    unit = F.normalize(features, dim=1)
    distance = torch.cdist(unit, unit) + 10 * torch.eye(7)
    torch.testing.assert_close(koleo_loss(features), -distance.min(1).values.log().mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_koleo_of_equal_images_is_finite_in_half_precision(dtype: torch.dtype) -> None:
    features = random(4, 8).to(dtype)
    features[1] = features[0]
    features.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = koleo_loss(features)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite() and features.grad.isfinite().all()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_head_equals_torchs_weight_norm(layers: int) -> None:
    head = DINOHead(6, prototypes=9, hidden=8, bottleneck=4, layers=layers)
    with torch.no_grad():
        head.last_layer.weight_g.copy_(random(9, 1).abs())
    linear = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 9, bias=False))
    linear.parametrizations.weight.original0.data.copy_(head.last_layer.weight_g)
    linear.parametrizations.weight.original1.data.copy_(head.last_layer.weight_v)
    vectors = head(random(5, 6))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(head.last_layer(vectors), linear(vectors))
    with torch.no_grad():
        torch.testing.assert_close(head.last_layer(vectors), linear(vectors))


def test_head_starts_as_dinov2s() -> None:
    head = DINOHead(64, prototypes=512, hidden=256, bottleneck=32)
    assert head.last_layer.weight_g.eq(1).all()
    assert head.mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert head.mlp[2].bias.eq(0).all()
    assert head.last_layer.weight_v.abs().max() <= 32**-0.5
    assert head.last_layer.weight_v.std().item() == pytest.approx(32**-0.5 / 3**0.5, rel=0.05)
