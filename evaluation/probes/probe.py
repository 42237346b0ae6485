"""The base class of probes, with a name, settings and a `run` method; and the registry of all probes.

To add one, write a module beside this one with one class:

    @register
    @dataclass(frozen=True)
    class Nearest(Probe):
        name = "nearest"
        title = "the class of the nearest training case"
        features: str = option("class", "feature vector", choices=FEATURES)

        def run(self, trial: Trial) -> Answer:
            ...

The fields are the probe's settings. They become options of `biovfm probe` with their ranges and help texts, and they
distinguish its records from others. So every setting that can be read is part of a record's identity.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from biovfm_hf.errors import OptionError, UserError
from biovfm_hf.nearest import nearest
from biovfm_hf.options import check_options, option
from biovfm_hf.rooms import import_modules

from ..encoders.embed import embed_features
from ..encoders.pooling import case_features
from ..encoders.tokens import FEATURES
from ..statistics.bootstrap import PROTOCOLS, draws_as
from ..statistics.kinds import MULTILABEL, TASKS
from ..tasks import SPLITS, Task

if TYPE_CHECKING:
    from ..encoders.encoder import Encoder

STUDY = "radiology"  # the protocol of the radiology study (arXiv 2312.02366)
ALL_PROTOCOLS = (*PROTOCOLS, STUDY)
NORMALISED = {"biovfm": "half", STUDY: "imagenet"}  # their preprocessing for all models, see `encoders.load`
FEATURES_HELP = (
    "class token, mean patch token (mean_raw: before the final norm), both, the model's pooled vector, or last4: "
    "class tokens of the last four blocks and the mean patch token; card: the one that the model's card recommends; "
    "linear also has auto: the best on validation"
)


class Answer(NamedTuple):
    """The result of a probe: its part of the record, the arrays stored beside it, and the weights it trained.

    Attributes:
        entries: {metric: value and interval}; if the value is None the metric is undefined, for its `reason`.
        arrays: {name: array of scores}.
        chosen: settings that the probe chose by itself.
        notes: notes on the scores.
        thresholds: decision thresholds of the outputs, None if there are none.
        primary: the most important metric, empty for the task's own.
        further: fields of the record that only this probe has.
        trained: number of trained weights.
        parameters: number of all weights that took part; None means those of the encoder plus the trained ones.
        warnings: what may make the scores mean something else than they seem to.
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
    warnings: tuple[str, ...] = ()

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
    """The input of a feature probe.

    Attributes:
        kind: kind of task.
        outputs: number of outputs.
        features: {split: (N, D) float32} for `train`, `val` and `test`.
        labels: {split: (N,) class indices or (N, L) of 0/1}, at least for `train` and `val`.
    """

    kind: str
    outputs: int
    features: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        """Check the features, since a probe would turn one that is not finite into scores for every case.

        Raises:
            UserError: some are not finite.
        """
        for split, vectors in self.features.items():
            bad = int((~np.isfinite(vectors)).any(axis=1).sum())
            if bad:
                raise UserError(
                    f"{split}: {bad} of the {len(vectors)} feature vectors are not finite; check the model's weights, "
                    "and remove its cached features"
                )

    @property
    def independent(self) -> bool:
        """Whether each output is a yes or no of its own (multi-label tasks) instead of one of several classes."""
        return self.kind == MULTILABEL

    @property
    def linear_weights(self) -> int:
        """Weights and biases of a linear layer from a feature vector to the outputs."""
        return self.outputs * (self.features["train"].shape[1] + 1)

    @property
    def spread(self) -> float:
        """How much training features differ: their distance from the mean (root mean square), by the mean's length."""
        features = self.features["train"].astype(np.float64)
        mean = features.mean(axis=0)
        distance = np.sqrt(((features - mean) ** 2).sum(axis=1).mean())
        return float(distance / max(np.linalg.norm(mean), 1e-12))

    def targets(self, split: str) -> np.ndarray:
        """The labels of a split as (N, outputs) float32 of 0 and 1."""
        return one_hot(self.labels[split], self.outputs)


def one_hot(labels: np.ndarray, outputs: int) -> np.ndarray:
    """Targets (N, K) float32 from class indices (N,); 0/1 labels (N, L) stay as they are."""
    return labels.astype(np.float32) if labels.ndim == 2 else np.eye(outputs, dtype=np.float32)[labels]


def log_loss(probabilities: np.ndarray, targets: np.ndarray, independent: bool, least: float = 1e-7) -> float:
    """The mean over cases of the cross-entropy of probabilities (N, K), summed over outputs.

    Probabilities are kept `least` away from 0 and 1.
    """
    likely = np.clip(probabilities.astype(np.float64), least, 1 - least)
    losses = -targets * np.log(likely)
    if independent:
        losses -= (1 - targets) * np.log(1 - likely)
    return float(losses.sum(1).mean())


@dataclass(frozen=True)
class Scores:
    """Probabilities (N, K) of the validation and test cases, the probe's choices, and weights as in `Answer`."""

    val: np.ndarray
    test: np.ndarray
    chosen: dict[str, Any]
    trained: int = 0
    parameters: int | None = None


