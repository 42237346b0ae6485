"""Writes figures as PNG files to a results folder, each with a description in a text file beside it."""

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from biovfm_hf.errors import require
from biovfm_hf.writing.files import atomic_path, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's (2008) colours, which readers with colour blindness can distinguish; for further series, those of
# Tol's (2021, `muted`) colours that differ most from them.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
           "#882255", "#999933", "#332288", "#CC6677", "#117733")  # fmt: skip
MAX_CLASSES_SHOWN = 20
MAX_NAME = 200  # of a file, without suffix; file systems allow 255 bytes, and temporary names are longer


def figure_path(out: Path, *names: str) -> Path:
    """`figures/WORD_WORD.png` in a results folder; words are made safe for file names and shortened if too long."""
    name = "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", word).strip("-") for word in names)
    if len(name) > MAX_NAME:
        name = f"{name[:MAX_NAME]}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
    return out / "figures" / f"{name}.png"


def new_figure(width: float, height: float) -> "Figure":
    """A figure of `width` x `height` inches, independent of any window system.

    Raises:
        UserError: matplotlib is not installed.
    """
    require("matplotlib", "eval")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: "Figure", path: Path, description: str) -> None:
    """Write a figure as PNG and its alternative text beside it."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    write_text(path.with_suffix(".txt"), description + "\n")


def discard(out: Path, *names: str) -> None:
    """Remove the pictures whose names begin with `names`, and their descriptions.

    A name contains only settings that differ within the folder, so another seed or setting renames earlier pictures.
    """
    start = figure_path(out, *names).stem
    for path in (out / "figures").glob(f"{start}*"):
        if path.stem == start or path.stem.startswith(f"{start}_"):
            path.unlink(missing_ok=True)
