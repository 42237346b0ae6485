"""Pictures of a model's view of images: colours of its patches, its attention, a map of its features, its masks."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biovfm_hf.errors import UserError, require
from biovfm_hf.results.record import Record

from ..encoders.attention import class_attention
from ..encoders.encoder import Encoder, to_square
from ..results.records import read_scores
from ..tasks import Task
from ..tasks.samples import sample_rows
from .figure import COLOURS, MAX_CLASSES_SHOWN, figure_path, new_figure, save_figure
from .masks import mask_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_POINTS = 2000  # most points of a t-SNE map
MOST_BORDER = 0.25  # share of the border's patches that an object may cover


def principal_colours(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The colours of DINOv2's patch pictures (Oquab et al. 2024, figure 1).

    The first principal component over the patches of all images, cut at zero, separates object from background. The
    first three components of the object's patches become red, green and blue, scaled to 0..1. If over a quarter of the
    patches at the images' borders are on either side of the cut, as in crops of tissue, no background surrounds an
    object, and all patches count as object.

    Args:
        tokens: (images, h, w, D) patch tokens.

    Returns:
        Colours (images, h, w, 3) in 0..1 with a black background, and the object mask (images, h, w) bool.
    """
    flat = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
    first = _components(flat, 1)[:, 0]
    grid = (first > 0).reshape(tokens.shape[:3])
    border = np.concatenate([grid[:, 0], grid[:, -1], grid[:, :, 0], grid[:, :, -1]], axis=1)
    if border.mean() > 0.5:  # the sign of a component is arbitrary; the border of most images is background
        grid, border = ~grid, ~border
    if border.mean() > MOST_BORDER:
        grid = np.ones_like(grid)
    chosen = grid.reshape(-1)
    colours = np.zeros((len(flat), 3))
    if chosen.sum() > 3:
        parts = _components(flat[chosen], 3)
        low, high = np.percentile(parts, [2, 98], axis=0)
        colours[chosen] = np.clip((parts - low) / np.maximum(high - low, 1e-12), 0, 1)
    return colours.reshape(*tokens.shape[:3], 3), grid


def _components(values: np.ndarray, count: int) -> np.ndarray:
    centred = values - values.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    parts = centred @ axes[:count].T
    return np.pad(parts, ((0, 0), (0, count - parts.shape[1])))


def _sample_images(task: Task) -> list[np.ndarray]:
    """The test images that pictures show."""
    images = task.splits["test"].images
    return [images[int(row)] for row in sample_rows(len(images))]


def _two_rows(images: list[np.ndarray], below: np.ndarray, title: str, colours: str | None = None) -> "Figure":
    """A figure of images, each above the model's picture of it; `colours` is the colour map for single numbers."""
    figure = new_figure(1.9 * len(images), 4.1)
    for number, column in enumerate(zip(images, below, strict=True)):
        for line, shown in enumerate(column):
            axes = figure.add_subplot(2, len(images), line * len(images) + number + 1)
            axes.imshow(shown, cmap=colours if line else None, interpolation="nearest", extent=(0, 1, 0, 1))
            axes.set_axis_off()
    figure.suptitle(title, fontsize=8)
    return figure


def draw_patch_colours(out: Path, encoder: Encoder, task: Task) -> None:
    """Draw test images of a task above the principal components of their patch tokens; an existing picture is kept."""
    path = figure_path(out, "pca", encoder.name, task.name)
    images = _sample_images(task)
    # Four times the usual number of patches if the model allows it, because the picture has one colour per patch.
    tokens = None
    for size in (2 * encoder.size, encoder.size):
        try:
            tokens = encoder.encode(to_square(images, size, encoder.mean, encoder.std)).patches().cpu().numpy()
            break
        except (RuntimeError, ValueError):  # position embeddings that do not interpolate
            continue
    if tokens is None:
        raise UserError(f"model {encoder.name}: no picture of its patches, since it takes no square image")
    colours, _ = principal_colours(tokens)
    title = f"{encoder.name} on {task.name}: patch tokens, principal components 1-3 of the foreground"
    description = (
        f"{len(images)} test images of {task.name} above, and below them the patch tokens of {encoder.name}: the "
        f"first three principal components of the foreground patches as red, green and blue, background black, "
        f"{tokens.shape[1]}x{tokens.shape[2]} patches each."
    )
    save_figure(_two_rows(images, colours, title), path, description)


def draw_masks(out: Path, record: Record, task: Task, name: str = "") -> None:
    """Draw test images with true and predicted masks; `name` distinguishes the record's settings from others."""
    how = name or record.method
    split = task.splits["test"]
    predicted = read_scores(out, record)["sample_masks"]
    rows = sample_rows(len(split.images))
    assert split.masks is not None
    entry = record.metrics.get("dice")
    score = "undefined" if entry is None else f"{entry['value']:.3f}"
    title = f"{record.model} on {task.name}, {how}: image, truth, prediction (Dice {score})"
    images, truths = ([of_split[int(row)] for row in rows] for of_split in (split.images, split.masks))
    figure = mask_figure(images, truths, {how: predicted}, task.num_outputs, title)
    description = (
        f"{len(rows)} test images of {task.name}: image, true mask and mask predicted by {record.model} "
        f"({how}), mean Dice {score}."
    )
    save_figure(figure, figure_path(out, "masks", record.model, task.name, how), description)


