"""Exceptions whose message is for the user, and the import of packages that come with an extra."""

import importlib
import re
from types import ModuleType

_OF_FILE = re.compile(r"""b?['"].*['"]|(?<=file header: ).*""", re.DOTALL)  # quoted, or after these words of Pillow


class UserError(Exception):
    """A failure whose message is for the user: one line that names the thing, the reason and the remedy.

    The `biovfm` command and the training scripts print it as `error: MESSAGE` and exit with status 1.
    """


class OptionError(UserError):
    """An option that is refused, as `NAME: REASON`.

    Attributes:
        option: its name in Python; the command writes it as a flag.
        reason: what is wrong with it, and the remedy.
    """

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(option, reason)
        self.option, self.reason = option, reason

    def __str__(self) -> str:
        return f"{self.option}: {self.reason}"


class TooLarge(UserError):
    """A file that claims or needs more than a stated limit."""


class ManyPictures(UserError):
    """A file of several pictures, none of them chosen; `count` is how many `slice_index` chooses from."""

    def __init__(self, message: str, count: int = 1) -> None:
        super().__init__(message)
        self.count = count


class NoPicture(UserError):
    """An intact file without a picture: a report, a dose, a plan, a segmentation, a waveform."""


class UnsafePath(UserError):
    """A file that refers to another one which may not be opened."""


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


def unquoted(error: BaseException) -> str:
    """A library's message without its quotations, which may contain names from the file.

    >>> unquoted(ValueError("invalid literal for int() with base 10: b'ANNA'"))
    'ValueError: invalid literal for int() with base 10: ...'
    """
    return f"{type(error).__name__}: {_OF_FILE.sub('...', str(error))}"


def one_line(error: BaseException) -> str:
    """An error's message in one line of at most 300 characters; the name of its type if it has none.

    >>> one_line(ValueError("first\\n  second"))
    'first second'
    >>> one_line(KeyboardInterrupt())
    'KeyboardInterrupt'
    """
    return " ".join(str(error).split())[:300] or type(error).__name__
