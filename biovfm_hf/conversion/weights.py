"""Reading untrusted weight files: locate them, load tensors without running code, strip wrappers."""

import argparse
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..errors import UserError, one_line
from .place import check_place, damaged, weight_files

# keys under which training scripts store the weights, outermost first
_WRAPPERS = ("teacher", "model_ema", "model", "state_dict")


def locate(source: str) -> Path:
    """The file or folder that `source` names: on disk, or downloaded from the Hub for a repo id.

    Raises:
        UserError: no such path, and no such repo on the Hub or no connection.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    check_place(source)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors", "pytorch_model*.bin"]))
    except Exception as error:
        raise UserError(f"{source}: neither a path nor a Hub repo that can be reached ({one_line(error)})") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a weight file, or of the one in a folder (sharded or not), by name, on the CPU.

    Wrappers that training adds are taken off: `{"teacher": ...}`, `module.`, `backbone.`, and DINOv2's chunks of
    blocks (`blocks.0.3.` is block 3). Only tensors are read: a file that pickles anything else is refused.

    Raises:
        UserError: no weights there, or a damaged or unsafe file.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(path):
        tensors.update(_unwrap(_read_file(file)))
    if not tensors:
        raise UserError(f"{path}: holds no tensors")
    return _plain_names(tensors)


def _read_file(file: Path) -> Any:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # MAE's checkpoints carry their command line; a Namespace of plain values cannot run anything
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        pickled = re.search(r"GLOBAL (\S+)", str(error))
        what = f"a pickled {pickled[1]}" if pickled else "more than tensors, or is not a torch file"
        raise UserError(
            f"{file}: holds {what}, which is never loaded; save its state_dict alone and convert that"
        ) from error
    except Exception as error:  # damaged files raise almost any exception
        raise damaged(file, one_line(error)) from error


def _unwrap(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        return {}
    for key in _WRAPPERS:
        if isinstance(content.get(key), dict):
            return _unwrap(content[key])
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _plain_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    plain = {}
    for name, tensor in tensors.items():
        name = re.sub(r"^(module\.|_orig_mod\.)+", "", name)
        name = re.sub(r"^(backbone\.|encoder\.(?=blocks|cls_token|pos_embed|patch_embed))", "", name)
        plain[re.sub(r"^(decoder_)?blocks\.\d+\.(\d+)\.", r"\1blocks.\2.", name)] = tensor
    return plain
