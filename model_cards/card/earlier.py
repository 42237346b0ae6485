"""The README.md that a card replaces: the part that `biovfm card` wrote, and the part of its owner."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from biovfm_hf.cards.stub import STUB_FIELD

from ..inputs.files import read_readme

DERIVED_FIELD = "license_derived"  # the licence that a card derived, to recognise one that somebody stated
END = "<!-- written by biovfm card up to here; text below this line is kept -->"


def written_text(readme: Path) -> str:
    """The text that an earlier `biovfm card` wrote."""
    written, end, _ = read_readme(readme).partition(END)
    return written if end else ""


def kept_text(readme: Path) -> str:
    """The owner's text: below the card's last line, or a README.md that is neither a card nor training's stub."""
    text = read_readme(readme)
    if END in text:
        return text.partition(END)[2].strip("\n")
    if _fields(text).get(STUB_FIELD) is True:
        return ""
    return re.sub(r"\A---\n.*?^---\n", "", text, flags=re.DOTALL | re.MULTILINE).strip("\n")


def earlier_license(readme: Path) -> str | None:
    """The licence id that somebody stated in a README.md's YAML block, or None."""
    fields = _fields(read_readme(readme))
    licence = fields.get("license")
    return licence if isinstance(licence, str) and licence != fields.get(DERIVED_FIELD) else None


def card_license(readme: Path) -> str | None:
    """The licence id in a README.md's YAML block, or None."""
    licence = _fields(read_readme(readme)).get("license")
    return licence if isinstance(licence, str) else None


def _fields(text: str) -> dict[str, Any]:
    """The YAML block of a README.md, empty if it has none that the Hub would read."""
    try:
        return dict(ModelCard(text).data.to_dict()) if text else {}
    except (ValueError, TypeError, KeyError):
        return {}
