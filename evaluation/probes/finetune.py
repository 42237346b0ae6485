"""Fine-tuning an encoder with a linear head: all of its weights, its biases, or low-rank updates."""

from dataclasses import dataclass

from biovfm_hf.options import option

from .judging import judge
from .probe import Answer, Probe, Trial, epochs_setting, rate_setting, register
from .tuning.adaptations import Adaptation, AllWeights, Biases, LowRankUpdates

EPOCHS = 20
BATCH_SIZE = 32


@dataclass(frozen=True)
class TunedClassifier(Probe, Adaptation):
    """Trains those weights of an encoder that the method chooses, together with a linear head."""

    trains_encoder = True
    epochs: int | None = epochs_setting()
    rate: float | None = rate_setting()
    batch_size: int = option(BATCH_SIZE, f"images per step, at most {BATCH_SIZE}", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "batch_size", min(self.batch_size, BATCH_SIZE))

    def run(self, trial: Trial) -> Answer:
        """Train, keep the epoch with the lowest validation loss, and score; nothing is cached."""
        from .tuning.classifier import TuningRecipe, probe_finetune  # needs torch

        rate = self.rate or self.default_rate
        recipe = TuningRecipe(self.name, self, self.epochs or EPOCHS, rate, self.batch_size, trial.run.seed)
        return judge(trial, probe_finetune(trial.encoder, trial.task, recipe))


@register
@dataclass(frozen=True)
class FineTune(AllWeights, TunedClassifier):
    """Trains all weights of the encoder and a linear head."""

    name = "finetune"
    title = "training all weights of the encoder"


@register
@dataclass(frozen=True)
class BitFit(Biases, TunedClassifier):
    """Trains the encoder's biases and a linear head."""

    name = "bitfit"
    title = "training the encoder's biases"


@register
@dataclass(frozen=True)
class LoRA(LowRankUpdates, TunedClassifier):
    """Trains low-rank updates of the encoder's linear layers and a linear head."""

    name = "lora"
    title = "training low-rank updates of the encoder's linear layers"
