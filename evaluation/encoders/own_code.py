"""Opens models in transformers' format from a folder or repository, including those with Python code of their own.

Foreign code runs only if the user names the revision that was read: the commit of a repository, or the digest of a
folder. The user is never prompted, so that batch jobs do not wait for an answer.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biovfm_hf.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

TRUST_HELP = (
    "run the code that a model or its image processor brings along, after you read it: the commit of the repository "
    "(40 hex digits), or a folder's digest, which a message names if this option is missing; one for each command"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REFUSAL = "trust_remote_code"  # the name in transformers' refusal


@dataclass(frozen=True)
class Pretrained:
    """A model in transformers' format: configuration, image processor, module, and the tensors its files lack.

    `trusted` is the revision of its own code that was run; None if it has no such code.
    """

    config: Any
    processor: Any
    module: "nn.Module"
    report: dict[str, Any]
    trusted: str | None = None


def open_pretrained(where: str, trust_remote_code: str | None = None) -> Pretrained:
    """Open a folder or repository; its own code runs only if it is needed and its revision is given.

    Raises:
        UserError: it has code of its own and the revision is missing, is not a commit, or is not the folder's digest;
            or the code belongs to another repository.
        Exception: whatever transformers passes on from its libraries.
    """
    try:
        return _open(where)
    except ValueError as error:
        if _REFUSAL not in str(error):
            raise
    revision = _checked_revision(where, trust_remote_code)
    pinned = {} if Path(where).is_dir() else {"revision": revision, "code_revision": revision}
    _refuse_foreign_code(where, pinned.get("revision"))
    return _open(where, revision, trust_remote_code=True, **pinned)


def _open(where: str, trusted: str | None = None, **keywords: Any) -> Pretrained:
    import transformers

    keywords = {"trust_remote_code": False} | keywords
    config = transformers.AutoConfig.from_pretrained(where, **keywords)
    if config.model_type == "vit_mae":
        config.mask_ratio = 0.0
    if config.model_type == "timm_wrapper":  # transformers passes it to timm itself, and fails if it is there twice
        (config.model_args or {}).pop("num_classes", None)
    processor = transformers.AutoImageProcessor.from_pretrained(where, **keywords)
    if trusted is None:
        _refuse_another_processor(where, processor)
    module, report = transformers.AutoModel.from_pretrained(
        where, config=config, dtype="float32", output_loading_info=True, **keywords
    )
    return Pretrained(config, processor, module, report, trusted)


def _checked_revision(where: str, given: str | None) -> str:
    """The revision of the code that may be run."""
    folder = Path(where)
    if folder.is_dir():
        digest = code_digest(folder)
        remedy = f"read its *.py files, then give --trust-remote-code {digest}"
    else:
        digest = given if given and _COMMIT.fullmatch(given) else ""
        page = f"https://huggingface.co/{where}/commits/main"
        remedy = f"read it at {page}, then give --trust-remote-code COMMIT (40 hex digits)"
    if given is None:
        raise UserError(f"model {where!r} has code of its own, which runs only with your consent; {remedy}")
    if given != digest:
        raise UserError(f"model {where!r}: {given!r} is not the revision of its own code; {remedy}")
    return given


def code_digest(folder: Path) -> str:
    """A digest of all Python files of a folder, 16 hex digits."""
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _refuse_another_processor(where: str, processor: Any) -> None:
    """Raise a ValueError if a model names an image processor of its own and transformers took another one.

    Transformers does so silently if it has a processor for models of the same type. Images would then be prepared
    differently than for training.
    """
    own = _processor_settings(where).get("auto_map", {}).get("AutoImageProcessor")
    if own and type(processor).__name__.removesuffix("Fast") not in str(own):
        raise ValueError(f"{where} has an image processor of its own, which needs {_REFUSAL}")


def _processor_settings(where: str, revision: str | None = None) -> dict[str, Any]:
    """The settings of a model's image processor; empty if it has none."""
    from transformers.image_processing_base import ImageProcessingMixin

    with suppress(OSError):  # reported later, together with other missing files
        settings: dict[str, Any] = ImageProcessingMixin.get_image_processor_dict(where, revision=revision)[0]
        return settings
    return {}


def _refuse_foreign_code(where: str, revision: str | None) -> None:
    """Raise a UserError if a model's code lies in another repository, whose revision is unknown."""
    from transformers import PreTrainedConfig

    stated = (PreTrainedConfig.get_config_dict(where, revision=revision)[0], _processor_settings(where, revision))
    for name in (name for settings in stated for name in settings.get("auto_map", {}).values()):
        if "--" in str(name):
            raise UserError(
                f"model {where!r} runs the code of another repository ({name}), whose revision is not given; copy "
                "that code into a folder beside the weights, and name it in auto_map without the repository"
            )


def preprocess_with(processor: Any, grey: bool) -> Callable[[Sequence[np.ndarray]], "Tensor"]:
    """Preprocessing with an image processor from the model's own code, one image at a time.

    Such a processor may not support batches. It receives a PIL image, or a grey array (H, W) if the model takes one
    channel: a channel axis could be mistaken for a slice axis.
    """
    import torch
    from PIL import Image

    def preprocess(images: Sequence[np.ndarray]) -> "Tensor":
        pictures = [Image.fromarray(image) for image in images]
        given = [np.asarray(picture.convert("L")) if grey else picture for picture in pictures]
        ready = [processor(images=one, return_tensors="pt")["pixel_values"] for one in given]
        return torch.cat([one.reshape(-1, *one.shape[-3:]) for one in ready]).float()

    return preprocess


def is_own_code(part: Any) -> bool:
    """Whether the class of a module or processor is from the model's own code."""
    return type(part).__module__.startswith("transformers_modules")
