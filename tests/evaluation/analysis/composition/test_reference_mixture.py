"""Responses fitted to RegMix's public runs, against scikit-learn and scipy (tests/reference/mixture_*)."""

import json

import numpy as np
import pytest

from evaluation.analysis.composition.responses import (
    fit_boosting,
    fit_exponential,
    fit_linear,
    fit_quality,
    fit_scheffe,
)


@pytest.fixture
def cases(reference_dir):
    paths = sorted(reference_dir.glob("mixture_*.json"))
    assert paths
    return [(json.loads(path.read_text()), dict(np.load(path.with_suffix(".npz")))) for path in paths]


@pytest.mark.parametrize(
    ("fit", "name", "tolerance"),
    [
        (fit_linear, "linear_ols", 1e-6),
        (fit_scheffe, "scheffe_quadratic_ridge1e-3", 1e-5),
        (fit_exponential, "exponential_law", 1e-2),
        (fit_boosting, "hist_gradient_boosting", 5e-2),
    ],
)
def test_reference_responses(cases, fit, name, tolerance):
    for numbers, arrays in cases:
        expected = numbers[name]
        response = fit(arrays["train_x"].astype(np.float64), arrays["train_y"])
        found = fit_quality(response(arrays["test_1m_x"].astype(np.float64)), arrays["test_1m_y"])
        assert found["mae"] == pytest.approx(expected["mae_1m"], abs=tolerance)
        assert found["r2"] == pytest.approx(expected["r2_1m"], abs=tolerance)
        assert found["spearman"] == pytest.approx(expected["spearman_1m"], abs=max(tolerance, 1e-5))
        for size in ("60m", "1b"):
            larger = fit_quality(response(arrays[f"test_{size}_x"].astype(np.float64)), arrays[f"test_{size}_y"])
            assert larger["spearman"] == pytest.approx(expected[f"spearman_{size}"], abs=max(tolerance, 1e-5))
