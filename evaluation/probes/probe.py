"""The base class of probes, with a name, settings and a run; and the registry of all probes.

To add one, write a module beside this one with one class:

    @register
    @dataclass(frozen=True)
    class Nearest(Probe):
        name = "nearest"
        title = "the class of the nearest training case"
        features: str = option("class", "feature vector", choices=FEATURES)

        def run(self, trial: Trial) -> Answer:
            ...

Its fields are its settings. They become options of `biovfm probe` with their ranges and help, and they are what tells
its records from others, so that no setting can be read without being a part of a record's identity.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from biovfm_hf.errors import OptionError
from biovfm_hf.nearest import nearest
from biovfm_hf.options import check_options, option
from biovfm_hf.rooms import import_modules

from ..encoders.embed import FEATURES, embed_features
from ..encoders.pooling import case_features
from ..statistics.bootstrap import PROTOCOLS, draws_as
from ..statistics.kinds import MULTILABEL, TASKS
from ..tasks import SPLITS, Task

if TYPE_CHECKING:
    from ..encoders.encoder import Encoder

STUDY = "radiology"  # the protocol of the radiology study (arXiv 2312.02366)
ALL_PROTOCOLS = (*PROTOCOLS, STUDY)
NORMALISED = {"biovfm": "half", STUDY: "imagenet"}  # what these give every model, see `encoders.load.load_encoder`
FEATURES_HELP = (
    "class token, mean patch token (mean_raw: before the final norm), both, the model's pooled vector, or last4: "
    "class tokens of the last four blocks and the mean patch token; card: what the model's card recommends; linear "
    "also auto: the best on validation "
    "(default: class for kNN, auto for linear under protocol radiology, else both)"
)


class Answer(NamedTuple):
    """The result of a probe: its part of the record, the arrays stored beside it, and the weights it trained.

    Attributes:
        entries: a metric's value and interval each; one whose value is None is undefined, for its `reason`.
        arrays: of scores, by name.
        chosen: settings that the probe chose by itself.
        notes: on the scores.
        thresholds: of the outputs, None if nothing is decided by them.
        primary: the metric of most weight, empty for the task's own.
        further: fields of the record that this probe alone has.
        trained: weights it trained.
        parameters: all weights that took part, None for those of the encoder and the trained ones together.
    """

    entries: Mapping[str, Mapping[str, Any]]
    arrays: dict[str, np.ndarray]
    chosen: Mapping[str, Any]
    notes: list[str]
    thresholds: list[float] | None = None
    primary: str = ""
    further: Mapping[str, Any] = MappingProxyType({})
    trained: int = 0
    parameters: int | None = None

    @property
    def metrics(self) -> dict[str, Mapping[str, Any]]:
        """The metrics that have a value."""
        return {name: entry for name, entry in self.entries.items() if entry["value"] is not None}

    @property
    def undefined(self) -> dict[str, str]:
        """Why the others have none."""
        return {name: entry["reason"] for name, entry in self.entries.items() if entry["value"] is None}


@dataclass(frozen=True)
class Problem:
    """The input of a feature probe: the task's kind, the number of outputs, and the cases of its splits.

    `features` (N, D) float32 of `train`, `val` and `test`; `labels` (N,) classes or (N, L) of 0/1, of `train` and
    `val` at least.
    """

    kind: str
    outputs: int
    features: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]

    @property
    def independent(self) -> bool:
        """Whether each output is a yes or no of its own (multi-label tasks), and not one of several classes."""
        return self.kind == MULTILABEL

    @property
    def linear_weights(self) -> int:
        """Weights and biases of a linear layer from a feature vector to the outputs."""
        return self.outputs * (self.features["train"].shape[1] + 1)

    def targets(self, split: str) -> np.ndarray:
        """The labels of a split as (N, outputs) float32 of 0 and 1."""
        return one_hot(self.labels[split], self.outputs)


def one_hot(labels: np.ndarray, outputs: int) -> np.ndarray:
    """Targets (N, K) float32 from class numbers (N,) or, as they are, from 0/1 labels (N, L)."""
    return labels.astype(np.float32) if labels.ndim == 2 else np.eye(outputs, dtype=np.float32)[labels]


def log_loss(probabilities: np.ndarray, targets: np.ndarray, independent: bool) -> float:
    """The mean over cases of the cross-entropy of probabilities (N, K), summed over outputs."""
    likely = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    losses = -targets * np.log(likely)
    if independent:
        losses -= (1 - targets) * np.log(1 - likely)
    return float(losses.sum(1).mean())


@dataclass(frozen=True)
class Scores:
    """Probabilities (N, K) of the validation and test cases, what a probe chose, and weights as `Answer`."""

    val: np.ndarray
    test: np.ndarray
    chosen: dict[str, Any]
    trained: int = 0
    parameters: int | None = None


@dataclass(frozen=True)
class Probe(ABC):
    """A method of scoring an encoder on a task; its fields are its settings.

    Attributes:
        name: its name for the command.
        title: its description in the help text.
        protocols: those of `ALL_PROTOCOLS` that it runs under; a second class of the same name can have the others.
        kinds: of the tasks it suits; likewise.
        thresholds: the protocol by which decision thresholds are chosen. The authors' rule takes a validation score
            itself, which a test score must exceed. Where kNN votes all lie at 1.0 none would then be positive (MCC 0
            beside AUC 1). The authors probe linearly only, so the rule holds there.
        normalises_alike: whether the protocols of the papers give every model their authors' one preprocessing.
        stratifies: whether its intervals come from resamples that can keep the class counts.
        trains_encoder: whether it trains the encoder's weights, so that no features are shared.
        corrupts: whether it can be scored on corrupted images.
        saves_masks: whether it can write the masks that it predicts.
        version: of what it does. Raise it when its scores change though no setting does: its old records then stay
            what they are, and are not taken for new ones.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    protocols: ClassVar[tuple[str, ...]] = PROTOCOLS
    kinds: ClassVar[tuple[str, ...]] = TASKS
    thresholds: ClassVar[str] = "fast"
    normalises_alike: ClassVar[bool] = False
    stratifies: ClassVar[bool] = True
    trains_encoder: ClassVar[bool] = False
    corrupts: ClassVar[bool] = False
    saves_masks: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def record_name(self) -> str:
        """The method's name in records, with its most important setting if it has one."""
        return self.name

    @property
    def identity(self) -> dict[str, Any]:
        """Settings that have a value (not switches that are off), and a later version: what tells records apart."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        version = {"version": self.version} if self.version > 1 else {}
        return version | {name: value for name, value in values.items() if value is not None and value is not False}

    @property
    def trains(self) -> bool:
        """Whether it trains the encoder's weights with these settings."""
        return self.trains_encoder

    def suits(self, task: Task) -> bool:
        """Whether the method applies to the task."""
        return task.record.kind in self.kinds

    @abstractmethod
    def run(self, trial: "Trial") -> Answer:
        """Score the trial's encoder on its task.

        Raises:
            UserError: something it needs is missing or broken.
        """


