"""The figures of results folders, with captions in words."""

from pathlib import Path

from biovfm_hf.reading.documents import read_text

from ..inputs.figures import FIGURES, PrivateFigures, figure_files, kind_word
from .material import Material
from .pictures import Picture

MAX_FIGURES = 40


def figures(folders: list[Path], material: Material) -> list[Picture]:
    """The folders' figures (see `figure_files`); the .txt beside each describes it.

    The store's `left_out` names those beyond MAX_FIGURES, and those with test images of private tasks.
    """
    shown = []
    for folder in folders:
        files = figure_files(folder)
        private = PrivateFigures.of(folder)
        material.store.left_out += [f"{file.name}: in the folder {file.parent.name}" for file in files[MAX_FIGURES:]]
        for file in files[:MAX_FIGURES]:
            if not material.withholds(private.tasks_shown(file), file.name):
                shown.append(_picture(file, material))
    return [picture for picture in shown if picture]


def _picture(file: Path, material: Material) -> Picture | None:
    text = file.with_suffix(".txt")
    caption = caption_of(file.stem)
    alt = " ".join(read_text(text, 2**16).split()) if text.is_file() else caption
    kind = FIGURES.get(kind_word(file))
    is_chart = kind is not None and not kind.shows_images
    return material.store.add(file, alt, 1600, caption=caption, drawn=True, is_chart=is_chart)


def caption_of(stem: str) -> str:
    """A caption of a figure, with the words of its file name: `Share of cases found ...: busi, linear`."""
    kind, *parts = stem.split("_")
    rest = ", ".join(parts)
    if kind not in FIGURES:
        return stem.replace("_", " ")
    return f"{FIGURES[kind].caption}: {rest}" if rest else FIGURES[kind].caption
