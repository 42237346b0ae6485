"""The weights of an encoder that a probe trains: all, its biases, or low-rank updates of its linear layers."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from biovfm_hf.options import option

from .low_rank import PRESETS, TARGETS, LowRank

if TYPE_CHECKING:
    from torch import nn


class Adaptation:
    """A choice of an encoder's weights to train: those that `prepare` leaves with gradients.

    `default_rate` is the highest learning rate if none is given.
    """

    default_rate: ClassVar[float]

    def prepare(self, module: "nn.Module") -> "nn.Module":
        """Choose the weights to train; the module may be changed.

        Raises:
            UserError: the module has no such weights, or a package is missing.
        """
        raise NotImplementedError

    def details(self) -> dict[str, Any]:
        """Facts about the choice, for a record."""
        return {}


class AllWeights(Adaptation):
    """Every weight of the encoder."""

    default_rate = 3e-5

    def prepare(self, module: "nn.Module") -> "nn.Module":
        """Train all weights."""
        return module.requires_grad_(True)


class Biases(Adaptation):
    """Only the encoder's biases (BitFit, Ben Zaken et al. 2022)."""

    default_rate = 5e-4

    def prepare(self, module: "nn.Module") -> "nn.Module":
        """Freeze everything but biases."""
        from .weights import train_biases  # needs torch

        return train_biases(module)


@dataclass(frozen=True)
class LowRankUpdates(Adaptation):
    """Low-rank updates of linear layers (LoRA)."""

    default_rate = 5e-4
    lora_preset: str = option(
        "own",
        "lora: own is rank 16 on every linear layer of the attention; radiology is the radiology study's, rank 32 on "
        "queries, keys and values with their biases (8 million weights on ViT-g)",
        choices=tuple(PRESETS),
    )
    lora_rank: int | None = option(None, "lora: rank, instead of the preset's", least=1, metavar="R")
    lora_alpha: float | None = option(
        None, "lora: alpha, instead of the preset's; updates are scaled by alpha / rank", above=0
    )
    lora_targets: str | None = option(None, "lora: linear layers of the blocks to update", choices=TARGETS)

    @property
    def low_rank(self) -> LowRank:
        """The preset, changed by the given settings; if only the rank is given, alpha keeps its ratio to it."""
        preset = PRESETS[self.lora_preset]
        rank = self.lora_rank or preset.rank
        alpha = self.lora_alpha or preset.alpha * rank / preset.rank
        return preset._replace(rank=rank, alpha=alpha, targets=self.lora_targets or preset.targets)

    def prepare(self, module: "nn.Module") -> "nn.Module":
        """Freeze the module and add the updates."""
        from .weights import add_low_rank  # needs torch

        return add_low_rank(module, self.low_rank)

    def details(self) -> dict[str, Any]:
        """Rank, alpha and layers."""
        low_rank = self.low_rank
        return {"lora_rank": low_rank.rank, "lora_alpha": low_rank.alpha, "lora_targets": low_rank.targets}
