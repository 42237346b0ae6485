"""Selective prediction: how the error falls if the least confident cases are left out.

Cases are taken in order of confidence. The selective risk at coverage k / n is the share of errors among the first k
cases. Cases of equal confidence have no order, so each counts as the mean of its tied group. The figures are therefore
expected values over random orders of ties, and do not depend on the order of the file.
"""

from dataclasses import dataclass

import numpy as np

from biovfm_hf.errors import UserError


@dataclass(frozen=True)
class RiskCurve:
    """Errors among the k most confident cases, k = 1..n.

    Attributes:
        errors: (n,) float64, the (expected) number of errors.
    """

    errors: np.ndarray

    @property
    def risks(self) -> np.ndarray:
        """Selective risk (n,) at coverage 1/n, 2/n, ... 1."""
        return self.errors / np.arange(1, len(self.errors) + 1)

    @property
    def error(self) -> float:
        """Share of errors among all cases."""
        return float(self.risks[-1])

    @property
    def aurc(self) -> float:
        """Area under the risk-coverage curve: mean selective risk over all coverages (Geifman & El-Yaniv 2017)."""
        return float(self.risks.mean())

    @property
    def optimal_aurc(self) -> float:
        """AURC of the same errors under a perfect ranking, with all errors last."""
        counts = np.arange(1, len(self.errors) + 1)
        right = len(self.errors) - round(float(self.errors[-1]))
        return float((np.maximum(counts - right, 0) / counts).mean())

    @property
    def excess_aurc(self) -> float:
        """E-AURC: AURC minus that of the perfect ranking (Geifman et al. 2019); 0 is best."""
        return self.aurc - self.optimal_aurc

    @property
    def augrc(self) -> float:
        """Area under the generalised risk-coverage curve: mean errors among the first k, over n (Traub 2024)."""
        return float(self.errors.mean() / len(self.errors))

    def risk_at(self, coverage: float) -> float:
        """Selective risk among the share `coverage` of the most confident cases, above 0 and at most 1."""
        return float(self.risks[max(round(coverage * len(self.errors)), 1) - 1])

    def coverage_at(self, risk: float) -> float:
        """The largest coverage whose selective risk is at most `risk`; 0 if there is none."""
        below = np.flatnonzero(self.risks <= risk)
        return float((below[-1] + 1) / len(self.errors)) if len(below) else 0.0


def risk_curve(confidence: np.ndarray, correct: np.ndarray) -> RiskCurve:
    """The risk-coverage curve of decisions.

    Args:
        confidence: (n,) larger is surer.
        correct: (n,) bool, whether each decision is right.

    Raises:
        UserError: lengths differ, or there is no case.
    """
    confidence, wrong = np.asarray(confidence, np.float64), ~np.asarray(correct, bool)
    if confidence.shape != wrong.shape or confidence.ndim != 1 or not len(wrong):
        raise UserError(f"{confidence.shape} confidences for {wrong.shape} decisions; give one for each case")
    _, group, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    shares = np.bincount(group, weights=wrong) / sizes
    return RiskCurve(np.cumsum(np.repeat(shares, sizes)))
