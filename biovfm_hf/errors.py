"""What a user is told when something cannot be done, and how a missing extra is named."""

import importlib
from types import ModuleType


class UserError(Exception):
    """A failure whose message is for the user: one line that names the thing, the reason and the remedy.

    The `biovfm` command and the training scripts print it as `error: MESSAGE` and exit with status 1.
    """


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra of biovfm-hf brings it.

    Raises:
        UserError: `module` is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name.split(".")[0]):
            raise
        raise UserError(f"{error.name} is not installed; get it with: pip install 'biovfm-hf[{extra}]'") from error
