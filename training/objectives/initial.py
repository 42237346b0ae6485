"""Initial weights of a run: fresh, from a model folder, Hub id or weight file, or from an earlier run."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from biovfm_hf import BioVFMConfig, BioVFMModel
from biovfm_hf.conversion.read import Encoder, read_encoder
from biovfm_hf.errors import UserError
from biovfm_hf.positions import resize_position_embeddings
from biovfm_hf.reading.documents import read_yaml
from biovfm_hf.size_names import named_size

from ..run.checkpoint import newest_model, newest_name
from ..settings.config import TrainConfig, is_run

M = TypeVar("M", bound=nn.Module)
_POSITIONS = "position_embeddings"
_ENCODER = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "patch_size",
    "num_channels",
    "mlp_ratio",
    "ffn_type",
    "hidden_act",
    "qkv_bias",
    "layerscale_value",
    "num_register_tokens",
    "interpolate_offset",
    "interpolate_antialias",
    "mask_key_bias",
    "layer_norm_eps",
    "untie_cls_and_patch_norms",
    "untie_global_and_local_cls_norm",
)
# rotary positions belong to the weights, as widths do; position tables are resized or made anew
_ROTARY = (
    "position_embedding_type",
    "rope_base",
    "rope_min_period",
    "rope_max_period",
    "rope_normalize_coords",
    "rope_dtype",
    "rope_shift_coords",
    "rope_jitter_coords",
    "rope_rescale_coords",
)
_DECODER = ("decoder_hidden_size", "decoder_num_hidden_layers", "decoder_num_attention_heads")
_ARCHITECTURE = (*_ENCODER, *_ROTARY, *_DECODER)
_REMEDY = "give the model section (and the objective's, for heads that come along) the settings it was made with"


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
        fields = {name: value for name, value in section.items() if name in _ARCHITECTURE}
    else:
        given = config.model.fields
        encoder = _read_encoder(source, given.get("num_attention_heads"), given.get("decoder_num_attention_heads"))
        size, family = named_size(encoder.config.to_dict()) or config.model.size, config.model.family
        names = _ARCHITECTURE if encoder.has_decoder else (*_ENCODER, *_ROTARY)
        rotary = encoder.config.position_embedding_type == "rope"
        fields = {name: getattr(encoder.config, name) for name in names if rotary or name not in _ROTARY}
    decoder = {name: value for name, value in fields.items() if name in _DECODER}
    fields = {**fields, **config.model.fields, **decoder}
    return replace(config, model=replace(config.model, size=size, family=family, fields=fields))


def build_encoder(config: TrainConfig, model_config: BioVFMConfig) -> BioVFMModel:
    """A `BioVFMModel`, from `config.model.init_from` if that is a model.

    Raises:
        UserError: the weights cannot be read or belong to another architecture.
    """
    model = BioVFMModel(model_config)
    if encoder := read_initial(config, model_config):
        tensors = {name.removeprefix("biovfm."): tensor for name, tensor in encoder.tensors.items()}
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("decoder.")}
        take_over(model, tensors, str(config.model.init_from))
    return model


def read_initial(config: TrainConfig, model_config: BioVFMConfig) -> Encoder | None:
    """The complete initial weights of an encoder of any family; None if weights are fresh or come from a run.

    Raises:
        UserError: the weights are incomplete, cannot be read, or have another number of attention heads.
    """
    source = config.model.init_from
    if not source or is_run(source):
        return None
    encoder = _read_encoder(source, model_config.num_attention_heads, model_config.decoder_num_attention_heads)
    heads, needed = encoder.config.num_attention_heads, model_config.num_attention_heads
    if heads != needed:
        raise UserError(f"model.init_from {source} has {heads} attention heads, this model {needed}; {_REMEDY}")
    return encoder


def _read_encoder(source: str, heads: int | None, decoder_heads: int | None) -> Encoder:
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
        UserError: it has no readable checkpoint.
    """
    source = config.model.init_from
    return newest_model(Path(source) / "checkpoints") if source and is_run(source) else None


def read_frozen(model: BioVFMModel, source: str, key: str, role: str) -> None:
    """Fill `model` from the weights that the setting `key` names: any that `read_encoder` reads, or `role` of a run.

    Raises:
        UserError: the weights cannot be read or belong to another architecture.
    """
    if is_run(source):
        tensors = newest_model(Path(source) / "checkpoints")
        tensors = {name.removeprefix(role): tensor for name, tensor in tensors.items() if name.startswith(role)}
    else:
        try:
            read = read_encoder(source, model.config.num_attention_heads).tensors
        except UserError as error:
            raise UserError(f"{key} {error}") from error
        tensors = {name.removeprefix("biovfm."): tensor for name, tensor in read.items()}
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("decoder.")}
    take_over(model, tensors, source, key)


@torch.no_grad()
def take_over(model: nn.Module, tensors: dict[str, Tensor], name: str, key: str = "model.init_from") -> None:
    """Copy `tensors` into `model`, resizing learned position embeddings; the mask token may be missing.

    `name` is the origin of the tensors, `key` the setting that names it.

    Raises:
        UserError: a tensor is missing, superfluous or of another shape.
    """
    remaining = dict(tensors)
    for tensor_name, parameter in model.state_dict().items():
        if tensor_name not in remaining:
            if tensor_name.endswith("mask_token"):
                continue  # released encoders have no mask token, or one of zeros; it is learned quickly
            raise UserError(f"{key} {name} has no tensor {tensor_name}; {_REMEDY}")
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
            raise UserError(f"{key} {name}: {tensor_name} is {sizes}; {_REMEDY}")
        parameter.copy_(tensor)
    if remaining:
        raise UserError(f"{key} {name} also has {sorted(remaining)[:3]}; {_REMEDY}")
