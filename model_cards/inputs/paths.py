"""Keeps this machine's folders out of published files."""

import re
from pathlib import Path
from typing import Any

from biovfm_hf.hub.network import is_path


def without_paths(value: Any) -> Any:
    """`value` with every path shortened to its last part, however deep in lists and mappings.

    A path is text that cannot be a name on the Hub (it begins with `/`, `.`, `~` or a drive, or has two slashes or
    more), or that exists on this machine.
    """
    if isinstance(value, dict):
        return {key: without_paths(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(entry) for entry in value]
    if isinstance(value, str) and _names_a_path(value):
        return re.split(r"[\\/]", value.rstrip("/\\"))[-1]
    return value


def _names_a_path(text: str) -> bool:
    if is_path(text) or "\\" in text:
        return True
    return "/" in text and Path(text).exists()
