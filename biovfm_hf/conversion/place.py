"""Where weights lie: apart from reading them, which takes the import of torch."""

from pathlib import Path

from ..errors import UserError
from ..hub.network import is_repository

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def check_place(source: str) -> None:
    """Refuse a source that is neither on disk nor has the form of a repo id, and a folder without a file.

    Raises:
        UserError: no such path, or an empty folder.
    """
    path = Path(source).expanduser()
    if path.is_dir() and next(path.iterdir(), None) is None:
        raise UserError(f"{source}: no weights there; the folder is empty")
    if not path.exists() and (not is_repository(source) or path.suffix in WEIGHT_SUFFIXES):
        raise UserError(f"{source}: no such file or folder")
