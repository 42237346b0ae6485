"""Segmentation with a frozen encoder, or by a network trained from scratch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from biovfm_hf.options import option

from ..encoders.embed import embed_tokens
from ..encoders.load import SCRATCH
from ..statistics.kinds import SEGMENTATION
from ..statistics.surface import CONVENTIONS
from .decoders import UNET_BLOCKS, DecoderPlan, probe_linear_decoder, probe_unet_decoder
from .judging import judge_segmentation
from .masks import Segmentation
from .probe import Answer, Probe, Trial, epochs_setting, rate_setting, register
from .scratch import probe_scratch
from .surfaces import CONVENTION, TOLERANCE, SurfaceRule

if TYPE_CHECKING:
    from ..encoders.embed import TokenStore

TOKEN_BATCH = 16  # images whose tokens are made at once, at most
RATE = 1e-3


@register
@dataclass(frozen=True)
class Segment(Probe):
    """A decoder on frozen patch tokens, scored per case (image, or volume) and averaged over cases."""

    name = "segment"
    title = "a decoder on frozen patch tokens"
    kinds = (SEGMENTATION,)
    normalises_alike = True
    stratifies = False  # its cases have no class
    decoder: str = option("linear", "segmentation: the decoder", choices=("linear", "unet"))
    image_size: int | None = option(
        None, "segmentation, detection: input (default: the model's)", least=1, metavar="PX"
    )
    surface: str | None = option(
        None, "segmentation: whose surface distances (default: deepmind)", choices=tuple(CONVENTIONS)
    )
    tolerance: float | None = option(
        None, "segmentation: of surface Dice, mm, or pixels without spacing (default: 2)", above=0
    )
    epochs: int | None = epochs_setting()
    rate: float | None = rate_setting()

    @property
    def record_name(self) -> str:
        """With the decoder where it is not the linear one."""
        return "segment-unet" if self.decoder == "unet" else self.name

    def run(self, trial: Trial) -> Answer:
        """Train the decoder, or the network of a `scratch:` model, and judge."""
        rule = SurfaceRule(self.surface or CONVENTION, self.tolerance or TOLERANCE)
        return judge_segmentation(trial, self._probed(trial), rule)

    def _probed(self, trial: Trial) -> Segmentation:
        plan = DecoderPlan(self.epochs, self.rate or RATE, trial.run.seed, trial.run.device)
        size, revision = self.image_size or trial.encoder.size, trial.encoder.revision
        if revision.startswith(SCRATCH):
            name = revision.removeprefix(SCRATCH).partition("@")[0]
            return probe_scratch(name, trial.task, size, plan)
        if self.decoder == "unet":
            return probe_unet_decoder(trial.task, self._tokens(trial, size, UNET_BLOCKS), plan)
        return probe_linear_decoder(trial.task, self._tokens(trial, size, 0), trial.run.seed)

    def _tokens(self, trial: Trial, size: int, blocks: int) -> dict[str, "TokenStore"]:
        """Tokens of every split, from the last block alone (0) or from as many."""
        batch = min(trial.run.batch_size, TOKEN_BATCH)
        return {
            name: embed_tokens(
                trial.encoder, split.images, trial.cache, size, blocks, batch_size=batch, label=trial.label(name)
            )
            for name, split in trial.task.splits.items()
        }
