"""Noticing at once that there is no network, before huggingface_hub tries again and again."""

import os
import socket
from urllib.parse import urlsplit


def heed_missing_network() -> None:
    """Tell huggingface_hub to stay offline where its host has no address, instead of waiting for many retries."""
    from huggingface_hub import constants

    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return  # the proxy knows the address
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
