"""Loads models of timm and of open_clip, whose preprocessing is a transform of one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biovfm_hf.cards.provenance import WEIGHT_LICENCES
from biovfm_hf.errors import UserError, require
from biovfm_hf.imagenet import IMAGENET_MEAN, IMAGENET_STD

from .encoder import Encoder
from .failures import why_not_loaded
from .revisions import folder_revision, weights_digest
from .timm_keywords import split_keywords

if TYPE_CHECKING:
    from torch import Tensor, nn


def load_timm(source: str) -> Encoder:
    """A model of timm without its classifier, by `timm:NAME` or `timm:FOLDER`, with keywords after `?`.

    Raises:
        UserError: there is no such model, or it cannot be loaded.
    """
    given = source.removeprefix("timm:")
    timm = require("timm", "encoders")
    name, keywords = split_keywords(given)
    path = Path(name).expanduser()
    where = f"local-dir:{path}" if path.is_dir() else name
    try:
        module = timm.create_model(where, pretrained=True, num_classes=0, **keywords)
    except Exception as error:  # timm passes on whatever the hub, the file system or its registry raise
        raise UserError(f"model timm:{given} cannot be loaded: {why_not_loaded(error, path.is_dir())}") from error
    side = keywords.get("img_size")
    config = timm.data.resolve_model_data_config(module, {"img_size": side} if isinstance(side, int) else None)
    transform = timm.data.create_transform(**config, is_training=False)
    revision = folder_revision(path) if path.is_dir() else weights_digest(module)
    revision += f"?{given.partition('?')[2]}" if keywords else ""  # the same weights in another network
    return _from_transform(
        module, transform, source, revision, config["input_size"][-1], config["mean"], config["std"]
    )


def timm_licences(source: str) -> tuple[str, ...]:
    """The licence of the weights that timm itself knows by `timm:NAME`, if it binds what is made from them."""
    name = source.removeprefix("timm:").partition("?")[0]
    try:
        known = require("timm", "encoders").get_pretrained_cfg(name)
    except RuntimeError:  # no such weights
        return ()
    licence = getattr(known, "license", None)
    return (licence,) if licence in WEIGHT_LICENCES else ()


def load_open_clip(source: str) -> Encoder:
    """The vision tower of a model of open_clip, by `open_clip:hf-hub:REPO` or `hf-hub:REPO`.

    Raises:
        UserError: there is no such model, or it cannot be loaded.
    """
    name = source.removeprefix("open_clip:")
    open_clip = require("open_clip", "encoders")
    try:
        model, transform = open_clip.create_model_from_pretrained(name)
    except Exception as error:  # open_clip passes on whatever the hub or the file system raise
        raise UserError(f"model open_clip:{name} cannot be loaded: {why_not_loaded(error, False)}") from error
    visual = model.visual
    trunk = getattr(visual, "trunk", None)  # a timm tower, as in BiomedCLIP
    size = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    mean, std = visual.image_mean or IMAGENET_MEAN, visual.image_std or IMAGENET_STD
    module = trunk or visual
    return _from_transform(module, transform, f"open_clip:{name}", weights_digest(module), size, mean, std)


def _from_transform(
    module: "nn.Module",
    transform: Any,
    name: str,
    revision: str,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Encoder:
    """An encoder whose preprocessing is a torchvision transform of one PIL image."""
    import torch
    from PIL import Image

    def preprocess(images: Sequence[np.ndarray]) -> "Tensor":
        return torch.stack([transform(Image.fromarray(image)) for image in images])

    description = " ".join(str(transform).split())
    return Encoder(name, revision, module, preprocess, description, size, tuple(mean), tuple(std))
