"""Loads the encoders of `published.TORCH_FILES`. Pickled files are read as tensors only."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from torch import Tensor, nn

from biovfm_hf.conversion.weights import read_tensors
from biovfm_hf.errors import UserError, one_line, require

from .published import TORCH_FILES, TorchFile, file_in, local_file
from .tokens import AS_IT_IS, Encoded, Reading, run


class Projected(nn.Module):
    """An image encoder with the projection to the vectors by which its authors compare images."""

    def __init__(self, trunk: nn.Module, projection: Tensor) -> None:
        super().__init__()
        self.trunk, self.projection = trunk, nn.Parameter(projection)


def read(module: nn.Module, pixel_values: Tensor, blocks: int = 0, reading: Reading = AS_IT_IS) -> Encoded:
    """As `tokens.run`; the model's own vector is the projected one, with length 1."""
    if not isinstance(module, Projected):
        return run(module, pixel_values, blocks, reading)
    encoded = run(module.trunk, pixel_values, blocks, reading)
    if encoded.pooled is not None:
        encoded.pooled = nn.functional.normalize(encoded.pooled @ module.projection, dim=-1)
    return encoded


def load_file(kind: str, source: str) -> tuple[nn.Module, Path]:
    """A model of `TORCH_FILES`, and the file it was loaded from.

    Raises:
        UserError: there is no such file, it holds more than tensors, or its tensors do not fit the network.
    """
    entry, path = TORCH_FILES[kind], find_file(kind, source)
    tensors = read_tensors(path)
    timm = require("timm", "encoders")
    trunk = timm.create_model(entry.network, num_classes=0)
    named = _timm_names(entry, tensors, trunk)
    own = trunk.state_dict()
    if lacking := sorted(name for name in own if name not in named or named[name].shape != own[name].shape):
        shown = ", ".join(lacking[:3])
        raise UserError(f"{path}: {len(lacking)} tensors of {kind} are lacking or differ in shape ({shown})")
    trunk.load_state_dict({name: named[name].float() for name in own})
    for name, timms in entry.buffers.items():
        trunk.get_buffer(timms).copy_(tensors[entry.prefix + name])
    if not entry.projection:
        return trunk, path
    if entry.projection not in tensors:
        raise UserError(f"{path}: lacks {entry.projection}; is it the authors' file?")
    return Projected(trunk, tensors[entry.projection].float()), path


def find_file(kind: str, source: str) -> Path:
    """The file on disk, or downloaded from the repository."""
    if file := local_file(kind, source):
        return file
    return file_in(_download(kind, source, TORCH_FILES[kind].file), kind, source)


def _download(kind: str, source: str, pattern: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=[pattern]))
    except Exception as error:  # the hub passes on whatever its libraries raise
        raise UserError(
            f"model {kind}:{source} is neither a file nor a repository that can be reached ({one_line(error)})"
        ) from error


def _timm_names(entry: TorchFile, tensors: Mapping[str, Tensor], trunk: nn.Module) -> dict[str, Tensor]:
    """The image encoder's tensors under timm's names."""
    cut = len(entry.prefix)
    own = {entry.family_prefix + n[cut:]: value for n, value in tensors.items() if n.startswith(entry.prefix)}
    translated = import_module(f"timm.models.{entry.family}").checkpoint_filter_fn(own, trunk)
    for part, timm_part in entry.renamed.items():
        translated = {name.replace(part, timm_part): value for name, value in translated.items()}
    return translated
