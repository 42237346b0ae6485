"""Loads vision encoders by name: transformers folders and repositories, timm and open_clip models, short names.

Every encoder answers with the same things, see `tokens.Encoded`.
"""

import copy
import hashlib
import inspect
import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biovfm_hf.errors import UserError, one_line, require
from biovfm_hf.hub.network import heed_missing_network, is_path
from biovfm_hf.imagenet import IMAGENET_MEAN, IMAGENET_STD
from biovfm_hf.reading.documents import read_json

from ..tasks.images import is_grey, to_rgb
from .device import check_device, default_precision
from .lineup import LINEUP, SHORT_NAMES, ShortName
from .own_code import is_own_code, open_pretrained, preprocess_with
from .timm_keywords import split_keywords
from .tokens import Compiled, Encoded, Reader, Reading, compile_blocks, run, running

if TYPE_CHECKING:
    from torch import Tensor, nn

LABEL = re.compile(r"^([\w.+-]+)=(.+)$")
SCRATCH = "scratch:"
TRANSUNET = "transunet:"
# Channels of the networks at the images' own size, of `transunet` its tokens' width: what tells their forms apart.
SCRATCH_WIDTHS = {"unet": 64, "unet-small": 32, "transunet": 1024, "transunet-small": 32}
# Mean, standard deviation, and their name, of what is the same for every model.
ALIKE = {
    "half": ((0.5,) * 3, (0.5,) * 3, "mean 0.5, std 0.5"),
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD, "ImageNet's mean and standard deviation"),
}
OFA, XRV = "ofa:", "xrv:"
OFA_SIZE = 384  # as in BiomedGPT's own script for MedMNIST
OFA_NOTES = (
    "OFA image tokens, read without a text prompt: a prompt moves them, and the one behind BiomedGPT's published "
    "results is unknown",
    "licence of BiomedGPT's weights: Apache-2.0 by the Hub's tag, by its README academic research only, without "
    "commercial or clinical use",
)


@dataclass(frozen=True)
class Network:
    """A segmentation network that is trained in an encoder's place: its name, and a file of pretrained weights."""

    name: str
    weights: Path | None = None


@dataclass
class Encoder:
    """A frozen vision model with the preprocessing it was made for.

    Attributes:
        name: what results call it.
        revision: a digest of the weights, with what else tells how they are read.
        module: the torch module.
        preprocess: uint8 images (H, W, 3) of any size -> float (B, 3, S, S).
        preprocessing: what `preprocess` does, in words; part of the cache key.
        size: S, pixels.
        mean, std: per channel, of pixel values in 0..1; for preprocessing that must keep masks aligned.
        device: where the module is.
        precision: `fp32`, or `bf16` for bfloat16 autocast.
        compiled: its blocks through `torch.compile`; without any it runs as it is.
        reading: what `read` must know of the module.
        read: how the module is asked and where its tokens are, as `tokens.run`.
        features: what its card recommends as an image's vector, of `embed.FEATURES`.
        notes: caveats for readers of its results, in every record.
        network: what is trained in place of a frozen model, if there is none.
    """

    name: str
    revision: str
    module: "nn.Module"
    preprocess: Callable[[Sequence[np.ndarray]], "Tensor"]
    preprocessing: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: str = "cpu"
    precision: str = "fp32"
    compiled: Compiled = field(default_factory=list)
    reading: Reading = field(default_factory=Reading)
    read: Reader = run
    features: str = "both"
    notes: tuple[str, ...] = ()
    network: Network | None = None

    def encode(self, pixel_values: "Tensor", blocks: int = 0) -> Encoded:
        """Encode (B, 3, H, W) without gradients, in the encoder's precision; features are float32.

        Raises:
            UserError: `blocks` of a model that has no equal blocks.
        """
        import torch

        kind = torch.device(self.device).type
        self.module.eval()
        precision = torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bf16")
        # not inference_mode: modules that keep a tensor (BEiT its positions) could not be fine-tuned afterwards
        with torch.no_grad(), precision, running(self.compiled):
            encoded = self.read(self.module, pixel_values.to(self.device), blocks, self.reading)
        return Encoded(
            encoded.tokens.float(),
            encoded.normed.float(),
            encoded.grid,
            None if encoded.pooled is None else encoded.pooled.float(),
            [block.float() for block in encoded.blocks],
            [token.float() for token in encoded.classes],
            None if encoded.vector is None else encoded.vector.float(),
        )

    def vector_kind(self, which: str) -> str:
        """Which vector of an image `which` of `embed.FEATURES` is: `card` is what the model's card recommends."""
        return self.features if which == "card" else which

    def twin(self) -> "Encoder":
        """Another encoder with the same weights in memory, which may run in another thread at the same time.

        Reading a module hangs hooks on it (see `tokens.run`), so one module serves one thread.
        """
        weights = itertools.chain(self.module.parameters(), self.module.buffers())
        return replace(self, module=copy.deepcopy(self.module, {id(tensor): tensor for tensor in weights}))


