"""Keyed hashes that replace names which may identify a person, and the suffixes that stay readable."""

import hashlib
from collections.abc import Iterable


def keyed_hash(name: str, key: bytes, size: int) -> str:
    """The keyed BLAKE2b hash of a name: `size` bytes as hex digits. Without the key nobody can test a guess."""
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), key=key, digest_size=size).hexdigest()


def longest_suffix(name: str, suffixes: Iterable[str]) -> str:
    """The longest of the lower-case `suffixes` with which a name ends, ignoring case; empty if there is none."""
    return max((suffix for suffix in suffixes if name.lower().endswith(suffix)), key=len, default="")
