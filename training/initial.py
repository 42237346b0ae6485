"""The model that training starts from: fresh, or the weights of a model folder or Hub repository."""

from typing import Any

import torch
from torch import nn

from biovfm_hf import BioVFMConfig, BioVFMForMaskedAutoencoding, BioVFMModel
from biovfm_hf.errors import UserError
from biovfm_hf.modeling_biovfm import resize_position_embeddings

from .config import TrainConfig

_POSITIONS = "position_embeddings"


def build_encoder(config: TrainConfig, model_config: BioVFMConfig) -> BioVFMModel:
    """A `BioVFMModel`, from `config.model.init_from` where that is given.

    Raises:
        UserError: the weights cannot be read or belong to another architecture.
    """
    model = BioVFMModel(model_config)
    if config.model.init_from:
        _take_over(model, _load(BioVFMModel, config.model.init_from), config.model.init_from)
    return model


def build_autoencoder(config: TrainConfig, model_config: BioVFMConfig) -> BioVFMForMaskedAutoencoding:
    """A `BioVFMForMaskedAutoencoding`; `init_from` may hold one, or an encoder alone (the decoder is then fresh).

    Raises:
        UserError: the weights cannot be read or belong to another architecture.
    """
    model = BioVFMForMaskedAutoencoding(model_config)
    source = config.model.init_from
    if source:
        architectures = _load(BioVFMConfig, source).architectures or []
        if "BioVFMForMaskedAutoencoding" in architectures:
            _take_over(model, _load(BioVFMForMaskedAutoencoding, source), source)
        else:
            _take_over(model.biovfm, _load(BioVFMModel, source), source)
    return model


def _load(pretrained_class: Any, source: str) -> Any:
    try:
        return pretrained_class.from_pretrained(source)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"model.init_from {source}: {reason}; convert other weights with: biovfm convert") from error


@torch.no_grad()
def _take_over(model: nn.Module, source: nn.Module, name: str) -> None:
    """Copy every tensor, resizing learned position embeddings; what only training needs may be missing."""
    theirs = source.state_dict()
    for key, ours in model.state_dict().items():
        if key not in theirs:
            if key.endswith("mask_token"):
                continue  # a released encoder has none, or zeros; it is learned quickly
            raise UserError(f"model.init_from {name} has no tensor {key}; give the model section its architecture")
        tensor = theirs.pop(key)
        if key.endswith(_POSITIONS) and tensor.shape[1] != ours.shape[1] and tensor.shape[2] == ours.shape[2]:
            side = round((ours.shape[1] - 1) ** 0.5)
            tensor = resize_position_embeddings(tensor, (side, side), antialias=True)
        if tensor.shape != ours.shape:
            raise UserError(
                f"model.init_from {name}: {key} is {tuple(tensor.shape)}, this model needs {tuple(ours.shape)}; "
                "give the model section the same size and patch_size"
            )
        ours.copy_(tensor)
    if theirs:
        raise UserError(
            f"model.init_from {name} also has {sorted(theirs)[:3]}; give the model section its architecture"
        )
