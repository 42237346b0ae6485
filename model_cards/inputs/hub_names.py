"""Names that are given to the Hub, checked before any work: repositories, branches and tags."""

import re

from huggingface_hub.utils import HFValidationError, validate_repo_id

from biovfm_hf.errors import UserError

# what `git check-ref-format` refuses, and what the Hub keeps for itself or reads as a commit
_NO_REF = re.compile(
    r"""[\x00-\x20\x7f~^:?*\[\\] | \.\. | @\{ | // | (^|/)\. | \.lock(/|$) | ^[-/] | [/.]$ | ^@?$
    | ^refs/ | ^[0-9a-f]{40}$""",
    re.VERBOSE,
)


def check_hub_names(names: list[str], owner: bool = False) -> None:
    """Refuse names that the Hub would not take; with `owner`, names without one.

    Raises:
        UserError: says which name and what is wrong with it.
    """
    for name in names:
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise UserError(f"{name!r} is no Hub name ({error}); write OWNER/NAME") from error
        if owner and "/" not in name:
            raise UserError(f"{name!r} names no owner; write OWNER/NAME, for instance your-name/{name}")


def check_ref(option: str, name: str) -> None:
    """Refuse a branch or tag name that git would not take; `option` is the one that gave it.

    Raises:
        UserError: says which option and name.
    """
    if _NO_REF.search(name):
        raise UserError(f"{option}: {name!r}: no such name can be given; use letters, digits, '-', '_' and '.'")
