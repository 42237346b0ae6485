"""Models of transformers' form from a folder or repository, and those that bring Python code of their own.

Code of others runs only where the user names the revision that was read: a repository's commit, a folder's digest.
Nothing is ever asked for, so that a batch does not wait for an answer.
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
    "(40 hex digits), or a folder's digest, which is told where this is lacking; one for each command"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REFUSAL = "trust_remote_code"  # what transformers' refusal names


@dataclass(frozen=True)
class Pretrained:
    """A model of transformers' form: its configuration, image processor and module, and what was lacking in its files.

    `trusted` is the revision of its own code that was run; None if it has none.
    """

    config: Any
    processor: Any
    module: "nn.Module"
    report: dict[str, Any]
    trusted: str | None = None


def open_pretrained(where: str, trust_remote_code: str | None = None) -> Pretrained:
    """Open a folder or repository, running its own code only where that is needed and its revision is given.

    Raises:
        UserError: it has code of its own, and the revision is not given, is not a commit, or is not the folder's; or
            the code is that of another repository.
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
        raise UserError(f"model {where!r} has code of its own, which is not run unasked; {remedy}")
    if given != digest:
        raise UserError(f"model {where!r}: {given!r} is not the revision of its own code; {remedy}")
    return given


def code_digest(folder: Path) -> str:
    """A digest of every Python file of a folder, 16 hex digits."""
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _refuse_another_processor(where: str, processor: Any) -> None:
    """Raise a ValueError where a model names an image processor of its own and transformers took another.

    It does so, without a word, where it has one for models of the same form; images would be prepared otherwise than
    for training.
    """
    own = _processor_settings(where).get("auto_map", {}).get("AutoImageProcessor")
    if own and type(processor).__name__.removesuffix("Fast") not in str(own):
        raise ValueError(f"{where} has an image processor of its own, which needs {_REFUSAL}")


def _processor_settings(where: str, revision: str | None = None) -> dict[str, Any]:
    """What a model says of its image processor; nothing if it has none."""
    from transformers.image_processing_base import ImageProcessingMixin

    with suppress(OSError):  # told later, with what else is lacking
        settings: dict[str, Any] = ImageProcessingMixin.get_image_processor_dict(where, revision=revision)[0]
        return settings
    return {}


def _refuse_foreign_code(where: str, revision: str | None) -> None:
    """Raise a UserError if a model's own code lies in another repository, of which no revision is known."""
    from transformers import PreTrainedConfig

    stated = (PreTrainedConfig.get_config_dict(where, revision=revision)[0], _processor_settings(where, revision))
    for name in (name for settings in stated for name in settings.get("auto_map", {}).values()):
        if "--" in str(name):
            raise UserError(
                f"model {where!r} runs the code of another repository ({name}), whose revision is not told; copy that "
                "code into a folder beside the weights, and name it in auto_map without the repository"
            )


def preprocess_with(processor: Any, grey: bool) -> Callable[[Sequence[np.ndarray]], "Tensor"]:
    """Preprocessing by an image processor that is code of its own, one image after the other.

    Such a processor need not know batches. It is given a PIL image, or a grey array (H, W) where the model takes one
    channel: an axis of channels could be taken for one of slices.
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
    """Whether the class of a module or processor is code that came with the model."""
    return type(part).__module__.startswith("transformers_modules")
