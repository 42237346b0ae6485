"""One picture of a quickstart: pictures of its dataset, what the model sees, a segmentation, and what it was worth.

Text is large and the ground dark, so that it reads on a phone and on pages of either colour.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from biovfm_hf.errors import require
from biovfm_hf.reading.documents import read_json
from biovfm_hf.writing.files import atomic_path

from ..front_door import objective_title
from .findings import METRICS, PROBES, Gain, read_gains
from .raw import TASKS_BEGIN, front_of, load_brain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

GROUND, INK, FAINT = "#0d1117", "#f0f3f6", "#8b949e"
COLOURS = {"dino": "#56B4E9", "mae": "#E69F00"}
STRUCTURE_COLOURS = ("#000000", "#D55E00", "#F0E442", "#56B4E9", "#CC79A7")
ROWS, COLUMNS = 2, 7  # of pictures of the dataset
SLICE = 24  # mm in front of TASKS_BEGIN
ZOOM = 2  # as the probe's windows are
SIZE = (10, 13)  # inches
STYLE = {"font.size": 17, "text.color": INK, "axes.titlecolor": INK, "xtick.color": FAINT, "ytick.color": INK}


def draw_overview(out: Path, path: Path) -> None:
    """Draw what a finished quickstart in `out` made, as a PNG of 1400 pixels' width."""
    matplotlib = require("matplotlib", "demo")
    figures = require("matplotlib.figure", "demo")
    with matplotlib.rc_context(STYLE):
        figure = figures.Figure(figsize=SIZE, facecolor=GROUND, layout="constrained")
        built, middle, worth = figure.subfigures(3, 1, height_ratios=(3.3, 5.4, 4.4))
        seen, mask = middle.subfigures(1, 2, width_ratios=(0.85, 1))
        _draw_dataset(built, out / "dataset")
        _draw_tokens(seen, out / "models" / "dino")
        _draw_masks(mask, out)
        _draw_gains(worth, read_gains(out / "results" / "comparisons.json"))
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=140)


def _titled(part: "SubFigure", title: str) -> None:
    part.set_facecolor(GROUND)
    part.suptitle(title, fontsize=20, fontweight="bold", color=INK)


def _show(axes: "Axes", pixels: np.ndarray, title: str = "", interpolation: str = "nearest") -> None:
    axes.imshow(pixels, cmap="gray", interpolation=interpolation)
    axes.set_title(title, fontsize=17)
    axes.set_axis_off()


