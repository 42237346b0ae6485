"""The README.md that a card takes the place of: what `biovfm card` wrote in it, and what somebody else did."""

import re
from pathlib import Path

from ..inputs.files import read_readme

END = "<!-- written by biovfm card up to here; text below this line is kept -->"
STUB = "Not evaluated yet; `biovfm card` writes"  # of the few lines that a training run leaves


def written_text(readme: Path) -> str:
    """What an earlier `biovfm card` wrote."""
    written, end, _ = read_readme(readme).partition(END)
    return written if end else ""


def kept_text(readme: Path) -> str:
    """What somebody wrote: below the card's last line, or a README.md that is neither card nor training's stub."""
    text = read_readme(readme)
    if END in text:
        return text.partition(END)[2].strip("\n")
    if STUB in text:
        return ""
    return re.sub(r"\A---\n.*?^---\n", "", text, flags=re.DOTALL | re.MULTILINE).strip("\n")


def earlier_license(readme: Path) -> str | None:
    """The licence id that a README.md states in its YAML block, None where it states none."""
    from huggingface_hub import ModelCard

    if not readme.is_file():
        return None
    try:
        stated = ModelCard(read_readme(readme)).data.get("license")
    except (ValueError, TypeError, KeyError):
        return None
    return stated if isinstance(stated, str) else None
