"""LoRA (Hu et al. 2022): low-rank updates of the attention's linear layers."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from biovfm_hf.errors import UserError, require

from ..encoders.tokens import find_layers
from .finetune import FineTune
from .probe import register

if TYPE_CHECKING:
    from torch import nn

RANK = 16
DROPOUT = 0.1


@register
@dataclass(frozen=True)
class LoRA(FineTune):
    """Training low-rank updates of the attention's linear layers, and a linear head."""

    name = "lora"
    title = "training low-rank updates of the attention"
    default_rate = 5e-4

    def prepare(self, module: "nn.Module") -> "nn.Module":
        """Freeze the module and add the updates.

        Raises:
            UserError: PEFT is missing, or the module has no transformer blocks.
        """
        peft = require("peft", "peft")
        config = peft.LoraConfig(
            r=RANK, lora_alpha=RANK, lora_dropout=DROPOUT, target_modules=attention_layers(module)
        )
        peft.inject_adapter_in_model(config, module.requires_grad_(False))
        return module


def attention_layers(module: "nn.Module") -> list[str]:
    """Names of the linear layers inside the attention of every transformer block.

    Raises:
        UserError: there are none.
    """
    from torch import nn

    inside = {id(part) for layer in find_layers(module) or [] for part in layer.modules()}
    names = [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and id(part) in inside and "att" in name.lower()
    ]
    if not names:
        raise UserError(f"{type(module).__name__} has no attention layers for LoRA; use bitfit or finetune")
    return names
