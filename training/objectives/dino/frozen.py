"""Loads frozen networks: a teacher with encoder and heads, and the encoder of a Gram teacher."""

import re
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biovfm_hf import BioVFMConfig, BioVFMModel
from biovfm_hf.conversion.read import ConvertedEncoder, read_encoder
from biovfm_hf.conversion.weights import read_tensors
from biovfm_hf.errors import UserError

from ...run.checkpoint import newest_model
from ...settings.weights import is_run
from ..initial import encoder_tensors, take_over
from ..stated import check_alike, run_architecture
from .config import DINOConfig, DINOTrainConfig
from .objective import DINONetwork

_KEY, _ANCHOR = "teacher.frozen", "gram.teacher"
_HEADS = ("dino_head", "ibot_head")


def read_network(config: DINOTrainConfig, model_config: BioVFMConfig) -> DINONetwork:
    """Read the network that `teacher.frozen` names, heads included.

    Raises:
        UserError: it cannot be read, has no heads, or differs from this run in its prototypes or patch size.
    """
    source = str(config.teacher.frozen)
    encoder_config = frozen_config(source)
    tensors = _run_tensors(source) if is_run(source) else _file_tensors(source)
    heads = _heads(source, tensors)
    values = {"dino.prototypes": config.dino.prototypes, "model.patch_size": model_config.patch_size}
    needed = {"dino.prototypes": heads.prototypes, "model.patch_size": encoder_config.patch_size}
    values["dino.ibot_separate_head"], needed["dino.ibot_separate_head"] = (
        dino.ibot_separate_head for dino in (config.dino, heads)
    )
    if heads.ibot_separate_head:
        values["dino.ibot_prototypes"], needed["dino.ibot_prototypes"] = (
            dino.ibot_prototypes for dino in (config.dino, heads)
        )
    for key, value in needed.items():
        if values[key] != value:
            raise UserError(
                f"{_KEY} {source} has {key} {value}, this run {values[key]}; give {key}={str(value).lower()}"
            )
    network = DINONetwork(BioVFMModel(encoder_config), heads)
    take_over(network, tensors, source, _KEY)
    return network


@cache
def frozen_config(source: str) -> BioVFMConfig:
    """The architecture of the encoder in a run folder or a weight file.

    Raises:
        UserError: it cannot be read.
    """
    return BioVFMConfig(**asdict(run_architecture(source))) if is_run(source) else _read(source).config


def read_anchor(source: str, model: BioVFMModel) -> None:
    """Fill `model`, a copy of the run's own encoder, from the weights that `gram.teacher` names.

    Copies of the run's own teacher replace them later, and a continued run has them in its checkpoint. So it must be
    the same encoder.

    Raises:
        UserError: the weights cannot be read, or belong to another architecture.
    """
    if is_run(source):
        theirs, tensors = run_architecture(source), _run_tensors(source)
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}
    else:
        read = _read(source, _ANCHOR, model.config.num_attention_heads)
        theirs, tensors = read.config, encoder_tensors(read)
    check_alike(theirs, model.config, source, _ANCHOR, resizing=True)
    take_over(model, {name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}, source, _ANCHOR)


def _read(source: str, key: str = _KEY, heads: int | None = None) -> ConvertedEncoder:
    try:
        with torch.device("cpu"):  # an outline of the objective has no device
            return read_encoder(source, heads)
    except UserError as error:
        raise UserError(f"{key} {error}") from error


def _run_tensors(source: str) -> dict[str, Tensor]:
    """The tensors of a run's average. A run distilled from a frozen teacher has it under another name."""
    tensors = newest_model(Path(source) / "checkpoints")
    role = "followed." if any(name.startswith("followed.") for name in tensors) else "teacher."
    return {name.removeprefix(role): tensor for name, tensor in tensors.items() if name.startswith(role)}


def _file_tensors(source: str) -> dict[str, Tensor]:
    encoder = {f"backbone.{name}": tensor for name, tensor in _read(source).tensors.items()}
    heads = {name: tensor for name, tensor in read_tensors(Path(source)).items() if name.startswith(_HEADS)}
    return encoder | heads


def _heads(source: str, tensors: dict[str, Tensor]) -> DINOConfig:
    """The sizes of the heads, from the shapes of their tensors."""
    if not any(name.startswith(_HEADS[0]) for name in tensors):
        raise UserError(
            f"{_KEY} {source} has no heads, so its scores cannot be learned; distil its features: "
            f"method distill, distill.teacher={source}"
        )
    fields: dict[str, Any] = {"weight_norm": f"{_HEADS[0]}.last_layer.weight_g" in tensors}
    for head, prefix in zip(_HEADS, ("", "ibot_"), strict=True):
        linears = [tensors[name] for name in sorted(tensors) if re.fullmatch(rf"{head}\.mlp\.(\d+\.)?weight", name)]
        if not linears:
            continue
        last = tensors.get(f"{head}.last_layer.weight_v", tensors.get(f"{head}.last_layer.weight"))
        assert last is not None
        sizes = {
            "hidden": len(linears[0]),
            "layers": len(linears),
            "bottleneck": last.shape[1],
            "prototypes": len(last),
        }
        fields |= {f"{prefix}{name}": value for name, value in sizes.items()}
        fields["ibot_separate_head"] = head == _HEADS[1]
    return DINOConfig(**fields)
