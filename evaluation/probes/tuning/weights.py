"""Choosing an encoder's weights to train: its biases, or low-rank updates of its linear layers."""

from collections.abc import Iterator
from itertools import groupby

from torch import nn

from biovfm_hf.errors import UserError, require

from ...encoders.tokens import find_layers
from .low_rank import LowRank

# Names, by model family, of the layers that compute queries, keys and values: one layer for all, or one for each.
JOINT = ("qkv", "in_proj", "Wqkv")
APART = ("query", "key", "value", "q_proj", "k_proj", "v_proj", "q", "k", "v")


def train_biases(module: nn.Module) -> nn.Module:
    """Freeze everything except biases.

    Raises:
        UserError: the module has no biases.
    """
    module.requires_grad_(False)
    biases = [parameter for name, parameter in module.named_parameters() if name.endswith("bias")]
    if not biases:
        raise UserError(f"{type(module).__name__} has no biases to train; use lora or finetune")
    for parameter in biases:
        parameter.requires_grad_(True)
    return module


def add_low_rank(module: nn.Module, low_rank: LowRank) -> nn.Module:
    """Freeze a module and add low-rank updates to its target layers, with PEFT.

    If queries, keys and values come from separate layers, their three updates share the first factor, like the update
    of a joint layer. The method then has the same number of weights in both forms.

    Raises:
        UserError: PEFT is missing, or the module has no such layers.
    """
    peft = require("peft", "peft")
    names = find_targets(module, low_rank.targets)
    config = peft.LoraConfig(
        r=low_rank.rank,
        lora_alpha=low_rank.alpha,
        lora_dropout=low_rank.dropout,
        target_modules=names,
        bias="lora_only" if low_rank.biases else "none",
    )
    peft.inject_adapter_in_model(config, module.requires_grad_(False))
    if low_rank.targets == "qkv":
        for first, *others in _siblings(module, names):
            for other in others:
                other.lora_A = first.lora_A
    return module


def find_targets(module: nn.Module, targets: str) -> list[str]:
    """Names of linear layers in the transformer blocks of a module.

    Args:
        module: a module with transformer blocks.
        targets: `attention` (every linear layer of the attention), `qkv` (those for queries, keys and values), `mlp`
            (every other linear layer of a block) or `all`.

    Raises:
        UserError: there are no such layers.
    """
    inside = {id(part) for layer in find_layers(module) or [] for part in layer.modules()}
    linear = [name for name, part in module.named_modules() if isinstance(part, nn.Linear) and id(part) in inside]
    names = [name for name in linear if _is_target(name, targets)]
    if not names:
        raise UserError(
            f"{type(module).__name__} has no {'' if targets == 'all' else f'{targets} '}layers for LoRA; give other "
            "--lora-targets, or use bitfit or finetune"
        )
    return names


def _is_target(name: str, targets: str) -> bool:
    in_attention = "att" in name.lower()
    if targets == "qkv":
        return in_attention and name.rpartition(".")[2] in (*JOINT, *APART)
    return targets == "all" or in_attention == (targets == "attention")


def _siblings(module: nn.Module, names: list[str]) -> Iterator[list[nn.Module]]:
    """The separate layers of each attention for queries, keys and values."""
    apart = [name for name in names if name.rpartition(".")[2] in APART]
    for _, group in groupby(apart, key=lambda name: name.rpartition(".")[0]):
        yield [module.get_submodule(name) for name in group]
