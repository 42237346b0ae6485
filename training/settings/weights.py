"""The weights that settings name: a model folder, a weight file, a Hub id, or the folder of an earlier run."""

from collections.abc import Callable
from pathlib import Path

from biovfm_hf.conversion.place import check_readable
from biovfm_hf.errors import UserError


def is_run(source: str) -> bool:
    """Whether a path is that of a run folder, with checkpoints."""
    return (Path(source) / "checkpoints").is_dir()


def check_source(key: str, source: str, check: Callable[[str], None] = check_readable) -> None:
    """Refuse weights that are not there, as far as `check` knows without the import of torch.

    Raises:
        UserError: begins with the setting `key` that names them.
    """
    try:
        check(source)
    except UserError as error:
        raise UserError(f"{key} {error}") from error
