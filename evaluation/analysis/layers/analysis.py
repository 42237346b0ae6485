"""Analyses the layers of several models on the same images: measures, similarity of layers, and probes."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...encoders.encoder import Encoder
from ...probes.knn import probe_knn
from ...probes.probe import Problem, Scores
from ...statistics.bootstrap import Resampling, intervals
from ...statistics.kinds import TASKS
from ...statistics.split import checked_split
from ...statistics.thresholds import choose_thresholds
from ...tasks import SPLITS, Task
from ...tasks.images import Images
from .read import HeadAttention, Layers, read_heads, read_layers
from .similarity import cka_interval, cka_map
from .spectrum import effective_rank, mle_dimension, participation_ratio, rankme, two_nn

NEIGHBOURS = 20  # neighbours that vote in the kNN probe of a layer, at temperature 0.07
CKA_BATCH = 1024  # images per batch

Row = dict[str, Any]


@dataclass(frozen=True)
class LayerAnalysis:
    """Measures of several models.

    Attributes:
        rows: one per model and layer: {"model", "layer" from 1, "depth" up to 1, the measures, "knn" and "linear" with
            their intervals if there are labels}; None for what a model does not give.
        cka: {(model, model): (L1, L2)} debiased CKA between layers.
        ends: {(model, model): {"value", "low", "high"}} CKA between the last layers of two models.
        amplitudes: {model: (L, F)} relative log amplitudes by frequency.
        heads: {model: attention of each head}, None if the model does not give it.
    """

    rows: list[Row] = field(default_factory=list)
    cka: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    ends: dict[tuple[str, str], Row] = field(default_factory=dict)
    amplitudes: dict[str, np.ndarray] = field(default_factory=dict)
    heads: dict[str, HeadAttention | None] = field(default_factory=dict)

    def of_model(self, name: str) -> list[Row]:
        """The rows of a model, first layer to last."""
        return [row for row in self.rows if row["model"] == name]


@dataclass(frozen=True)
class Subset:
    """Some of the images, chosen by their indices."""

    images: Images
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[int(self.numbers[index])]

    def fingerprint(self) -> str:
        """The fingerprint of all images together with the chosen indices."""
        return f"{self.images.fingerprint()} {self.numbers.tolist()}"


def choose_images(images: Images, count: int, seed: int) -> Subset:
    """At most `count` of the images, drawn without replacement and kept in their order."""
    numbers = np.arange(len(images))
    if len(images) > count:
        numbers = np.sort(np.random.default_rng(seed).permutation(len(images))[:count])
    return Subset(images, numbers)


def measure_layers(model: str, layers: Layers, heads: HeadAttention | None) -> list[Row]:
    """The measures of each layer that need no labels, one row per layer."""
    rows, depth = [], len(layers.features)
    for number, features in enumerate(layers.features):
        rows.append({
            "model": model, "layer": number + 1, "depth": (number + 1) / depth,
            "rankme": rankme(features), "rankme_centred": rankme(features, centred=True),
            "effective_rank": effective_rank(features), "participation_ratio": participation_ratio(features),
            "two_nn": two_nn(features), "mle_dimension": mle_dimension(features),
            "token_cosine": float(layers.cosine[number]), "log_amplitude": float(layers.amplitude[number, -1]),
            "attention_distance": None if heads is None else float(heads.distance[number].mean()),
            "attention_entropy": None if heads is None else float(heads.entropy[number].mean()),
            "attention_nmi": None if heads is None else float(heads.nmi[number].mean()),
        })  # fmt: skip
    return rows


def compare(features: dict[str, list[np.ndarray]], resamples: int, seed: int, analysis: LayerAnalysis) -> None:
    """Add to the analysis the CKA between all layers of every pair of models, and of each model with itself."""
    names = list(features)
    for first, a in enumerate(names):
        for b in names[first:]:
            others = None if a == b else features[b]
            analysis.cka[a, b] = cka_map(features[a], others, min(CKA_BATCH, len(features[a][0])))
            if a != b:
                low, high = cka_interval(features[a][-1], features[b][-1], resamples, seed)
                value = float(cka_map([features[a][-1]], [features[b][-1]])[0, 0])
                analysis.ends[a, b] = {"value": value, "low": low, "high": high}


def probe_layers(encoder: Encoder, task: Task, batch_size: int, resampling: Resampling) -> list[Row]:
    """kNN and linear probes of each layer on a classification task; features are standardised in each layer.

    Returns:
        One row per layer: {"knn", "linear"}, each {"auc", "accuracy"} with intervals as in a record's metrics.
    """
    from ...probes.heads.logistic import probe_fast  # needs torch

    labels = {name: task.splits[name].labels for name in SPLITS}
    of_split = {name: read_layers(encoder, task.splits[name].images, batch_size, f"{encoder.name} {name}").features
                for name in SPLITS}  # fmt: skip
    rows = []
    for layer in range(len(of_split["train"])):
        features = standardised({name: of_split[name][layer] for name in SPLITS})
        known = {name: label for name, label in labels.items() if label is not None}
        problem = Problem(task.record.kind, task.num_outputs, features, known)
        scored = {"knn": probe_knn(problem, NEIGHBOURS), "linear": probe_fast(problem)}
        rows.append({name: _judged(task, scores, resampling) for name, scores in scored.items()})
    return rows


def can_probe(task: Task) -> bool:
    """Whether a task is a classification task whose cases are single images."""
    return task.record.kind in TASKS and all(split.case_of_image is None for split in task.splits.values())


def standardised(features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Features scaled to mean 0 and standard deviation 1 on the training split, because layers differ in scale."""
    mean, scale = features["train"].mean(axis=0), features["train"].std(axis=0)
    return {name: ((part - mean) / np.where(scale > 1e-12, scale, 1)).astype(np.float32)
            for name, part in features.items()}  # fmt: skip


def _judged(task: Task, scores: Scores, resampling: Resampling) -> Row:
    test, val = task.splits["test"], task.splits["val"]
    assert test.labels is not None and val.labels is not None
    thresholds = choose_thresholds(checked_split(task.record.kind, val.labels, scores.val, "val"), "fast")
    split = checked_split(task.record.kind, test.labels, scores.test).decided_at(thresholds)
    entries = intervals(split, resampling)
    return {name: entries[name] for name in ("auc", "accuracy")}


def analyse_model(
    encoder: Encoder, images: Images, attention_images: int, batch_size: int, analysis: LayerAnalysis
) -> list[np.ndarray]:
    """Add a model's measures to the analysis. Returns the features of the images, one array per layer."""
    layers = read_layers(encoder, images, batch_size)
    watched = Subset(images, np.linspace(0, len(images) - 1, min(attention_images, len(images))).astype(int))
    heads = read_heads(encoder, watched)
    analysis.rows.extend(measure_layers(encoder.name, layers, heads))
    analysis.amplitudes[encoder.name] = layers.amplitude
    analysis.heads[encoder.name] = heads
    return layers.features
