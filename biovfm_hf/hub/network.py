"""Avoids needless calls to the Hub: for names that can only be paths, and without a network."""

import os
import re
import socket
from urllib.parse import urlsplit


def is_path(name: str) -> bool:
    """Whether a name can only be a path: by its beginning, or by more slashes than OWNER/NAME has."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def is_repository(name: str) -> bool:
    """Whether a name has the form of a repository with its owner, OWNER/NAME, and is no path."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not is_path(name)


def heed_missing_network() -> None:
    """Tell huggingface_hub to stay offline if its host has no address, instead of waiting for many retries."""
    from huggingface_hub import constants

    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return  # the proxy knows the address
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
