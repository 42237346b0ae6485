"""L2-regularised logistic regression on standardised features, by a preconditioned L-BFGS written for this purpose.

One iteration costs two matrix products. The preconditioner is the regularised covariance of the features, which is
nearly the Hessian, so a fit takes about ten iterations however correlated the features are. Along a path of
regularisation strengths, each fit starts from the previous one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..probe import Problem, Scores

GRID = tuple(10.0**power for power in (1, 0, -1, -2, -3, -4, -5))
COVARIANCE_ROWS = 16384
MEMORY = 8
MAX_ITERATIONS = 60
TOLERANCE = 1e-5
NOISE = 1e-6  # relative error of the objective in float32; increases within it do not reject a step


@dataclass(frozen=True)
class Standardiser:
    """Per-feature mean and standard deviation (D,) of the training features."""

    mean: Tensor
    scale: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Standardise (N, D)."""
        return (features - self.mean) / self.scale


def fit_standardiser(features: Tensor) -> Standardiser:
    """Mean and standard deviation of features (N, D); a feature that is constant in float32 is divided by 1."""
    variance, mean = torch.var_mean(features, 0, correction=0)
    scale = variance.sqrt()
    scale[scale < 1e-6 * mean.abs().clamp_min(1e-6 * float(scale.max()) + 1e-30)] = 1.0
    return Standardiser(mean, scale)