@dataclass(frozen=True)
class Probe(ABC):
    """A method of scoring an encoder on a task; its fields are its settings.

    Attributes:
        name: the method's name on the command line.
        title: description in the help text.
        protocols: those of `ALL_PROTOCOLS` that it runs under; a second class with the same name can have the others.
        kinds: kinds of tasks that it suits; again, a second class can have the others.
        thresholds: the protocol that chooses decision thresholds. The authors' rule takes a validation score itself as
            threshold, which a test score must exceed. Where all kNN votes are 1.0, none would then be positive (MCC 0
            despite AUC 1). The authors probe linearly only, so their rule applies there.
        normalises_alike: whether a paper's protocol gives every model its authors' common preprocessing.
        stratifies: whether its intervals come from resamples that can keep the class counts.
        few_shot: whether it draws `shots` training subjects again and again, and its intervals are over these draws.
        trains_encoder: whether it trains the encoder's weights, so that features cannot be shared.
        corrupts: whether it can be scored on corrupted images.
        saves_masks: whether it can write the masks that it predicts.
        version: version of the method. Increase it when scores change although no setting does: old records then stay
            as they are and do not count as new ones.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    protocols: ClassVar[tuple[str, ...]] = PROTOCOLS
    kinds: ClassVar[tuple[str, ...]] = TASKS
    thresholds: ClassVar[str] = "fast"
    normalises_alike: ClassVar[bool] = False
    stratifies: ClassVar[bool] = True
    few_shot: ClassVar[bool] = False
    trains_encoder: ClassVar[bool] = False
    corrupts: ClassVar[bool] = False
    saves_masks: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def record_name(self) -> str:
        """The method's name in records, with its most important setting if there is one."""
        return self.name

    @property
    def identity(self) -> dict[str, Any]:
        """Settings that have a value (switches only if on) and a version above 1, which distinguish its records."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        version = {"version": self.version} if self.version > 1 else {}
        return version | {name: value for name, value in values.items() if value is not None and value is not False}

    @property
    def trains(self) -> bool:
        """Whether these settings train the encoder's weights."""
        return self.trains_encoder

    def suits(self, task: Task) -> bool:
        """Whether the method applies to the task."""
        return task.record.kind in self.kinds

    @abstractmethod
    def run(self, trial: "Trial") -> Answer:
        """Score the trial's encoder on its task.

        Raises:
            UserError: something that the probe needs is missing or broken.
        """


@dataclass(frozen=True)
class ProbeRun:
    """A probe and the other settings of a run, apart from models and tasks.

    `batch_size` is the number of images embedded at once; the other fields are options of `biovfm probe`.
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
        """Which preprocessing the encoder gets; the papers' protocols normalise images alike for every model."""
        return NORMALISED.get(self.protocol, "own") if self.probe.normalises_alike else "own"

    @property
    def draws_as(self) -> str:
        """The protocol of `statistics.bootstrap` that draws resamples."""
        return draws_as(self.protocol)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that distinguish records, besides method, protocol and seed."""
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
    """One run on one task with one encoder, and the folder of cached features.

    Predicted masks go to the folder `masks`, if it is given.
    """

    encoder: "Encoder"
    task: Task
    run: ProbeRun
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


PROBES: dict[tuple[str, str, str], type[Probe]] = {}  # {(name, protocol, kind of task): class}
ProbeClass = TypeVar("ProbeClass", bound=type[Probe])


def register(probe: ProbeClass) -> ProbeClass:
    """Register a probe under each of its protocols and kinds of tasks.

    Raises:
        UserError: it is not a dataclass, or it lacks a name, a title or the help text of a setting.
        ValueError: another probe has the same name, protocol and kind.
    """
    if gap := _gap(probe):
        raise UserError(f"probe {probe.__name__} ({probe.__module__}) {gap}")
    for protocol, kind in product(probe.protocols, probe.kinds):
        if PROBES.setdefault((probe.name, protocol, kind), probe) is not probe:
            raise ValueError(f"there is a probe {probe.name} of protocol {protocol} for {kind} tasks already")
    return probe


def _gap(probe: type[Probe]) -> str:
    """What a probe's class lacks, and the remedy; empty if it is complete."""
    if "__dataclass_fields__" not in vars(probe):
        return "is not a dataclass; write @dataclass(frozen=True) below @register"
    for name in ("name", "title"):
        if not getattr(probe, name, ""):
            return f"has no {name}; set it in the class"
    bare = next((item.name for item in fields(probe) if not item.metadata.get("help")), "")
    return bare and f"has no help text for its setting {bare}; declare it by option(default, help)"


def probe_classes() -> dict[tuple[str, str, str], type[Probe]]:
    """All registered probes by name, protocol and kind of task, including those of this package."""
    import_modules(__package__)
    return PROBES


def probe_names() -> list[str]:
    """Names of the methods, sorted."""
    return sorted({name for name, _, _ in probe_classes()})


def find_probes(name: str, protocol: str) -> list[type[Probe]]:
    """The classes of a method under a protocol; several if they suit different kinds of tasks.

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
    """The field `features` of a probe that reads feature vectors; `more` are additional choices."""
    return option(default, FEATURES_HELP, choices=(*FEATURES, *more))


def size_setting() -> Any:
    """The field `image_size` of a probe of tokens; None is the model's own size. Several sizes give a run each."""
    about = "segmentation, detection: input size (default: the model's)"
    return option(None, about, least=1, commas=True, metavar="PX,...")


def epochs_setting() -> Any:
    """The field `epochs` of a probe that trains; None is the method's default."""
    return option(None, "training epochs of heads, decoders and fine-tuning (default: by method)", least=1)


def rate_setting() -> Any:
    """The field `rate` of a probe that trains; None is the method's default."""
    return option(None, "highest learning rate (default: by method)", above=0)
