"""Loads encoders of single projects: OFA (BiomedGPT), torchxrayvision, and those published as a file of tensors.

Their modules need torch, so each is imported when one of its models is loaded.
"""

from functools import partial
from pathlib import Path

from biovfm_hf.conversion.place import check_place
from biovfm_hf.imagenet import IMAGENET_MEAN, IMAGENET_STD
from biovfm_hf.reading.documents import read_json

from .encoder import Encoder, to_square
from .published import TORCH_FILES
from .revisions import files_digest, folder_revision, weights_digest
from .tokens import Reading

OFA, XRV = "ofa:", "xrv:"
OFA_SIZE = 384  # as in BiomedGPT's own script for MedMNIST
OFA_NOTES = (
    "OFA image tokens, read without a text prompt: a prompt moves them, and the one behind BiomedGPT's published "
    "results is unknown",
    "licence of BiomedGPT's weights: Apache-2.0 by the Hub's tag, by its README academic research only, without "
    "commercial or clinical use",
)


def load_ofa(source: str) -> Encoder:
    """An OFA model's image encoder, by `ofa:` and a folder, repository or fairseq file, or by a path that `is_ofa`.

    Raises:
        UserError: there is no such model, or it cannot be loaded.
    """
    from .ofa import load_image_encoder, read

    name = source.removeprefix(OFA)
    module, path, left_out = load_image_encoder(name)
    preprocess = partial(to_square, size=OFA_SIZE, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    description = f"square {OFA_SIZE}, bicubic, ImageNet's mean and standard deviation"
    notes = (*OFA_NOTES, f"{len(left_out)} tensors of the text and the decoder are left out")
    revision = folder_revision(path) if path.is_dir() else weights_digest(module)
    return Encoder(
        source,
        revision,
        module,
        preprocess,
        description,
        OFA_SIZE,
        IMAGENET_MEAN,
        IMAGENET_STD,
        read=read,
        notes=notes,
    )


def check_ofa(source: str) -> None:
    """Refuse a place without weights.

    Raises:
        UserError: it names the place.
    """
    check_place(source.removeprefix(OFA))


def is_ofa(source: str) -> bool:
    """Whether a folder's config.json says `model_type: ofa`, or it is one file of weights as fairseq writes them."""
    path = Path(source).expanduser()
    config = path / "config.json"
    stated = read_json(config) if config.is_file() else {}
    return (path.suffix == ".pt" and path.is_file()) or (
        isinstance(stated, dict) and stated.get("model_type") == "ofa"
    )


def load_xrv(source: str) -> Encoder:
    """A classifier of torchxrayvision without its last layer, by `xrv:NAME`.

    Raises:
        UserError: there is no such model, or it cannot be loaded.
    """
    from . import xrv

    module, size = xrv.load_network(source.removeprefix(XRV))
    description = f"torchxrayvision: middle square, {size}, values from -1024 to 1024"
    preprocess = partial(xrv.preprocess, size=size)
    mean, std = (xrv.HALF,) * 3, (xrv.SPAN,) * 3
    return Encoder(
        *(source, weights_digest(module), module, preprocess, description, size, mean, std),
        reading=Reading(grey=True),
    )


def load_torch_file(source: str) -> Encoder:
    """A model of `published.TORCH_FILES`, by its prefix and a file or repository.

    Raises:
        UserError: there is no such model, or it cannot be loaded.
    """
    from .torch_files import load_file, read

    kind, _, place = source.partition(":")
    module, path = load_file(kind, place)
    entry = TORCH_FILES[kind]
    preprocess = partial(to_square, size=entry.size, mean=entry.mean, std=entry.std)
    description = f"square {entry.size}, bicubic, mean {entry.mean}, std {entry.std}"
    return Encoder(
        *(source, files_digest([path]), module, preprocess, description, entry.size, entry.mean, entry.std),
        read=read,
        notes=entry.notes,
    )
