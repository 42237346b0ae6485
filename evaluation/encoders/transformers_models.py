"""Loads models in transformers' format: folders and repositories of the Hub."""

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.imagenet import IMAGENET_MEAN, IMAGENET_STD

from ..tasks.images import is_grey
from .encoder import Encoder
from .failures import why_not_loaded
from .own_code import is_own_code, open_pretrained, preprocess_with
from .revisions import folder_revision, weights_digest
from .tokens import Reading

if TYPE_CHECKING:
    from torch import Tensor


def load_transformers(source: str, trust_remote_code: str | None = None) -> Encoder:
    """A model by its folder or repository; its vision tower if it has several.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers.utils import logging

    import biovfm_hf  # noqa: F401  (registers the biovfm model type)

    logging.disable_progress_bar()
    path = Path(source).expanduser()
    try:
        opened = open_pretrained(str(path) if path.is_dir() else source, trust_remote_code)
    except UserError:
        raise
    except Exception as error:  # transformers passes on whatever safetensors, torch, timm or the hub raise
        raise UserError(f"model {source!r} cannot be loaded: {why_not_loaded(error, path.is_dir())}") from error
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
