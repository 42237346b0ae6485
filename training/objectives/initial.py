"""What training starts from: fresh weights, a model folder or Hub id, a weight file, or all of an earlier run."""

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from biovfm_hf import BioVFMConfig, BioVFMModel
from biovfm_hf.conversion.read import Encoder, read_encoder
from biovfm_hf.errors import UserError
from biovfm_hf.positions import resize_position_embeddings

from ..run.checkpoint import newest_model
from ..settings.config import TrainConfig

M = TypeVar("M", bound=nn.Module)
_POSITIONS = "position_embeddings"
_REMEDY = "give the model section (and the objective's, for heads that come along) the settings it was made with"


def build_encoder(config: TrainConfig, model_config: BioVFMConfig) -> BioVFMModel:
    """A `BioVFMModel`, from `config.model.init_from` where that is a model.

    Raises:
        UserError: the weights cannot be read or belong to another architecture.
    """
    model = BioVFMModel(model_config)
    if encoder := read_initial(config, model_config):
        theirs = {name.removeprefix("biovfm."): tensor for name, tensor in encoder.tensors.items()}
        theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith("decoder.")}
        take_over(model, theirs, str(config.model.init_from))
    return model


def read_initial(config: TrainConfig, model_config: BioVFMConfig) -> Encoder | None:
    """The weights to start from, of any family, all of them or an error; None for fresh ones or those of a run."""
    source = config.model.init_from
    if not source or _is_run(source):
        return None
    try:
        heads = model_config.num_attention_heads, model_config.decoder_num_attention_heads
        encoder = read_encoder(source, *heads)
    except UserError as error:
        raise UserError(f"model.init_from {error}") from error
    theirs, ours = encoder.config.num_attention_heads, model_config.num_attention_heads
    if theirs != ours:
        raise UserError(f"model.init_from {source} has {theirs} attention heads, this model {ours}; {_REMEDY}")
    return encoder


def with_run(objective: M, config: TrainConfig) -> M:
    """`objective` itself, where `init_from` is a run folder with all of that run: heads, teacher and centres too.

    Raises:
        UserError: it has no readable checkpoint, or one of another objective or architecture.
    """
    source = config.model.init_from
    if source and _is_run(source):
        take_over(objective, newest_model(Path(source) / "checkpoints"), source)
    return objective


def _is_run(source: str) -> bool:
    return (Path(source) / "checkpoints").is_dir()


@torch.no_grad()
def take_over(model: nn.Module, theirs: dict[str, Tensor], name: str) -> None:
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
