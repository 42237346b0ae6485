"""What training starts from: fresh weights, a model folder or Hub id, a weight file, or all of an earlier run."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from biovfm_hf import BioVFMConfig, BioVFMForMaskedAutoencoding, BioVFMModel
from biovfm_hf.conversion.read import Encoder, read_encoder
from biovfm_hf.conversion.weights import read_tensors
from biovfm_hf.errors import UserError
from biovfm_hf.modeling_biovfm import resize_position_embeddings

from ..run.checkpoint import newest_model
from ..settings.config import TrainConfig

_POSITIONS = "position_embeddings"
_REMEDY = "give the model section (and dino, for heads that come along) the settings it was made with"


def build_encoder(config: TrainConfig, model_config: BioVFMConfig) -> BioVFMModel:
    """A `BioVFMModel`, from `config.model.init_from` where that is a model.

    Raises:
        UserError: the weights cannot be read or belong to another architecture.
    """
    model = BioVFMModel(model_config)
    if encoder := _read(config, model_config):
        theirs = {name.removeprefix("biovfm."): tensor for name, tensor in encoder.tensors.items()}
        theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith("decoder.")}
        _take_over(model, theirs, str(config.model.init_from))
    return model


def build_autoencoder(config: TrainConfig, model_config: BioVFMConfig) -> BioVFMForMaskedAutoencoding:
    """A `BioVFMForMaskedAutoencoding`; `init_from` may hold one, or an encoder alone (the decoder is then fresh).

    Raises:
        UserError: the weights cannot be read or belong to another architecture.
    """
    model = BioVFMForMaskedAutoencoding(model_config)
    if encoder := _read(config, model_config):
        _take_over(model if encoder.has_decoder else model.biovfm, encoder.tensors, str(config.model.init_from))
    return model


def _read(config: TrainConfig, model_config: BioVFMConfig) -> Encoder | None:
    """The weights to start from, of any family, all of them or an error; None for fresh ones or those of a run."""
    source = config.model.init_from
    if not source or _is_run(source):
        return None
    try:
        encoder = read_encoder(source, model_config.num_attention_heads)
    except UserError as error:
        raise UserError(f"model.init_from {error}") from error
    theirs, ours = encoder.config.num_attention_heads, model_config.num_attention_heads
    if theirs != ours:
        raise UserError(f"model.init_from {source} has {theirs} attention heads, this model {ours}; {_REMEDY}")
    return encoder


def with_run(objective: nn.Module, config: TrainConfig) -> nn.Module:
    """`objective` itself, where `init_from` is a run folder with all of that run: heads, teacher and centres too.

    From a file of DINOv2's, which is a teacher's, its heads go to student and teacher.

    Raises:
        UserError: it has no readable checkpoint, or one of another objective or architecture.
    """
    source = config.model.init_from
    if source and _is_run(source):
        _take_over(objective, newest_model(Path(source) / "checkpoints"), source)
    elif source and Path(source).is_file() and hasattr(objective, "student"):
        _take_heads(objective, source)
    return objective


def _take_heads(objective: Any, source: str) -> None:
    tensors = read_tensors(Path(source))
    heads = {name: tensor for name, tensor in tensors.items() if name.startswith(("dino_head.", "ibot_head."))}
    for network in (objective.student, objective.teacher) if heads else ():
        ours = {name: module for name, module in network.named_children() if name != "backbone"}
        _take_over(nn.ModuleDict(ours), heads, source)


def _is_run(source: str) -> bool:
    return (Path(source) / "checkpoints").is_dir()


@torch.no_grad()
def _take_over(model: nn.Module, theirs: dict[str, Tensor], name: str) -> None:
    """Copy every tensor, resizing learned position embeddings; what only training needs may be missing."""
    theirs = dict(theirs)
    for key, ours in model.state_dict().items():
        if key not in theirs:
            if key.endswith("mask_token"):
                continue  # a released encoder has none, or zeros; it is learned quickly
            raise UserError(f"model.init_from {name} has no tensor {key}; {_REMEDY}")
        tensor = theirs.pop(key)
        if key.endswith(_POSITIONS) and tensor.shape[1] != ours.shape[1] and tensor.shape[2] == ours.shape[2]:
            side = round((ours.shape[1] - 1) ** 0.5)
            tensor = resize_position_embeddings(tensor, (side, side), antialias=True)
        if tensor.shape != ours.shape:
            sizes = f"{tuple(tensor.shape)}, this model needs {tuple(ours.shape)}"
            raise UserError(f"model.init_from {name}: {key} is {sizes}; {_REMEDY}")
        ours.copy_(tensor)
    if theirs:
        raise UserError(f"model.init_from {name} also has {sorted(theirs)[:3]}; {_REMEDY}")
