"""Where weights lie and what their files state, apart from reading them, which takes the import of torch."""

from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from ..errors import UserError, one_line
from ..hub.network import is_repository
from ..reading.documents import read_json

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


class FolderFamily(NamedTuple):
    """A model type of transformers: its table of tensor names in `names.py`, and their prefix."""

    table: str = ""
    prefix: str = ""


FAMILIES = {
    "biovfm": FolderFamily(),
    "dinov2": FolderFamily("HF_DINOV2", "dinov2."),
    "dinov2_with_registers": FolderFamily("HF_DINOV2", "dinov2_with_registers."),
    "vit": FolderFamily("HF_VIT", "vit."),
    "vit_mae": FolderFamily("HF_VIT_MAE"),
    "dinov3_vit": FolderFamily("HF_DINOV3"),
}
_TORCH_STARTS = (b"PK", b"\x80")  # of a zip file, and of the pickle that torch wrote before


class UnknownFamilyError(UserError):
    """The weights are complete, but of another architecture than this package's."""


def check_readable(source: str) -> None:
    """Refuse what cannot be converted, as far as that is known without reading tensors.

    Raises:
        UserError: as `check_place` and `stated_config`.
    """
    check_place(source)
    stated_config(source, Path(source).expanduser())


def stated_config(source: str, path: Path) -> dict[str, Any]:
    """The config.json of the folder `path`; empty for a file, or without one.

    Raises:
        UserError: it is damaged, or that of an architecture that is not converted.
    """
    stated = read_object(path / "config.json")
    family = stated.get("model_type")
    if family and family not in FAMILIES:
        raise UnknownFamilyError(
            f"{source}: a {family!r} model; convert reads {', '.join(FAMILIES)}, DINOv2, DINOv3, MAE and timm"
        )
    return stated


def check_place(source: str) -> None:
    """Refuse a source that is neither weights on disk nor has the form of a repo id.

    Raises:
        UserError: no such path, or as `weight_files`.
    """
    path = Path(source).expanduser()
    if path.exists():
        weight_files(path)
    elif not is_repository(source) or path.suffix in WEIGHT_SUFFIXES:
        raise UserError(f"{source}: no such file or folder")


def weight_files(path: Path) -> list[Path]:
    """The weight file that a path names, or those of a folder (sharded or not), their beginnings checked.

    Raises:
        UserError: no weights there, or a file that is none.
    """
    files = _files_of(path) if path.is_dir() else [path]
    for file in files:
        _check_beginning(file)
    return files


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty when there is no such file.

    Raises:
        UserError: the file is not a JSON object.
    """
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not a JSON object")
    return content


def damaged(file: Path, reason: str) -> UserError:
    """The error for a file that cannot be read as weights."""
    return UserError(f"{file}: damaged or not a weight file ({reason})")


def _files_of(folder: Path) -> list[Path]:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return [folder / name]
        index = read_object(folder / f"{name}.index.json")
        if index:
            shards = sorted(set(index.get("weight_map", {}).values()))
            outside = [shard for shard in shards if Path(shard).name != shard]
            if outside:
                raise UserError(f"{folder / name}.index.json: {outside[0]} lies outside the folder")
            return [folder / shard for shard in shards]
    raise UserError(f"{folder}: no weights there; expected {' or '.join(WEIGHT_FILES)}")


def _check_beginning(file: Path) -> None:
    """Refuse a file whose name or first bytes show that it holds no weights."""
    if file.suffix not in WEIGHT_SUFFIXES:
        raise UserError(f"{file}: not a weight file; expected {', '.join(WEIGHT_SUFFIXES)} or a model folder")
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "np"):
                return
        with file.open("rb") as content:
            start = content.read(2)
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file") from error
    except (OSError, SafetensorError) as error:
        raise damaged(file, one_line(error)) from error
    if not start.startswith(_TORCH_STARTS):
        raise damaged(file, "neither a zip file nor a pickle")