def load_encoder(
    name: str,
    device: str = "cpu",
    preprocess: str = "own",
    compiled: bool = False,
    precision: str | None = None,
    trust_remote_code: str | None = None,
) -> Encoder:
    """Load an encoder, which answers `preprocess(images)` and `encode(pixel_values)`.

    Args:
        name: a model folder, a Hub repository, `timm:NAME` or `timm:FOLDER` with keywords of timm where needed
            (`?init_values=1e-5&dynamic_img_size=true`), `open_clip:hf-hub:REPO`, `xrv:NAME` of torchxrayvision,
            `meddinov3:` or `medimageinsight:` and a file or repository, `ofa:` and a folder, repository or fairseq
            file of an OFA model (BiomedGPT), `scratch:unet` and `scratch:transunet` (segmentation baselines without
            an encoder), `transunet:FILE.npz` (with pretrained weights), one of `SHORT_NAMES`, or `LABEL=` and one of
            these to choose what results call it.
        device: a torch device.
        preprocess: `own` (the model's), or the same for every model: resized to the model's size and normalised by
            mean 0.5 and standard deviation 0.5, as the BioVFM authors do (`half`), or by ImageNet's, as the radiology
            study does (`imagenet`).
        compiled: run its blocks through `torch.compile`.
        precision: `fp32`, `bf16`, or None for `default_precision(device)`.
        trust_remote_code: the revision of a model's own code that may be run: a repository's commit, or the digest of
            a folder's code. Without it no such code is run.

    Raises:
        UserError: there is no such model or device, it needs a package or a network that is not there, or it has code
            of its own that is not trusted.
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


def _load_source(source: str, trust_remote_code: str | None) -> Encoder:
    family = find_family(source)
    if family.downloads and not Path(source.removeprefix(family.prefix).partition("?")[0]).expanduser().is_dir():
        heed_missing_network()
    return family.load(source, trust_remote_code) if family.runs_code else family.load(source)


def _load_known(known: ShortName, trust_remote_code: str | None) -> Encoder:
    """What a short name loads, read as its authors do.

    Raises:
        UserError: it cannot be loaded; where access must be asked for, with how.
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


@dataclass(frozen=True)
class Family:
    """One way to load encoders: by names that begin with `prefix`, which `load` takes whole.

    `load` gives an `Encoder` with its preprocessing, its `read` and what that must know (`reading`), on the CPU.
    `downloads` tells whether models that are not on disk come from the network, `recognises` which names without the
    prefix are the family's too, and `runs_code` whether `load` also takes the revision of a model's own code.
    """

    name: str
    prefix: str
    load: Callable[..., Encoder]
    downloads: bool = True
    recognises: Callable[[str], bool] = lambda source: False
    runs_code: bool = False


FAMILIES: dict[str, Family] = {}


def register_family(family: Family) -> None:
    """Make a family known.

    Raises:
        ValueError: another has its name or its prefix.
    """
    if any(family.name == other.name or family.prefix == other.prefix for other in FAMILIES.values()):
        raise ValueError(f"there is a family {family.name} or one of the prefix {family.prefix!r} already")
    FAMILIES[family.name] = family


