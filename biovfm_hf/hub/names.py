"""Checks names for the Hub before any work: repositories, branches and tags."""

import re

from huggingface_hub.utils import HFValidationError, validate_repo_id

from ..errors import UserError

# names that `git check-ref-format` refuses, or that the Hub reserves or reads as a commit
_NO_REF = re.compile(
    r"""[\x00-\x20\x7f~^:?*\[\\] | \.\. | @\{ | // | (^|/)\. | \.lock(/|$) | ^[-/] | [/.]$ | ^@?$
    | ^refs/ | ^[0-9a-f]{40}$""",
    re.VERBOSE,
)


def check_hub_names(names: list[str], owner: bool = False) -> None:
    """Refuse names that the Hub would not accept; with `owner`, names without one.

    Raises:
        UserError: says which name and what is wrong with it.
    """
    for name in names:
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise UserError(f"{name!r} is not a Hub name ({error}); write OWNER/NAME") from error
        if owner and "/" not in name:
            raise UserError(f"{name!r} names no owner; write OWNER/NAME, for instance your-name/{name}")


def check_ref(option: str, name: str) -> None:
    """Refuse a branch or tag name that git would not accept; `option` is its option.

    Raises:
        UserError: says which option and name.
    """
    if _NO_REF.search(name):
        raise UserError(f"{option}: {name!r}: not a valid name; use letters, digits, '-', '_' and '.'")
