"""The module for `evaluate`: with the library if installed, otherwise with a stand-in for its base class."""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as oracle

PATH = Path(__file__).resolve().parents[3] / "evaluation" / "statistics" / "biovfm_scores.py"


class StandIn:
    """The parts of `evaluate.Metric` that this module uses."""

    def __init__(self, config_name=None):
        self.config_name = config_name
        self.info = self._info()

    def compute(self, *, predictions, references, **more):
        return self._compute(predictions=predictions, references=references, **more)


@pytest.fixture
def load(monkeypatch, tmp_path):
    if importlib.util.find_spec("evaluate"):
        import evaluate

        return lambda task: evaluate.load(str(PATH), task, cache_dir=str(tmp_path))
    library = types.SimpleNamespace(Metric=StandIn, MetricInfo=types.SimpleNamespace)
    monkeypatch.setitem(sys.modules, "evaluate", library)
    spec = importlib.util.spec_from_file_location("biovfm_scores", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.BioVFMScores


def test_scores_are_those_of_scikit_learn(load):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    logits = rng.normal(size=(90, 3)) + 2 * np.eye(3)[labels]
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = load("multi-class").compute(predictions=scores, references=labels)
    assert found["auc"] == pytest.approx(oracle.roc_auc_score(labels, scores, multi_class="ovr"))
    assert found["mcc"] == pytest.approx(oracle.matthews_corrcoef(labels, scores.argmax(1)))
    assert set(found) >= {"accuracy", "balanced_accuracy", "sensitivity", "specificity", "brier", "ece"}


def test_binary_and_multilabel_tasks_with_intervals(load):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, (120, 2))
    scores = np.clip(0.5 * labels + 0.5 * rng.random((120, 2)), 0, 1)
    many = load("multi-label, binary-class").compute(predictions=scores, references=labels, resamples=50)
    assert many["auc_low"] <= many["auc"] <= many["auc_high"]
    one = load("binary-class").compute(predictions=scores[:, 0], references=labels[:, 0], thresholds=[0.4])
    assert one["recall_macro"] == pytest.approx(oracle.recall_score(labels[:, 0], scores[:, 0] > 0.4))


def test_undefined_metrics_are_none(load):
    found = load("binary-class").compute(predictions=np.array([0.2, 0.7]), references=np.array([1, 1]))
    assert found["auc"] is None and found["accuracy"] == 0.5
