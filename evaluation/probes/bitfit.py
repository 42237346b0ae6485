"""BitFit (Ben Zaken et al. 2022): training biases alone."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from biovfm_hf.errors import UserError

from .finetune import FineTune
from .probe import register

if TYPE_CHECKING:
    from torch import nn


@register
@dataclass(frozen=True)
class BitFit(FineTune):
    """Training the encoder's biases, and a linear head."""

    name = "bitfit"
    title = "training the encoder's biases"
    default_rate = 5e-4

    def prepare(self, module: "nn.Module") -> "nn.Module":
        """Freeze everything but biases.

        Raises:
            UserError: the module has none.
        """
        module.requires_grad_(False)
        biases = [parameter for name, parameter in module.named_parameters() if name.endswith("bias")]
        if not biases:
            raise UserError(f"{type(module).__name__} has no biases to train; use lora or finetune")
        for parameter in biases:
            parameter.requires_grad_(True)
        return module