def _draw_dataset(part: "SubFigure", dataset: Path) -> None:
    """Rows of the dataset, as evenly over its modalities as they go."""
    rows = require("datasets", "demo").load_dataset(str(dataset), "full", split="train")
    modalities = np.array(rows["modality"])
    kinds = sorted(set(modalities))
    _titled(part, f"1  Build: {len(rows)} pictures of {len(kinds)} modalities from raw files")
    for number, axes in enumerate(part.subplots(ROWS, COLUMNS).flat):
        places = np.flatnonzero(modalities == kinds[number % len(kinds)])
        turn = 1 + number // len(kinds)
        _show(axes, np.asarray(rows[int(places[len(places) * turn // (2 + ROWS * COLUMNS // len(kinds))])]["image"]))


def _draw_tokens(part: "SubFigure", model: Path) -> None:
    _titled(part, "2  Pretrain: what it sees")
    brain = load_brain()
    pixels = np.rot90(brain.t1[:, front_of(brain.affine, TASKS_BEGIN + SLICE)])
    rows, columns = (np.flatnonzero((pixels > 0).any(axis)) for axis in (1, 0))
    pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    image = Image.fromarray(np.round(255 * pixels / pixels.max()).astype(np.uint8)).convert("RGB")
    above, below = part.subplots(2, 1)
    _show(above, np.asarray(image), interpolation="bicubic")
    _show(below, _token_colours(model, image), interpolation="bicubic")


def _token_colours(model_dir: Path, image: Image.Image) -> np.ndarray:
    """The first three principal components of a picture's patch tokens as colours (H, W, 3); black is black."""
    import torch
    from transformers import AutoImageProcessor, AutoModel

    model = AutoModel.from_pretrained(model_dir)
    side = model.config.patch_size
    size = {
        name: round(ZOOM * length / side) * side for name, length in (("height", image.height), ("width", image.width))
    }
    with torch.no_grad():
        pixels = AutoImageProcessor.from_pretrained(model_dir)(image, size=size, return_tensors="pt")
        tokens = model(**pixels).last_hidden_state[0, 1:].double().numpy()
    grid = (size["height"] // side, size["width"] // side)
    inside = np.asarray(image.convert("L").resize(grid[::-1], Image.Resampling.BOX)).ravel() > 12
    centred = tokens - tokens[inside].mean(0)
    values = centred @ np.linalg.svd(centred[inside], full_matrices=False)[2][:3].T
    low, high = np.percentile(values[inside], (2, 98), axis=0)
    colours = np.where(inside[:, None], np.clip((values - low) / (high - low), 0, 1), 0).reshape(*grid, 3)
    return np.round(255 * colours).astype(np.uint8)


def _draw_masks(part: "SubFigure", out: Path) -> None:
    """The sample with the most structures: image, truth, and DINOv2's prediction."""
    _titled(part, "3  Probe: frozen features")
    record = next(
        row for row in read_json(out / "results" / "results.json")
        if (row["model"], row["method"]) == ("dino", "segment")
    )  # fmt: skip
    with np.load(out / "results" / record["scores"]) as scores:
        predictions = scores["sample_masks"]
    images = sorted((out / "tasks" / "structure-map" / "test" / "images").iterdir())
    chosen = [images[row] for row in np.linspace(0, len(images) - 1, len(predictions)).round().astype(int)]
    truths = [np.asarray(Image.open(path.parents[1] / "masks" / path.name)) for path in chosen]
    best = max(range(len(chosen)), key=lambda row: np.bincount(truths[row].ravel(), minlength=5)[1:].min())
    palette = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in STRUCTURE_COLOURS], np.uint8)
    image, truth, predicted, legend = part.subplots(2, 2).flat
    _show(image, np.asarray(Image.open(chosen[best])), "image", "bicubic")
    _show(truth, palette[truths[best]], "truth")
    _show(predicted, palette[predictions[best]], "predicted")
    legend.set_axis_off()
    for row, name in enumerate(("cortex", "white matter", "basal ganglia", "ventricle"), start=1):
        legend.text(0.0, 1 - 0.2 * row, f"■ {name}", color=STRUCTURE_COLOURS[row], transform=legend.transAxes)


def _draw_gains(part: "SubFigure", gains: list[Gain]) -> None:
    _titled(part, "4  Compare: better than random weights?")
    axes = part.subplots()
    axes.set_facecolor(GROUND)
    places = [row + (0.5 if gain.model == "mae" else 0) for row, gain in enumerate(gains)]
    for place, gain in zip(places, gains, strict=True):
        colour = COLOURS[gain.model]
        axes.plot((gain.low, gain.high), (place, place), color=colour, linewidth=4)
        axes.plot(gain.points, place, "o", color=colour, markersize=12)
        axes.text(gain.high, place, f"  {gain.figures}", va="center", color=colour, fontsize=16)
    axes.axvline(0, color=FAINT, linewidth=2)
    axes.set_yticks(places, [f"{objective_title(gain.model)}, {PROBES[gain.probe]}" for gain in gains])
    axes.invert_yaxis()
    low, high = min(0, *(gain.low for gain in gains)), max(0, *(gain.high for gain in gains))
    axes.set_xlim(low - 0.05 * (high - low), high + 0.9 * (high - low))
    named = " or ".join(METRICS.values())
    axes.set_xlabel(f"points of {named} above the untrained twin, 95 % intervals", color=FAINT, fontsize=15)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