@dataclass(frozen=True)
class Run:
    """A probe and the other settings of a run of the suite, apart from models and tasks.

    `batch_size` images are embedded at once; the other fields are those of `biovfm probe`.
    """

    probe: Probe
    protocol: str = "fast"
    seed: int = 0
    batch_size: int = 64
    device: str = "cpu"
    precision: str = "fp32"
    compile: bool = False
    resamples: int = 1000
    stratify: bool = False
    pool: str = "mean"
    corrupt: bool = False
    corruptions: str | None = None
    save_masks: str | None = None
    trust_remote_code: str | None = None

    @property
    def preprocess(self) -> str:
        """Which preprocessing the encoder gets: the authors of both papers normalise alike for every model."""
        return NORMALISED.get(self.protocol, "own") if self.probe.normalises_alike else "own"

    @property
    def draws_as(self) -> str:
        """The protocol of `statistics.bootstrap` by which resamples are drawn."""
        return draws_as(self.protocol)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that distinguish its records, besides method, protocol and seed."""
        settings = {**self.probe.identity, "precision": self.precision}
        if self.probe.stratifies and self.draws_as != self.probe.thresholds:
            settings["thresholds"] = "midway"  # distinguishes these records from earlier ones by the authors' rule
        if self.probe.stratifies and self.stratify:
            settings["stratify"] = True
        if self.pool != "mean":
            settings["pool"] = self.pool
        if self.corrupt and self.probe.corrupts:
            settings |= {"corrupt": True} | ({"corruptions": self.corruptions} if self.corruptions else {})
        return settings


@dataclass(frozen=True)
class Trial:
    """One run on one task by one encoder, with the folder where features are kept.

    Predicted masks go to the folder `masks`, if there is one.
    """

    encoder: "Encoder"
    task: Task
    run: Run
    cache: Path
    masks: Path | None = None

    def label(self, split: str) -> str:
        """The label of progress bars for a split."""
        return f"{self.encoder.name} {self.task.name} {split}"

    def problem(self, which: str) -> Problem:
        """The task as feature vectors of the kind `which` (see `embed.embed_features`)."""
        record = self.task.record
        return Problem(record.kind, self.task.num_outputs, self._features(which), self.labels())

    def _features(self, which: str) -> dict[str, np.ndarray]:
        """The feature vectors (N_cases, D) of every split."""
        vectors = {}
        for name in SPLITS:
            split = self.task.splits[name]
            of_images = embed_features(
                self.encoder, split.images, self.cache, which, self.run.batch_size, self.label(name)
            )
            vectors[name] = case_features(of_images, split.case_of_image, self.run.pool)
        return vectors

    def labels(self) -> dict[str, np.ndarray]:
        """Labels of every split of a classification task."""
        return {name: split.labels for name, split in self.task.splits.items() if split.labels is not None}


PROBES: dict[tuple[str, str, str], type[Probe]] = {}  # by name, protocol and kind of task
ProbeClass = TypeVar("ProbeClass", bound=type[Probe])


def register(probe: ProbeClass) -> ProbeClass:
    """Make a probe known, under each of its protocols and kinds of tasks.

    Raises:
        ValueError: another has that name, protocol and kind.
    """
    for protocol, kind in product(probe.protocols, probe.kinds):
        if PROBES.setdefault((probe.name, protocol, kind), probe) is not probe:
            raise ValueError(f"there is a probe {probe.name} of protocol {protocol} for {kind} tasks already")
    return probe


def probe_classes() -> dict[tuple[str, str, str], type[Probe]]:
    """All registered probes by name, protocol and kind of task, those of this package among them."""
    import_modules(__package__)
    return PROBES


def probe_names() -> list[str]:
    """The methods' names, sorted."""
    return sorted({name for name, _, _ in probe_classes()})


