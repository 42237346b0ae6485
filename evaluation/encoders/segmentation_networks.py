"""Segmentation networks that are trained in an encoder's place; each is named as an encoder, but has no features."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.imagenet import IMAGENET_MEAN, IMAGENET_STD

from ..tasks.npz import array_names
from .encoder import Encoder, Network
from .revisions import files_digest

if TYPE_CHECKING:
    from torch import Tensor

SCRATCH = "scratch:"
TRANSUNET = "transunet:"
# Channels of the networks at the images' own size, of `transunet` its tokens' width; they distinguish the forms.
SCRATCH_WIDTHS = {"unet": 64, "unet-small": 32, "transunet": 1024, "transunet-small": 32}


def no_features(source: str) -> UserError:
    """The error for one of these networks where an encoder is needed."""
    return UserError(f"{source} is a network for segmentation and has no features; it runs under --method segment")


def check_untrained(source: str) -> None:
    """Refuse a name that is none of the networks'.

    Raises:
        UserError: it lists them.
    """
    if source.removeprefix(SCRATCH) not in SCRATCH_WIDTHS:
        raise UserError(f"{source} is no network; take {SCRATCH}{f' or {SCRATCH}'.join(SCRATCH_WIDTHS)}")


def load_untrained(source: str) -> Encoder:
    """The stand-in for a segmentation network trained from scratch, which has no encoder to load."""
    check_untrained(source)
    name = source.removeprefix(SCRATCH)
    revision = f"{source}@{SCRATCH_WIDTHS[name]}"  # a record of a network of another width is not taken for it
    return _stand_in(source, revision, Network(name))


def check_pretrained(source: str) -> None:
    """Refuse a file of TransUNet's weights that is not there, or no .npz file.

    Raises:
        UserError: it names the file.
    """
    path = Path(source.removeprefix(TRANSUNET)).expanduser()
    if not path.is_file():
        raise UserError(f"{source}: no such file; give {TRANSUNET}FILE.npz with TransUNet's R50+ViT-L_16 weights")
    array_names(path)


def load_pretrained(source: str) -> Encoder:
    """The stand-in for TransUNet with pretrained weights of its encoder from an .npz file."""
    check_pretrained(source)
    path = Path(source.removeprefix(TRANSUNET)).expanduser()
    return _stand_in(source, f"{TRANSUNET}{files_digest([path])}", Network("transunet", path))


def _stand_in(source: str, revision: str, network: Network) -> Encoder:
    from torch import nn

    def refuse(images: Sequence[np.ndarray]) -> "Tensor":
        raise no_features(source)

    return Encoder(source, revision, nn.Identity(), refuse, source, 224, IMAGENET_MEAN, IMAGENET_STD, network=network)