@dataclass(frozen=True)
class Objective:
    """Mean loss of linear scores plus l2 / 2 times the squared weights.

    `features` (N, D) are standardised. `targets` (N, K) are class shares that sum to 1 under softmax (`independent`
    False), or the share of positives for each label (`independent` True). The bias is not penalised.
    """

    features: Tensor
    targets: Tensor
    independent: bool

    def probabilities(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss per output (K,) and probabilities (N, K) for `weights` (D + 1, K), whose last row is the bias."""
        logits = functional.linear(self.features, weights[:-1].T.contiguous(), weights[-1])
        if self.independent:
            loss = functional.binary_cross_entropy_with_logits(logits, self.targets, reduction="none").mean(0)
            return loss, logits.sigmoid_()
        log_probabilities = logits.log_softmax(1)
        return -(self.targets * log_probabilities).mean(0), log_probabilities.exp_()

    def value_and_gradient(self, weights: Tensor, l2: float) -> tuple[float, Tensor, Tensor]:
        """The objective, its gradient (D + 1, K), and mean p (1 - p) per output (K,)."""
        loss, probabilities = self.probabilities(weights)
        curvature = (probabilities * (1 - probabilities)).mean(0)
        residual = probabilities.sub_(self.targets).div_(len(self.features))
        # (R' X)' instead of X' R: with few outputs the latter takes twenty times longer in the CPU's matrix product.
        gradient = torch.cat([(residual.T @ self.features).T, residual.sum(0, keepdim=True)])
        gradient[:-1] += l2 * weights[:-1]
        value = float(loss.sum()) + 0.5 * l2 * float(weights[:-1].square().sum())
        return value, gradient, curvature


@dataclass(frozen=True)
class Preconditioner:
    """Eigenvalues (D,) and eigenvectors (D, D) of the features' covariance, to solve with an approximate Hessian."""

    values: Tensor
    vectors: Tensor

    def solve(self, gradient: Tensor, curvature: Tensor, l2: float) -> Tensor:
        """(curvature_k covariance + l2)^-1 applied to each column of the weights' gradient; the bias by curvature."""
        curvature = curvature.clamp_min(1e-4)
        scaled = (self.vectors.T @ gradient[:-1]) / (self.values[:, None] * curvature + max(l2, 1e-8))
        return torch.cat([self.vectors @ scaled, gradient[-1:] / curvature])


def fit_preconditioner(features: Tensor) -> Preconditioner:
    """Eigendecomposition of the covariance of at most `COVARIANCE_ROWS` evenly spaced rows of (N, D)."""
    step = max(1, len(features) // COVARIANCE_ROWS)
    rows = features[::step]
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    return Preconditioner(values.clamp_min(0), vectors)


def minimise(objective: Objective, l2: float, start: Tensor, preconditioner: Preconditioner) -> tuple[Tensor, int]:
    """Minimise by L-BFGS (Nocedal and Wright 2006, algorithm 7.5) with Armijo backtracking.

    Args:
        objective: the objective to minimise.
        l2: regularisation strength.
        start: (D + 1, K) initial weights.
        preconditioner: approximate inverse Hessian.

    Returns:
        The weights and the number of iterations. It stops when a step gains, or the next step could gain, less than
        `TOLERANCE` of the objective, or after `MAX_ITERATIONS`.
    """
    weights = start.clone()
    value, gradient, curvature = objective.value_and_gradient(weights, l2)
    steps: list[tuple[Tensor, Tensor, float]] = []
    fixed = curvature.clone()
    for iteration in range(MAX_ITERATIONS):
        direction = _direction(gradient, steps, lambda g: preconditioner.solve(g, fixed, l2))
        slope = float((direction * gradient).sum())
        if slope > -TOLERANCE * abs(value):
            return weights, iteration
        size = 1.0
        while True:
            trial = weights + size * direction
            trial_value, trial_gradient, curvature = objective.value_and_gradient(trial, l2)
            if trial_value <= value + 1e-4 * size * slope + NOISE * abs(value):
                break
            size *= 0.5
            if size < 1e-3:
                return weights, iteration
        moved, turned = trial - weights, trial_gradient - gradient
        product = float((moved * turned).sum())
        if product > 1e-12:
            steps = [*steps[-MEMORY + 1 :], (moved, turned, product)]
        gained = value - trial_value
        weights, value, gradient = trial, trial_value, trial_gradient
        if gained < TOLERANCE * abs(value):
            return weights, iteration + 1
    return weights, MAX_ITERATIONS


def _direction(
    gradient: Tensor, steps: list[tuple[Tensor, Tensor, float]], solve: Callable[[Tensor], Tensor]
) -> Tensor:
    """The two-loop recursion, with `solve` as the initial inverse Hessian."""
    ascent = gradient.clone()
    shares = []
    for moved, turned, product in reversed(steps):
        share = float((moved * ascent).sum()) / product
        ascent -= share * turned
        shares.append(share)
    ascent = solve(ascent)
    for (moved, turned, product), share in zip(steps, reversed(shares), strict=True):
        ascent += moved * (share - float((turned * ascent).sum()) / product)
    return -ascent


def fit_path(
    train: Objective, val: Objective, grid: tuple[float, ...] = GRID, patience: int = 1
) -> tuple[Tensor, list[float]]:
    """Fit along `grid`, strongest regularisation first, and keep the fit with the lowest validation loss.

    Under softmax one regularisation is chosen for the task, with independent labels one for each label. The path ends
    when no output has improved for `patience` steps.

    Returns:
        Weights (D + 1, K) and the chosen regularisation of each output.
    """
    outputs = train.targets.shape[1]
    if train.features.shape[0] < train.features.shape[1]:
        # With fewer cases than features, the weights lie in the span of the cases: solve there and map back.
        basis, _ = torch.linalg.qr(train.features.T)
        inside = [Objective(part.features @ basis, part.targets, part.independent) for part in (train, val)]
        within, chosen = fit_path(inside[0], inside[1], grid, patience)
        return torch.cat([basis @ within[:-1], within[-1:]]), chosen
    weights = torch.zeros(train.features.shape[1] + 1, outputs)
    share = train.targets.mean(0).clamp(1e-6, 1 - 1e-6)
    weights[-1] = share.logit() if train.independent else share.log()
    preconditioner = fit_preconditioner(train.features)
    best, best_loss = weights.clone(), torch.full((outputs,), float("inf"))
    chosen, waited = [grid[0]] * outputs, 0
    for l2 in grid:
        weights, _ = minimise(train, l2, weights, preconditioner)
        loss, _ = val.probabilities(weights)
        loss = loss if train.independent else loss.sum().expand(outputs)
        better = loss < best_loss
        best[:, better], best_loss = weights[:, better], torch.minimum(loss, best_loss)
        chosen = [l2 if flag else old for flag, old in zip(better.tolist(), chosen, strict=True)]
        waited = 0 if better.any() else waited + 1
        if waited >= patience:
            break
    return best, chosen


def probe_fast(problem: Problem) -> Scores:
    """Standardise, then fit logistic regressions over a grid of regularisation and choose by validation loss.

    Multi-label tasks get one sigmoid per label, others a softmax.
    """
    independent = problem.independent
    inputs = {name: torch.from_numpy(np.ascontiguousarray(x, np.float32)) for name, x in problem.features.items()}
    standardise = fit_standardiser(inputs["train"])
    inputs = {name: standardise(part) for name, part in inputs.items()}
    train, val = (
        Objective(inputs[name], torch.from_numpy(problem.targets(name)), independent) for name in ("train", "val")
    )
    weights, chosen = fit_path(train, val)
    test = Objective(inputs["test"], torch.zeros(len(inputs["test"]), problem.outputs), independent)
    l2 = sorted(set(chosen)) if independent else chosen[0]
    of_val, of_test = (part.probabilities(weights)[1].numpy() for part in (val, test))
    return Scores(of_val, of_test, {"l2": l2}, problem.linear_weights)