def find_probes(name: str, protocol: str) -> list[type[Probe]]:
    """The classes of a method under a protocol: one, or one for each sort of tasks.

    Raises:
        UserError: there is none.
    """
    matches = [probe for (known, under, _), probe in probe_classes().items() if (known, under) == (name, protocol)]
    if not matches:
        names = sorted({known for known, under, _ in probe_classes() if under == protocol})
        near = nearest(name, names)
        raise OptionError("method", f"{name!r} is none of {', '.join(names)} under protocol {protocol}{near}")
    return list(dict.fromkeys(matches))


def features_setting(default: str, *more: str) -> Any:
    """The field `features` of a probe that reads feature vectors; `more` are choices of its own."""
    return option(default, FEATURES_HELP, choices=(*FEATURES, *more))


def size_setting() -> Any:
    """The field `image_size` of a probe of tokens; None is the model's own. Several sizes make a run each."""
    about = "segmentation, detection: input (default: the model's)"
    return option(None, about, least=1, commas=True, metavar="PX,...")


def epochs_setting() -> Any:
    """The field `epochs` of a probe that trains; None is the method's own number."""
    return option(None, "training epochs of heads, decoders and fine-tuning (default: by method)", least=1)


def rate_setting() -> Any:
    """The field `rate` of a probe that trains; None is the method's own."""
    return option(None, "highest learning rate (default: by method)", above=0)
