"""Segmentation: decoders on a frozen encoder, networks trained from scratch, fine-tuned encoders, and few subjects."""

from dataclasses import dataclass, field

from ..statistics.bootstrap import PROTOCOLS
from .draws import SubjectDraws
from .few_shot import FewShot, draws_setting, shots_setting
from .finetune import BitFit, FineTune, LoRA
from .masks.settings import AUGMENTATIONS, MaskProbe, augment_setting
from .probe import STUDY, Answer, Trial, register
from .tuning.adaptations import Adaptation, AllWeights, Biases, LowRankUpdates


@register
@dataclass(frozen=True)
class Segment(MaskProbe):
    """A decoder on frozen patch tokens."""

    name = "segment"
    title = "a decoder on frozen patch tokens"
    normalises_alike = True

    def run(self, trial: Trial) -> Answer:
        """Train the decoder, or the network of a `scratch:` model, and score it."""
        from .masks.frozen import probe_frozen  # needs torch

        return probe_frozen(self, trial)


@register
@dataclass(frozen=True)
class StudySegment(MaskProbe):
    """A decoder on frozen patch tokens, trained and scored as the radiology study does."""

    name = Segment.name
    title = Segment.title
    normalises_alike = True
    protocols = (STUDY,)
    augment: str | None = augment_setting((*AUGMENTATIONS, "none"), "study")

    def run(self, trial: Trial) -> Answer:
        """Train a decoder at each of seven rates, then another one at the best rate, and score it."""
        from .masks.study import probe_study  # needs torch

        return probe_study(self, trial)


@dataclass(frozen=True)
class TunedMasks(MaskProbe, Adaptation):
    """Trains those weights of an encoder that the method chooses, together with a decoder."""

    trains_encoder = True
    protocols = PROTOCOLS

    def run(self, trial: Trial) -> Answer:
        """Train, keep the epoch with the highest validation Dice, and score; nothing is cached."""
        from .masks.tuned import probe_tuned  # needs torch

        return probe_tuned(self, self, trial)


@register
@dataclass(frozen=True)
class FineTuneMasks(AllWeights, TunedMasks):
    """Trains all weights of the encoder and a decoder."""

    name = FineTune.name
    title = FineTune.title


@register
@dataclass(frozen=True)
class BitFitMasks(Biases, TunedMasks):
    """Trains the encoder's biases and a decoder."""

    name = BitFit.name
    title = BitFit.title


@register
@dataclass(frozen=True)
class LoRAMasks(LowRankUpdates, TunedMasks):
    """Trains low-rank updates of the encoder's linear layers and a decoder."""

    name = LoRA.name
    title = LoRA.title


@register
@dataclass(frozen=True)
class FewShotMasks(MaskProbe):
    """Decoders on frozen patch tokens of a few subjects, for many random draws."""

    name = FewShot.name
    title = FewShot.title
    few_shot = True
    shots: int = shots_setting()
    draws: int = draws_setting()

    @property
    def record_name(self) -> str:
        """The method's name with the number of shots, which is essential for reading its results."""
        decoder = "-unet" if self.decoder == "unet" else ""
        return f"{self.name}-{self.shots}{decoder}"

    def run(self, trial: Trial) -> Answer:
        """Train on every draw, and report the mean and spread over draws."""
        from .masks.few_shot import probe_few_shot_masks  # needs torch

        plan = SubjectDraws(self.shots, self.draws, trial.run.seed, trial.run.resamples)
        return probe_few_shot_masks(self, plan, trial)


@register
@dataclass(frozen=True)
class StudyFewShotMasks(FewShotMasks):
    """Decoders on the few images that the radiology study uses, trained and scored as it does; one draw."""

    protocols = (STUDY,)
    normalises_alike = True
    augment: str | None = augment_setting((*AUGMENTATIONS, "none"), "study")
    draws: int = field(init=False, default=1, metadata={"help": "the study's images are the same every time"})

    def run(self, trial: Trial) -> Answer:
        """Train on the study's images, and score."""
        from .masks.few_shot import probe_study_few_shot  # needs torch

        return probe_study_few_shot(self, self.shots, trial)