def find_family(source: str) -> Family:
    """The family with the longest prefix of a name, or that recognises it; transformers takes what no other does."""
    fitting = [f for f in FAMILIES.values() if source.startswith(f.prefix) or f.recognises(source)]
    return max(fitting, key=lambda family: len(family.prefix))


def _untrained(source: str) -> Encoder:
    """The stand-in for a segmentation network trained from scratch, which has no encoder to load."""
    name = source.removeprefix(SCRATCH)
    width = SCRATCH_WIDTHS.get(name)
    revision = f"{source}@{width}" if width else source  # a record of a network of another width is not taken for it
    return _stand_in(source, revision, Network(name))


def _pretrained_network(source: str) -> Encoder:
    """The stand-in for TransUNet with pretrained weights of its encoder from an .npz file."""
    path = Path(source.removeprefix(TRANSUNET)).expanduser()
    if not path.is_file():
        raise UserError(f"{source}: no such file; give {TRANSUNET}FILE.npz with TransUNet's R50+ViT-L_16 weights")
    return _stand_in(source, f"{TRANSUNET}{files_digest([path])}", Network("transunet", path))


def _stand_in(source: str, revision: str, network: Network) -> Encoder:
    from torch import nn

    def refuse(images: Sequence[np.ndarray]) -> "Tensor":
        raise UserError(f"{source} is a network for segmentation and has no features; it runs under --method segment")

    return Encoder(source, revision, nn.Identity(), refuse, source, 224, IMAGENET_MEAN, IMAGENET_STD, network=network)


