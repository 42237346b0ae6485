"""Untrusted text in Markdown, escaped."""

import re
from urllib.parse import quote, urlsplit

_MARKUP = re.compile(r"([\\`*_\[\]|~#])")
MAX_CHARACTERS = 200


def plain(value: object, most: int = MAX_CHARACTERS) -> str:
    """`value` as one line of text, at most `most` characters, with markup and HTML escaped."""
    text = " ".join(str(value).split())
    text = text if len(text) <= most else text[: most - 1] + "…"
    text = _MARKUP.sub(r"\\\1", text).replace("](", "]\\(")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def link(text: object, address: object) -> str:
    """A link named `text`; the text alone if `address` is not a web page (`http` or `https`)."""
    target = "".join(str(address or "").split())
    try:
        parts = urlsplit(target)
    except ValueError:
        return plain(text)
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        return plain(text)
    return f"[{plain(text)}]({quote(target, safe=':/?#@!$&*+,;=%~.-_')})"
