"""Which figures of a results folder a model's card shows, and their way into the model folder."""

import re
import shutil
from pathlib import Path

from biovfm_hf.documents import read_text
from biovfm_hf.files import atomic_path

from ..inputs.kinds import figure_files

MAX_PICTURES = 6


def carry_figures(results: Path | None, model_dir: Path, others: set[str], earlier: str) -> list[dict[str, str]]:
    """Copy up to six described figures, two of a kind, from the results folder into the model folder's figures/.

    Figures that show one of the `others` (models) stay behind; those that the `earlier` card shows and this one does
    not are removed.
    """
    foreign = {re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-") for name in others}
    chosen: dict[str, Path] = {}
    kinds: dict[str, int] = {}
    for figure in figure_files(results) if results is not None and results.is_dir() else []:
        kind, _, rest = figure.stem.partition("_")
        fit = figure.with_suffix(".txt").is_file() and re.fullmatch(r"[\w.-]+", figure.name)
        if fit and rest.split("_")[0] not in foreign and kinds.get(kind, 0) < 2 and len(chosen) < MAX_PICTURES:
            kinds[kind] = kinds.get(kind, 0) + 1
            chosen[f"figures/{figure.name}"] = figure
    for old in re.findall(r"\]\((figures/[\w.-]+\.png)\)", earlier):
        if old not in chosen:
            (model_dir / old).unlink(missing_ok=True)
    for path, figure in chosen.items():
        with atomic_path(model_dir / path) as temporary:
            shutil.copyfile(figure, temporary)
    shown = sorted(chosen, key=lambda path: not path.startswith("figures/pca"))  # the first one heads the card
    return [{"path": path, "alt": read_text(chosen[path].with_suffix(".txt"), 2**16)} for path in shown]
