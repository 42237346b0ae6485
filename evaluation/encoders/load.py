"""Loads vision encoders by name: transformers folders and repositories, timm and open_clip models, short names.

All encoders have the same interface, see `tokens.Encoded`.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from biovfm_hf.errors import UserError
from biovfm_hf.hub.network import heed_missing_network, is_path
from biovfm_hf.imagenet import IMAGENET_MEAN, IMAGENET_STD

from .device import check_device, default_precision
from .encoder import Encoder, to_square
from .families import find_family, place_of
from .lineup import LINEUP, ShortName
from .segmentation_networks import TRANSUNET, no_features
from .tokens import compile_blocks

LABEL = re.compile(r"^([\w.+-]+)=(.+)$")
# Mean, standard deviation, and their name, of what is the same for every model.
ALIKE = {
    "half": ((0.5,) * 3, (0.5,) * 3, "mean 0.5, std 0.5"),
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD, "ImageNet's mean and standard deviation"),
}


def load_encoder(
    name: str,
    device: str = "cpu",
    preprocess: str = "own",
    compiled: bool = False,
    precision: str | None = None,
    trust_remote_code: str | None = None,
) -> Encoder:
    """Load an encoder with the methods `preprocess(images)` and `encode(pixel_values)`.

    Args:
        name: a model folder, a Hub repository, a short name such as `dinov2-b`, or a name with the prefix of a family
            such as `timm:NAME`, with keywords of timm if needed (`?init_values=1e-5&dynamic_img_size=true`). All
            forms are in `biovfm probe --help`, all short names in `biovfm probe --list-encoders`. `LABEL=` before any
            of these sets the name in results.
        device: a torch device.
        preprocess: `own` (the model's), or the same for every model: resized to the model's size and normalised by
            mean 0.5 and standard deviation 0.5 as by the BioVFM authors (`half`), or by ImageNet's as in the radiology
            study (`imagenet`).
        compiled: run its blocks through `torch.compile`.
        precision: `fp32`, `bf16`, or None for `default_precision(device)`.
        trust_remote_code: the revision of a model's own code that may run: the commit of a repository, or the digest
            of a folder's code. Without it no such code runs.

    Raises:
        UserError: there is no such model or device, a needed package or network is missing, or the model has code of
            its own that is not trusted.
    """
    check_device(device)
    label, source = split_label(name)
    known = LINEUP.get(source.lower())
    encoder = _load_known(known, trust_remote_code) if known else _load_source(source, trust_remote_code)
    encoder.name, encoder.device, encoder.precision = label, device, precision or default_precision(device)
    encoder.module.eval().requires_grad_(False).to(device)
    if compiled:
        encoder.compiled = compile_blocks(encoder.module)
    if preprocess != "own":
        encoder.mean, encoder.std, known_as = ALIKE[preprocess]
        encoder.preprocess = lambda images: to_square(images, encoder.size, encoder.mean, encoder.std)
        encoder.preprocessing = f"square {encoder.size}, bicubic, {known_as}"
    return encoder


def check_encoder(name: str) -> None:
    """Refuse the name of an encoder that is not there, as far as that is known without loading torch.

    Raises:
        UserError: as `check_place`, or it is a network without features.
    """
    check_place(name)
    source = split_label(name)[1]
    if source.lower() not in LINEUP and not find_family(source).has_features:
        raise no_features(source)


def check_place(name: str) -> None:
    """Refuse the name of a model that is not there, as far as that is known without loading torch.

    Raises:
        UserError: the name has a prefix of no family, or is a path where there is no model.
    """
    source = split_label(name)[1]
    if source.lower() in LINEUP:
        return
    place, family = place_of(source), find_family(source)
    path = Path(place).expanduser()
    if (is_path(place) or family.needs == "file") and not path.exists():
        raise UserError(f"model {source!r} cannot be loaded: no such file or folder; check the path")
    family.check(source)


def check_labels(names: Sequence[str]) -> None:
    """Refuse models of the same name.

    Raises:
        UserError: says which, and how to name them.
    """
    labels = [split_label(name)[0] for name in names]
    if repeated := next((label for label in labels if labels.count(label) > 1), None):
        raise UserError(f"two models are called {repeated}; give them names: NAME1=MODEL NAME2=MODEL")


def _load_source(source: str, trust_remote_code: str | None) -> Encoder:
    family = find_family(source)
    if family.needs == "weights" and not Path(place_of(source)).expanduser().is_dir():
        heed_missing_network()
    return family.load(source, trust_remote_code) if family.runs_code else family.load(source)


def _load_known(known: ShortName, trust_remote_code: str | None) -> Encoder:
    """The encoder of a short name, read as its authors do.

    Raises:
        UserError: it cannot be loaded; if it needs permission, the message says how to get it.
    """
    try:
        encoder = _load_source(known.source, trust_remote_code)
    except UserError as error:
        raise UserError(f"{error}; {known.access}" if known.access else str(error)) from error
    encoder.features = known.features
    if known.reading:
        encoder.reading = replace(encoder.reading, **known.reading)
        encoder.revision += "".join(f"+{name}" for name in known.reading)  # the same weights give other features
    return encoder


def on_disk(source: str) -> bool:
    """Whether what a model needs is on this machine: a folder or file, or a repository in the Hub's cache."""
    from huggingface_hub import constants

    place, family = place_of(source), find_family(source)
    if family.needs == "nothing" or Path(place).expanduser().exists():
        return True
    repository = f"{family.hub_owner}/{place}" if family.hub_owner and "/" not in place else place
    return any(Path(constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}", "snapshots").glob("*/*"))


def split_label(name: str) -> tuple[str, str]:
    """Split `LABEL=SOURCE`. Without a label the name is the source, for a folder the last distinctive parts of its
    path.

    >>> split_label("ours=runs/a/model")
    ('ours', 'runs/a/model')
    >>> split_label("runs/a/model")
    ('a/model', 'runs/a/model')
    """
    match = LABEL.match(name)
    if match:
        return match.group(1), match.group(2)
    if name.startswith(TRANSUNET):
        return TRANSUNET + Path(name.removeprefix(TRANSUNET)).name, name
    if Path(name).is_dir() or is_path(name):
        parts = [part for part in Path(name).expanduser().resolve().parts if part != "/"]
        generic = parts[-1] == "model" or parts[-1].startswith("step_")
        return "/".join(parts[-2:] if generic else parts[-1:]), name
    return name, name
