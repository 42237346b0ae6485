"""Initial weights of a run: fresh, from a model folder, Hub id or weight file, or from an earlier run."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from biovfm_hf import BioVFMConfig, BioVFMModel
from biovfm_hf.conversion.read import ConvertedEncoder, read_encoder
from biovfm_hf.errors import UserError
from biovfm_hf.positions import resize_position_embeddings
from biovfm_hf.reading.documents import read_yaml
from biovfm_hf.size_names import named_size

from ..run.checkpoint import newest_model, newest_name
from ..settings.architecture import biovfm_config
from ..settings.config import TrainConfig
from ..settings.weights import is_run
from .stated import ARCHITECTURE, DECODER, ENCODER, REMEDY, ROTARY, check_alike, run_architecture

M = TypeVar("M", bound=nn.Module)
_POSITIONS, _MASK = "position_embeddings", "mask_token"


def with_architecture(config: TrainConfig, out: Path | None = None) -> TrainConfig:
    """The configuration with the architecture of `model.init_from`.

    Fields that are given explicitly take precedence, except the decoder's if the weights have one.

    A run that has begun in `out` keeps its architecture, because it no longer needs its initial weights.

    Raises:
        UserError: the weights cannot be read.
    """
    source = config.model.init_from
    if not source:
        return config
    run = out if out is not None and newest_name(out / "checkpoints") else Path(source)
    if is_run(str(run)):
        section = read_yaml(run / "config.yaml").get("model") or {}
        size, family = str(section.get("size") or config.model.size), section.get("family")
        fields = {name: value for name, value in section.items() if name in ARCHITECTURE}
    else:
        given = config.model.fields
        encoder = _read_encoder(source, given.get("num_attention_heads"), given.get("decoder_num_attention_heads"))
        size, family = named_size(encoder.config.to_dict()) or config.model.size, config.model.family
        names = ARCHITECTURE if encoder.has_decoder else (*ENCODER, *ROTARY)
        rotary = encoder.config.position_embedding_type == "rope"
        fields = {name: getattr(encoder.config, name) for name in names if rotary or name not in ROTARY}
    decoder = {name: value for name, value in fields.items() if name in DECODER}
    fields = {**fields, **config.model.fields, **decoder}
    return replace(config, model=replace(config.model, size=size, family=family, fields=fields))


def build_encoder(config: TrainConfig, model_config: BioVFMConfig) -> BioVFMModel:
    """A `BioVFMModel`, from `config.model.init_from` if that is a model.

    Raises:
        UserError: the weights cannot be read or belong to another architecture.
    """
    model = BioVFMModel(model_config)
    if encoder := read_initial(config, model_config):
        take_over(model, encoder_tensors(encoder), str(config.model.init_from))
    return model


def encoder_tensors(read: ConvertedEncoder) -> dict[str, Tensor]:
    """The tensors of a `BioVFMModel` by its names, without those of a decoder."""
    named = {name.removeprefix("biovfm."): tensor for name, tensor in read.tensors.items()}
    return {name: tensor for name, tensor in named.items() if not name.startswith("decoder.")}


def read_initial(config: TrainConfig, model_config: BioVFMConfig) -> ConvertedEncoder | None:
    """The complete initial weights of an encoder of any family; None if weights are fresh or come from a run.

    Raises:
        UserError: the weights are incomplete, cannot be read, or belong to a model that computes other features.
    """
    source = config.model.init_from
    if not source or is_run(source):
        return None
    encoder = _read_encoder(source, model_config.num_attention_heads, model_config.decoder_num_attention_heads)
    check_alike(encoder.config, model_config, source)
    return encoder


def _read_encoder(source: str, heads: int | None, decoder_heads: int | None) -> ConvertedEncoder:
    try:
        return read_encoder(source, heads, decoder_heads)
    except UserError as error:
        raise UserError(f"model.init_from {error}") from error


def with_run(objective: M, config: TrainConfig) -> M:
    """`objective`, filled from `init_from` if that is a run folder: with heads, teacher and centres.

    Raises:
        UserError: it has no readable checkpoint, or one of another objective or architecture.
    """
    if tensors := run_tensors(config):
        take_over(objective, tensors, str(config.model.init_from))
    return objective


def run_tensors(config: TrainConfig) -> dict[str, Tensor] | None:
    """All tensors of the run that `init_from` names; None if it does not name a run.

    Raises:
        UserError: it has no readable checkpoint, or its encoder computes other features than this run's.
    """
    source = config.model.init_from
    if not source or not is_run(source):
        return None
    check_alike(run_architecture(source), biovfm_config(config), source)
    return newest_model(Path(source) / "checkpoints")


@torch.no_grad()
def take_over(model: nn.Module, tensors: dict[str, Tensor], name: str, key: str = "model.init_from") -> None:
    """Copy `tensors` into `model`, resizing learned position embeddings.

    A mask token may be missing, and one that `model` has no use for is left out.

    `name` is the origin of the tensors, `key` the setting that names it.

    Raises:
        UserError: a tensor is missing, superfluous or of another shape.
    """
    remaining = dict(tensors)
    for tensor_name, parameter in model.state_dict().items():
        if tensor_name not in remaining:
            if tensor_name.endswith(_MASK):
                continue  # released encoders have no mask token, or one of zeros; it is learned quickly
            raise UserError(f"{key} {name} has no tensor {tensor_name}; {REMEDY}")
        tensor = remaining.pop(tensor_name)
        if (
            tensor_name.endswith(_POSITIONS)
            and tensor.shape[1] != parameter.shape[1]
            and tensor.shape[2] == parameter.shape[2]
        ):
            side = round((parameter.shape[1] - 1) ** 0.5)
            tensor = resize_position_embeddings(tensor, (side, side), antialias=True)
        if tensor.shape != parameter.shape:
            sizes = f"{tuple(tensor.shape)}, this model needs {tuple(parameter.shape)}"
            raise UserError(f"{key} {name}: {tensor_name} is {sizes}; {REMEDY}")
        parameter.copy_(tensor)
    if unused := sorted(name for name in remaining if not name.endswith(_MASK)):
        raise UserError(f"{key} {name} also has {unused[:3]}; {REMEDY}")