def on_disk(source: str) -> bool:
    """Whether a model's weights are on this machine: a folder or file, or a repository in the Hub's cache."""
    from huggingface_hub import constants

    rest = source.removeprefix(find_family(source).prefix).removeprefix("hf-hub:").partition("?")[0]
    if Path(rest).expanduser().exists() or source.startswith(SCRATCH):
        return True
    repository = f"timm/{rest}" if source.startswith("timm:") and "/" not in rest else rest
    return any(Path(constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}", "snapshots").glob("*/*"))


def split_label(name: str) -> tuple[str, str]:
    """Split `LABEL=SOURCE`; a source without label is called by its name, a folder by its last telling parts.

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


def to_square(images: Sequence[np.ndarray], size: int, mean: Sequence[float], std: Sequence[float]) -> "Tensor":
    """Resize uint8 images (H, W, 3) to (B, 3, size, size), bicubic with antialiasing, and normalise."""
    import torch
    from PIL import Image

    def resize(image: np.ndarray) -> np.ndarray:
        if image.shape[:2] == (size, size):
            return image
        picture = Image.fromarray(image[..., 0] if is_grey(image) else image)
        return to_rgb(np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)), "an image")

    resized = [resize(image) for image in images]
    pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float().div_(255)
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def _load_transformers(source: str, trust_remote_code: str | None = None) -> Encoder:
    from transformers.utils import logging

    import biovfm_hf  # noqa: F401  (registers the biovfm model type)

    logging.disable_progress_bar()
    path = Path(source).expanduser()
    if not path.is_dir() and (is_path(source) or "/" not in source):
        raise UserError(
            f"model {source!r}: no such folder; give a model folder, a Hub repository, timm:NAME, "
            f"open_clip:hf-hub:REPO, or one of {', '.join(SHORT_NAMES)}"
        )
    try:
        opened = open_pretrained(str(path) if path.is_dir() else source, trust_remote_code)
    except UserError:
        raise
    except Exception as error:  # transformers passes on whatever safetensors, torch, timm or the hub raise
        raise UserError(f"model {source!r} cannot be loaded: {_reason(error, path.is_dir())}") from error
    config, processor, module = opened.config, opened.processor, opened.module
    lacking = _check_weights(source, opened.report)
    revision = folder_revision(path) if path.is_dir() else weights_digest(module)
    revision += f"+{opened.trusted}" if opened.trusted else ""
    module = getattr(module, "vision_model", None) or getattr(module, "vision_encoder", None) or module
    grey = getattr(config, "num_channels", 3) == 1
    return Encoder(
        source,
        revision,
        module,
        preprocess_with(processor, grey) if is_own_code(processor) else _batches_of(processor, config.model_type),
        f"{type(processor).__name__} {_settings(processor)}",
        _processor_size(processor, config),
        tuple(getattr(processor, "image_mean", None) or IMAGENET_MEAN),
        tuple(getattr(processor, "image_std", None) or IMAGENET_STD),
        reading=Reading(
            interpolates="interpolate_pos_encoding" in inspect.signature(module.forward).parameters,
            pooler=not lacking,
            keeps_patches=config.model_type == "vit_mae",
            grey=grey,
        ),
        notes=(f"runs the model's own code, revision {opened.trusted}",) if opened.trusted else (),
    )


def _batches_of(processor: Any, model_type: str) -> Callable[[Sequence[np.ndarray]], "Tensor"]:
    """Preprocessing by an image processor of transformers or ours, a batch at once."""
    takes_grey = model_type == "biovfm"  # our processor makes three channels at the end; others resize three

    def preprocess(images: Sequence[np.ndarray]) -> "Tensor":
        given = [image[..., :1] if takes_grey and is_grey(image) else image for image in images]
        return processor(given, return_tensors="pt", input_data_format="channels_last")["pixel_values"]

    return preprocess


def _check_weights(source: str, report: dict[str, Any]) -> list[str]:
    """The weights of the pooler that the files lack: those of fine-tuned classifiers, say, come without one.

    Raises:
        UserError: other weights are lacking, which would be random.
    """
    names = sorted([*report["missing_keys"], *(str(key[0]) for key in report.get("mismatched_keys", ()))])
    lacking = [name for name in names if "pooler" not in name]
    if lacking:
        shown = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
        raise UserError(
            f"model {source!r}: {len(lacking)} weights are not in its files or differ in shape ({shown}), and random "
            "ones would be probed; check that config.json and the weights belong together"
        )
    return names


def _settings(processor: Any) -> str:
    kept = {
        key: value
        for key, value in processor.to_dict().items()
        if key.startswith(("do_", "size", "crop", "image_", "rescale", "resample", "pad"))
    }
    return json.dumps(kept, sort_keys=True, default=str)


def _processor_size(processor: Any, config: Any) -> int:
    for holder, key in ((processor, "crop_size"), (processor, "size")):
        size: Any = getattr(holder, key, None)
        if getattr(processor, "do_center_crop", True) is False and key == "crop_size":
            continue
        if isinstance(size, int) and size:
            return size
        for side in ("height", "shortest_edge", "longest_edge"):
            pixels = size.get(side) if hasattr(size, "get") else getattr(size, side, None)
            if pixels:
                return int(pixels)
    fallback: Any = getattr(getattr(config, "vision_config", config), "image_size", 224)
    return int(fallback if isinstance(fallback, int) else fallback[0])


def _reason(error: Exception, local: bool) -> str:
    """One line of what went wrong, and what to do."""
    text = one_line(error)
    if "preprocessor_config" in text or "image processor" in text.lower():
        return f"{text}; save an image processor into the folder (AutoImageProcessor.save_pretrained)"
    if local:
        return f"{text}; check the folder's config.json and model.safetensors"
    if "Unknown model" in text:
        return f"{text}; timm.list_models() lists them"
    if "unexpected keyword" in text:
        return f"{text}; give keywords that this network of timm has"
    if "gated" in text.lower():
        return f"{text}; accept its terms on its page at huggingface.co, then run: hf auth login"
    cached = (
        "without a network only models on disk can be used: get it where there is one (hf download NAME), and copy"
    )
    return f"{text}; {cached} its folder or the cache (HF_HOME)"


def folder_revision(path: Path) -> str:
    """A digest of a model folder: of its configuration and of every weight file, 16 hex digits.

    Raises:
        UserError: the folder holds no weights.
    """
    weights = sorted([*path.glob("*.safetensors"), *path.glob("*.bin")])
    if not weights:
        raise UserError(f"{path} holds no *.safetensors; is it a model folder?")
    return files_digest([*sorted(path.glob("*config.json")), *weights])


def files_digest(files: Sequence[Path]) -> str:
    """A digest of files' names and content, 16 hex digits."""
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


def weights_digest(module: "nn.Module") -> str:
    """A digest of all weights of a module, 16 hex digits: the revision of models that tell none."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _load_timm(source: str) -> Encoder:
    given = source.removeprefix("timm:")
    timm = require("timm", "encoders")
    name, keywords = split_keywords(given)
    path = Path(name).expanduser()
    where = f"local-dir:{path}" if path.is_dir() else name
    try:
        module = timm.create_model(where, pretrained=True, num_classes=0, **keywords)
    except Exception as error:  # timm passes on whatever the hub, the file system or its registry raise
        raise UserError(f"model timm:{given} cannot be loaded: {_reason(error, path.is_dir())}") from error
    side = keywords.get("img_size")
    config = timm.data.resolve_model_data_config(module, {"img_size": side} if isinstance(side, int) else None)
    transform = timm.data.create_transform(**config, is_training=False)
    revision = folder_revision(path) if path.is_dir() else weights_digest(module)
    revision += f"?{given.partition('?')[2]}" if keywords else ""  # the same weights in another network
    return _from_transform(
        module, transform, source, revision, config["input_size"][-1], config["mean"], config["std"]
    )


def _load_open_clip(source: str) -> Encoder:
    name = source.removeprefix("open_clip:")
    open_clip = require("open_clip", "encoders")
    try:
        model, transform = open_clip.create_model_from_pretrained(name)
    except Exception as error:  # open_clip passes on whatever the hub or the file system raise
        raise UserError(f"model open_clip:{name} cannot be loaded: {_reason(error, False)}") from error
    visual = model.visual
    trunk = getattr(visual, "trunk", None)  # a timm tower, as in BiomedCLIP
    size = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    mean, std = visual.image_mean or IMAGENET_MEAN, visual.image_std or IMAGENET_STD
    module = trunk or visual
    return _from_transform(module, transform, f"open_clip:{name}", weights_digest(module), size, mean, std)


def _load_ofa(source: str) -> Encoder:
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


def _load_xrv(source: str) -> Encoder:
    from . import xrv

    module, size = xrv.load_network(source.removeprefix(XRV))
    description = f"torchxrayvision: middle square, {size}, values from -1024 to 1024"
    preprocess = partial(xrv.preprocess, size=size)
    mean, std = (xrv.HALF,) * 3, (xrv.SPAN,) * 3
    return Encoder(
        *(source, weights_digest(module), module, preprocess, description, size, mean, std),
        reading=Reading(grey=True),
    )


def _load_torch_file(source: str) -> Encoder:
    from .torch_files import TORCH_FILES, load_file, read

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


def _is_ofa(source: str) -> bool:
    """Whether a folder's config.json says `model_type: ofa`, or it is one file of weights as fairseq writes them."""
    path = Path(source).expanduser()
    config = path / "config.json"
    stated = read_json(config) if config.is_file() else {}
    return (path.suffix == ".pt" and path.is_file()) or (
        isinstance(stated, dict) and stated.get("model_type") == "ofa"
    )


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


for _family in (
    Family("transformers", "", _load_transformers, runs_code=True),
    Family("timm", "timm:", _load_timm),
    Family("open_clip", "open_clip:", _load_open_clip),
    Family("open_clip of the Hub", "hf-hub:", _load_open_clip),
    Family("torchxrayvision", XRV, _load_xrv),
    Family("MedDINOv3", "meddinov3:", _load_torch_file),
    Family("MedImageInsight", "medimageinsight:", _load_torch_file),
    Family("OFA", OFA, _load_ofa, recognises=_is_ofa),
    Family("trained from scratch", SCRATCH, _untrained, downloads=False),
    Family("TransUNet with pretrained weights", TRANSUNET, _pretrained_network, downloads=False),
):
    register_family(_family)