def draw_boxes(out: Path, record: Record, task: Task, name: str = "") -> None:
    """Draw test images with true (dashed) and detected boxes; `name` distinguishes the record's settings."""
    how = name or record.method
    arrays, images = read_scores(out, record), task.splits["test"].images
    rows = sample_rows(len(images))
    figure = new_figure(3.4 * len(rows), 3.2)
    for number, row in enumerate(rows):
        axes = figure.add_subplot(1, len(rows), number + 1)
        axes.imshow(images[int(row)])
        axes.set_axis_off()
        truth = arrays["test_truth"][arrays["test_truth"][:, 0] == row]
        detections = _shown(arrays["test_detections"][arrays["test_detections"][:, 0] == row], truth)
        _draw_rectangles(axes, truth, "--", 0.8)
        _draw_rectangles(axes, detections, "-", 1.4)
        axes.set_title(f"{len(truth)} true, {len(detections)} shown", fontsize=7)
    for label, title in enumerate(task.record.classes):
        figure.text(0.02 + 0.96 * label / max(task.num_outputs, 4), 0.01, title, fontsize=8,
                    color=COLOURS[label % len(COLOURS)])  # fmt: skip
    entry = record.metrics.get("AP50")
    score = "undefined" if entry is None else f"{entry['value']:.3f}"
    figure.suptitle(f"{record.model} on {task.name}, {how}: dashed true, solid detected (AP50 {score})", fontsize=8)
    description = (
        f"{len(rows)} test images of {task.name} with their true boxes (dashed) and the boxes that {record.model} "
        f"({how}) detects with the highest scores, as many as there are true ones; AP50 {score}."
    )
    save_figure(figure, figure_path(out, "boxes", record.model, task.name, how), description)


def _shown(detections: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The detections of each class with the highest scores, as many as there are true boxes."""
    kept = [np.zeros((0, 7))]
    for label in np.unique(truth[:, 1]):
        of_class = detections[detections[:, 1] == label]
        kept.append(of_class[np.argsort(-of_class[:, 6], kind="stable")][: int((truth[:, 1] == label).sum())])
    return np.concatenate(kept)


def _draw_rectangles(axes: Any, rows: np.ndarray, line: str, width: float) -> None:
    from matplotlib.patches import Rectangle

    for _, label, x, y, across, down, *_ in rows:
        colour = COLOURS[int(label) % len(COLOURS)]
        axes.add_patch(Rectangle((x, y), across, down, fill=False, linestyle=line, linewidth=width, edgecolor=colour))


def draw_embedding(out: Path, record: Record, features: np.ndarray, labels: np.ndarray, classes: list[str]) -> None:
    """A t-SNE map (van der Maaten and Hinton 2008) of at most `MAX_POINTS` test cases, coloured by class.

    Args:
        out: the results folder.
        record: record that names the model, task and method.
        features: (N, D) features of the test cases.
        labels: (N,) class indices.
        classes: class names, by index.
    """
    manifold = require("sklearn.manifold", "eval")
    rows = np.unique(np.linspace(0, len(features) - 1, min(MAX_POINTS, len(features))).round().astype(int))
    if len(rows) < 10:
        return
    centred = features[rows] - features[rows].mean(0)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    places = manifold.TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(centred)
    figure = new_figure(5.2, 4.2)
    axes = figure.add_subplot()
    marks = "osv^DP*X"
    for number, name in enumerate(classes[:MAX_CLASSES_SHOWN]):
        members = labels[rows] == number
        colour = COLOURS[number % len(COLOURS)]
        mark = marks[number // len(COLOURS) % len(marks)]
        axes.scatter(
            places[members, 0], places[members, 1], s=8, color=colour, marker=mark, linewidths=0, label=name[:24]
        )
    axes.set(xticks=[], yticks=[])
    axes.set_title(f"{record.model} on {record.task}: t-SNE of {len(rows)} test cases", fontsize=9)
    axes.legend(fontsize=6, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)
    description = (
        f"t-SNE map of the features of {record.model} for {len(rows)} test cases of {record.task}, coloured by "
        f"class: {', '.join(classes)}."
    )
    save_figure(figure, figure_path(out, "tsne", record.model, record.task), description)


def draw_attention(out: Path, encoder: Encoder, task: Task) -> None:
    """Draw test images of a task above the attention of the class token in the last block."""
    images = _sample_images(task)
    maps = class_attention(encoder, images)
    if maps is None:
        return
    title = f"{encoder.name} on {task.name}: attention of the class token, last block"
    description = (
        f"{len(images)} test images of {task.name} above; below, the attention of the class token of {encoder.name} "
        f"to each of {maps.shape[1]}x{maps.shape[2]} patches in the last block, mean over heads, bright where it is "
        "high."
    )
    figure = _two_rows(images, maps, title, "magma")
    save_figure(figure, figure_path(out, "attention", encoder.name, task.name), description)
