"""How models are scored: method, protocol and their numbers, and which of these tell one record from another."""

from dataclasses import dataclass
from typing import Any

from . import finetune

UNSTRATIFIED = ("fewshot", "segment")  # their intervals are over draws, and over cases without a class


@dataclass(frozen=True)
class Settings:
    """What a run of the suite does, apart from models and tasks. See `biovfm probe --help` for each."""

    method: str = "linear"
    protocol: str = "fast"
    seed: int = 0
    features: str | None = None
    views: int = 0
    epochs: int | None = None
    neighbours: int | None = None
    temperature: float = 0.07
    decoder: str = "linear"
    shots: int = 16
    draws: int = 20
    rate: float | None = None
    image_size: int | None = None
    batch_size: int = 64
    device: str = "cpu"
    precision: str = "fp32"
    compile: bool = False
    resamples: int = 1000
    stratify: bool = False

    @property
    def method_name(self) -> str:
        """What records call the method: with the shots or the decoder where these vary."""
        if self.method == "fewshot":
            return f"fewshot-{self.shots}"
        return "segment-unet" if self.method == "segment" and self.decoder == "unet" else self.method

    @property
    def tunes(self) -> bool:
        """Whether the encoder's weights are trained, so that no features are shared."""
        return self.method in finetune.RATES

    @property
    def tuning_batch(self) -> int:
        """Images per step of fine-tuning."""
        return min(self.batch_size, finetune.BATCH_SIZE)

    @property
    def preprocess(self) -> str:
        """Which preprocessing the encoder gets: the BioVFM authors normalise alike for every model."""
        return "half" if self.protocol == "biovfm" and self.method in ("linear", "segment") else "own"

    @property
    def chosen_features(self) -> str:
        """The feature vector that the method reads."""
        if self.method == "linear" and self.protocol == "biovfm":
            return "mean_raw"
        return self.features or ("class" if self.method == "knn" else "both")

    @property
    def thresholds(self) -> str:
        """The protocol by which decision thresholds are chosen.

        The authors' rule takes a validation score itself, which a test score must exceed. Where kNN votes all lie at
        1.0 none would then be positive (MCC 0 beside AUC 1). The authors probe linearly only, so the rule holds there.
        """
        return self.protocol if self.method == "linear" else "fast"

    def recorded(self) -> dict[str, Any]:
        """The settings that change the result of this method; they are part of a record's identity."""
        by_method: dict[str, tuple[str, ...]] = {
            "linear": ("views", "epochs") if self.protocol == "biovfm" else (),
            "knn": ("neighbours", "temperature"),
            "fewshot": ("shots", "draws"),
            "segment": ("decoder", "image_size", "epochs", "rate"),
        }
        names = by_method.get(self.method, ("epochs", "rate"))
        kept = {name: getattr(self, name) for name in (*names, "precision") if getattr(self, name) is not None}
        if self.method not in by_method:
            kept["batch_size"] = self.tuning_batch
        if self.method in ("linear", "knn", "fewshot"):
            kept["features"] = self.chosen_features
        if self.protocol != self.thresholds and self.method not in UNSTRATIFIED:
            kept["thresholds"] = "midway"  # tells these records from those made before by the authors' rule
        if self.stratify and self.method not in UNSTRATIFIED:
            kept["stratify"] = True
        return kept
