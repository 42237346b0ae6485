"""Pictures of a results folder, each with its words in a text file beside it."""

import hashlib
import re
import textwrap
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biovfm_hf.errors import UserError, require
from biovfm_hf.files import atomic_path, write_text

from .attention import class_attention
from .encoders import Encoder, to_square
from .methods import sample_rows
from .metrics import BINARY, MULTILABEL, predict, read_split
from .results import Record, read_scores
from .table import blocks, unlike
from .tasks import SEGMENTATION, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which readers with colour blindness tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MAX_CURVES = 8
MAX_MATRICES = 4
MAX_NAME = 200  # of a picture's file, without ending; file systems take 255 bytes, and a temporary name is longer
MAX_CLASSES_SHOWN = 20


def figure_path(out: Path, *words: str) -> Path:
    """`figures/WORD_WORD.png` of a results folder, words made safe for file names and cut where they are too long."""
    name = "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", word).strip("-") for word in words)
    if len(name) > MAX_NAME:
        name = f"{name[:MAX_NAME]}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
    return out / "figures" / f"{name}.png"


def new_figure(width: float, height: float) -> "Figure":
    """A figure of `width` x `height` inches that belongs to no window system.

    Raises:
        UserError: matplotlib is not installed.
    """
    require("matplotlib", "eval")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: "Figure", path: Path, words: str) -> None:
    """Write a figure as PNG and its alternative text beside it."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    write_text(path.with_suffix(".txt"), words + "\n")


def draw_all(out: Path, records: list[Record]) -> None:
    """ROC curves and confusion matrices; ranks and few-shot curves where there are several. Earlier ones go."""
    for kind in ("roc", "confusion", "ranks", "rank-against-rank", "fewshot"):
        discard(out, kind)
    for name, group in figure_blocks(records):
        method = group[0]["method"]
        words, title = ((name,), name) if name else ((method, group[0]["protocol"]), method)
        for task, alike in by_task(group).items():
            if alike[0]["kind"] != SEGMENTATION and "thresholds" in alike[0]:
                scored = [(record, read_scores(out, record)) for record in alike]
                said = title + (", not all of the same data" if unlike(alike, "data", "task") else "")
                draw_roc(figure_path(out, "roc", task, *words), task, said, scored)
                draw_confusion(figure_path(out, "confusion", task, *words), task, said, scored)
        draw_ranks(figure_path(out, "ranks", *words), title, group)
    draw_ranks_of_kinds(out, records)
    draw_shots(out, records)


def figure_blocks(records: list[Record]) -> list[tuple[str, list[Record]]]:
    """Records that a picture may set beside each other, as the tables do (`table.blocks`), with what tells them apart.

    That is the block's name, or nothing for the only block of its method and protocol.
    """
    found = blocks(records)
    pairs = [(group[0]["method"], group[0]["protocol"]) for group in found.values()]
    return [("" if pairs.count(pair) == 1 else name, found[name]) for name, pair in zip(found, pairs, strict=True)]


def by_task(records: list[Record]) -> dict[str, list[Record]]:
    """Records by task, in the order of appearance."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record["task"], []).append(record)
    return found


def discard(out: Path, *words: str) -> None:
    """Remove the pictures, with their words, whose names begin with `words`.

    Names tell settings apart only as far as there are others, so that a further seed or setting renames earlier ones.
    """
    start = figure_path(out, *words).stem
    for path in (out / "figures").glob(f"{start}*"):
        if path.stem == start or path.stem.startswith(f"{start}_"):
            path.unlink(missing_ok=True)


def draw_ranks_of_kinds(out: Path, records: list[Record]) -> None:
    """`draw_rank_against_rank` of the linear probes and of the segmentation, of every two settings of these."""
    kinds = [[pair for pair in blocks(records).items() if pair[1][0]["method"] == m] for m in ("linear", "segment")]
    pairs = list(product(*kinds))
    for (linear, classified), (segment, segmented) in pairs:
        words = (linear, segment) if len(pairs) > 1 else ()
        path = figure_path(out, "rank-against-rank", *words)
        draw_rank_against_rank(path, classified, segmented, " and ".join(words))


def draw_shots(out: Path, records: list[Record]) -> None:
    """Few-shot curves of each task, apart for settings that differ in more than the shots."""
    alike = [
        {**record, "method": "fewshot", "settings": {k: v for k, v in record["settings"].items() if k != "shots"},
         "whole": record}
        for record in records if record["method"].startswith("fewshot")
    ]  # fmt: skip
    for name, group in figure_blocks(alike):
        for task, held in by_task(group).items():
            shots = [record["whole"] for record in held]
            if len({record["method"] for record in shots}) > 1:
                title = f"{task}, {name}" if name else task
                draw_few_shot(figure_path(out, "fewshot", task, *([name] if name else [])), title, shots)


def line_look(number: int) -> tuple[str, str]:
    """Colour and line style of a model's curve, different for the first 28."""
    return COLOURS[number % len(COLOURS)], ("-", "--", ":", "-.")[number // len(COLOURS) % 4]


def roc_points(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates of (n,) 0/1 labels, from (0, 0) to (1, 1); NaN where a class is missing."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order])
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    with np.errstate(invalid="ignore", divide="ignore"):
        tpr = hits[last] / hits[-1]
        fpr = (last + 1 - hits[last]) / (len(labels) - hits[-1])
    return np.r_[0.0, fpr], np.r_[0.0, tpr]


def mean_roc(kind: str, labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curve of a binary task, or the vertical mean of the one-against-rest curves of all classes or labels."""
    split = read_split(kind, labels, scores)
    columns = split.columns
    if kind == BINARY:
        return roc_points(columns[:, 0], split.scores[:, 0])
    at = np.linspace(0, 1, 201)
    curves = []
    for k in range(columns.shape[1]):
        if 0 < columns[:, k].sum() < len(columns):
            fpr, tpr = roc_points(columns[:, k], split.scores[:, k])
            curves.append(np.interp(at, fpr, tpr))
    return at, np.mean(curves, axis=0) if curves else np.full(len(at), np.nan)


def draw_roc(path: Path, task: str, method: str, scored: list[tuple[Record, dict[str, np.ndarray]]]) -> None:
    """One ROC curve per model."""
    figure = new_figure(4.6, 4.6)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--")
    told = []
    for number, (record, arrays) in enumerate(scored[:MAX_CURVES]):
        fpr, tpr = mean_roc(record["kind"], arrays["test_labels"], arrays["test_scores"])
        entry = record["metrics"].get("auc")
        area = "AUC undefined" if entry is None else f"AUC {entry['value']:.3f}"
        if isinstance(record["seed"], list):  # the scores beside it are its first seed's
            area += f", mean of {len(record['seed'])} seeds (curve of seed {record['seed'][0]})"
        told.append(f"{record['model']}: {area}")
        colour, line = line_look(number)
        axes.plot(fpr, tpr, label=told[-1], color=colour, linestyle=line, linewidth=1.8)
    axes.set(xlabel="False positive rate", ylabel="True positive rate", xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    kind = scored[0][0]["kind"]
    what = "" if kind == BINARY else f" (mean over {'labels' if kind == MULTILABEL else 'classes'})"
    what += _of_how_many(len(told), len(scored))
    axes.set_title(textwrap.fill(f"{task}, {method}{what}", 56), fontsize=10)
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path, f"ROC curves{what} on the test split of {task}, method {method}. {'; '.join(told)}.")


def confusion(record: Record, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, list[str]]:
    """Counts (K, K), rows the truth, and row names; of a multi-label task (L, 2, 2) are not one matrix: K = 0."""
    split = read_split(record["kind"], arrays["test_labels"], arrays["test_scores"])
    if record["kind"] == MULTILABEL:
        return np.zeros((0, 0), int), []
    decided = predict(split, arrays["thresholds"]).reshape(-1)
    truth = split.labels.reshape(-1)
    size = 2 if record["kind"] == BINARY else split.scores.shape[1]
    counts = np.bincount(truth * size + decided, minlength=size * size).reshape(size, size)
    return counts, [str(name) for name in record.get("classes", range(size))]


def draw_confusion(path: Path, task: str, method: str, scored: list[tuple[Record, dict[str, np.ndarray]]]) -> None:
    """One confusion matrix per model, rows (the truth) as shares; nothing for multi-label or very many classes."""
    pairs = [(_of_seed(record), *confusion(record, arrays)) for record, arrays in scored[:MAX_MATRICES]]
    if not pairs or not 0 < len(pairs[0][1]) <= MAX_CLASSES_SHOWN:
        return
    size = len(pairs[0][1])
    side = max(2.6, 0.42 * size + 1.6)
    figure = new_figure(side * len(pairs) + 0.6, side + 0.5)
    told = []
    for number, (model, counts, names) in enumerate(pairs):
        axes = figure.add_subplot(1, len(pairs), number + 1)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(size, size):
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8 if size < 9 else 6,
                      color="white" if shares[row, column] > 0.55 else "black")  # fmt: skip
        short = [name if len(name) <= 14 else name[:13] + "…" for name in names]
        axes.set_xticks(range(size), short, rotation=45, ha="right", fontsize=7)
        axes.set_yticks(range(size), short if number == 0 else [""] * size, fontsize=7)
        axes.set(xlabel="decided", ylabel="truth" if number == 0 else "")
        axes.set_title(model, fontsize=9)
        told.append(f"{model}: {int(np.trace(counts))} of {int(counts.sum())} right")
    what = _of_how_many(len(told), len(scored))
    figure.suptitle(textwrap.fill(f"{task}, {method}{what}", 56), fontsize=10)
    words = f"Confusion matrices{what} on the test split of {task}, method {method}. {'; '.join(told)}."
    save_figure(figure, path, words)


def _of_how_many(shown: int, models: int) -> str:
    """In words that a picture has room for some models only, nothing where it shows all."""
    return f" (the first {shown} of {models} models)" if shown < models else ""


def _of_seed(record: Record) -> str:
    """The model, of several seeds with the one whose scores are shown."""
    return f"{record['model']}, seed {record['seed'][0]}" if isinstance(record["seed"], list) else record["model"]


def draw_few_shot(path: Path, task: str, records: list[Record]) -> None:
    """The primary metric against the number of training cases per class, with the spread over draws."""
    figure = new_figure(5.2, 3.8)
    axes = figure.add_subplot()
    primary, told = records[0]["primary"], []
    every = sorted({int(record["settings"]["shots"]) for record in records})
    for number, model in enumerate(dict.fromkeys(record["model"] for record in records)):
        mine = sorted((r for r in records if r["model"] == model and primary in r["metrics"]),
                      key=lambda r: r["settings"]["shots"])  # fmt: skip
        shots = [r["settings"]["shots"] for r in mine]
        entries = [r["metrics"][primary] for r in mine]
        values = np.array([entry["value"] for entry in entries])
        colour, line = line_look(number)
        axes.plot(shots, values, marker="o", color=colour, linestyle=line, label=model)
        low, high = (np.array([np.nan if e[end] is None else e[end] for e in entries]) for end in ("low", "high"))
        axes.fill_between(shots, low, high, color=colour, alpha=0.15, linewidth=0)
        told.append(model + ": " + ", ".join(f"{s} shots {v:.3f}" for s, v in zip(shots, values, strict=True)))
    axes.set_xscale("log", base=2)
    axes.set_xticks(every, [str(s) for s in every])
    axes.set(xlabel="training subjects per class", ylabel=primary)
    axes.set_title(textwrap.fill(task, 56), fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path, f"Few-shot {primary} on {task}; bands hold 95 % of the draws. {'; '.join(told)}.")


def principal_colours(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The colours of DINOv2's patch pictures (Oquab et al. 2024, figure 1).

    The first principal component over the patches of all images, cut at zero, tells object from background; the
    first three components of the object's patches alone become red, green and blue, scaled to 0..1.

    Args:
        tokens: (images, h, w, D).

    Returns:
        (colours (images, h, w, 3) in 0..1 with the background black, object (images, h, w) bool).
    """
    flat = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
    first = _components(flat, 1)[:, 0]
    grid = (first > 0).reshape(tokens.shape[:3])
    border = np.concatenate([grid[:, 0], grid[:, -1], grid[:, :, 0], grid[:, :, -1]], axis=1)
    if border.mean() > 0.5:  # the sign of a component is arbitrary; the border of most images is background
        grid = ~grid
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
    count = min(count, len(axes))
    parts = centred @ axes[:count].T
    return np.pad(parts, ((0, 0), (0, max(0, 3 - count) if count < 3 and len(axes) < 3 else 0)))


def draw_patch_colours(out: Path, encoder: Encoder, task: Task) -> None:
    """Test images of a task beside the principal components of their patch tokens; kept if it is there."""
    path = figure_path(out, "pca", encoder.name, task.name)
    split = task.splits["test"]
    rows = sample_rows(len(split.images))
    images = [split.images[int(row)] for row in rows]
    # Four times the usual number of patches where the model takes it, since the picture shows one colour per patch.
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
    figure = new_figure(1.9 * len(rows), 4.1)
    for number, image in enumerate(images):
        for line, shown in enumerate((image, colours[number])):
            axes = figure.add_subplot(2, len(rows), line * len(rows) + number + 1)
            axes.imshow(shown, interpolation="nearest", extent=(0, 1, 0, 1))
            axes.set_axis_off()
    figure.suptitle(
        f"{encoder.name} on {task.name}: patch tokens, principal components 1-3 of the foreground", fontsize=8
    )
    words = (
        f"{len(rows)} test images of {task.name} above, and below them the patch tokens of {encoder.name}: the "
        f"first three principal components of the foreground patches as red, green and blue, background black, "
        f"{tokens.shape[1]}x{tokens.shape[2]} patches each."
    )
    save_figure(figure, path, words)


def draw_masks(out: Path, record: Record, task: Task, name: str = "") -> None:
    """Test images with their true and their predicted masks; `name` tells the record's settings from others."""
    how = name or record["method"]
    split = task.splits["test"]
    predicted = read_scores(out, record)["sample_masks"]
    rows = sample_rows(len(split.images))
    assert split.masks is not None
    classes = max(task.num_outputs - 1, 1)
    figure = new_figure(1.9 * len(rows), 5.9)
    for number, row in enumerate(rows):
        image, truth = split.images[int(row)], split.masks[int(row)]
        for line, mask in enumerate((None, truth, predicted[number])):
            axes = figure.add_subplot(3, len(rows), line * len(rows) + number + 1)
            axes.imshow(image, extent=(0, 1, 0, 1))
            if mask is not None:
                shown: Any = np.ma.masked_equal(mask, 0)
                axes.imshow(shown, cmap="autumn" if classes == 1 else "tab20", vmin=1, vmax=max(classes, 2), alpha=0.7,
                            interpolation="nearest", extent=(0, 1, 0, 1))  # fmt: skip
            axes.set_axis_off()
    entry = record["metrics"].get("dice")
    score = "undefined" if entry is None else f"{entry['value']:.3f}"
    figure.suptitle(f"{record['model']} on {task.name}, {how}: image, truth, prediction (Dice {score})", fontsize=8)
    words = (
        f"{len(rows)} test images of {task.name}: image, true mask and mask predicted by {record['model']} "
        f"({how}), mean Dice {score}."
    )
    save_figure(figure, figure_path(out, "masks", record["model"], task.name, how), words)


MAX_POINTS = 2000


def draw_embedding(out: Path, record: Record, features: np.ndarray, labels: np.ndarray, classes: list[str]) -> None:
    """A t-SNE map (van der Maaten and Hinton 2008) of at most `MAX_POINTS` test cases, coloured by class.

    Args:
        out: the results folder.
        record: says the model, task and method.
        features: (N, D).
        labels: (N,) class numbers.
        classes: names in label order.
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
        mine = labels[rows] == number
        colour = COLOURS[number % len(COLOURS)]
        mark = marks[number // len(COLOURS) % len(marks)]
        axes.scatter(places[mine, 0], places[mine, 1], s=8, color=colour, marker=mark, linewidths=0, label=name[:24])
    axes.set(xticks=[], yticks=[])
    axes.set_title(f"{record['model']} on {record['task']}: t-SNE of {len(rows)} test cases", fontsize=9)
    axes.legend(fontsize=6, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)
    words = (
        f"t-SNE map of the features of {record['model']} for {len(rows)} test cases of {record['task']}, coloured by "
        f"class: {', '.join(classes)}."
    )
    save_figure(figure, figure_path(out, "tsne", record["model"], record["task"]), words)


def draw_attention(out: Path, encoder: Encoder, task: Task) -> None:
    """Test images of a task beside where the class token looks in the last block."""
    split = task.splits["test"]
    rows = sample_rows(len(split.images))
    images = [split.images[int(row)] for row in rows]
    maps = class_attention(encoder, images)
    if maps is None:
        return
    figure = new_figure(1.9 * len(rows), 4.1)
    for number, (image, held) in enumerate(zip(images, maps, strict=True)):
        for line, (shown, colours) in enumerate(((image, None), (held, "magma"))):
            axes = figure.add_subplot(2, len(rows), line * len(rows) + number + 1)
            axes.imshow(shown, cmap=colours, interpolation="nearest", extent=(0, 1, 0, 1))
            axes.set_axis_off()
    figure.suptitle(f"{encoder.name} on {task.name}: attention of the class token, last block", fontsize=8)
    words = (
        f"{len(rows)} test images of {task.name} above; below, the attention of the class token of {encoder.name} to "
        f"each of {maps.shape[1]}x{maps.shape[2]} patches in the last block, mean over heads, bright where it is high."
    )
    save_figure(figure, figure_path(out, "attention", encoder.name, task.name), words)


def rank_table(records: list[Record]) -> tuple[list[str], np.ndarray]:
    """Models and their primary metric on every task that all of them have, (tasks, models).

    Without models of several weights, and tasks of several data.
    """
    mixed = {("model", name) for name in unlike(records, "revision", "model")}
    mixed |= {("task", name) for name in unlike(records, "data", "task")}
    records = [record for record in records if not {("model", record["model"]), ("task", record["task"])} & mixed]
    models = list(dict.fromkeys(record["model"] for record in records))
    values: dict[str, dict[str, float]] = {}
    for record in records:
        entry = record["metrics"].get(record["primary"])
        if entry is not None:
            values.setdefault(record["task"], {})[record["model"]] = entry["value"]
    whole = [[held[model] for model in models] for held in values.values() if set(models) <= set(held)]
    return models, np.array(whole).reshape(len(whole), len(models))


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Average rank over tasks (models,) of scores (tasks, models), 1 is the highest; equal scores share ranks."""
    above = (values[:, None, :] > values[:, :, None]).sum(2)
    equal = (values[:, None, :] == values[:, :, None]).sum(2)
    return (above + (equal + 1) / 2).mean(0)


def draw_ranks(path: Path, method: str, records: list[Record]) -> None:
    """Average ranks over tasks with Nemenyi's critical difference (Demsar 2006), for two tasks and models or more."""
    from .compare import rank_models

    models, values = rank_table(records)
    if min(values.shape) < 2:
        return
    found = rank_models(values)
    order = np.argsort(found.ranks, kind="stable")
    figure = new_figure(6.2, 1.2 + 0.32 * len(models) + 0.16 * len(found.groups))
    axes = figure.add_subplot()
    for line, number in enumerate(order):
        axes.plot([found.ranks[number]] * 2, [0, -line - 1], color="0.6", linewidth=0.8)
        axes.plot(found.ranks[number], 0, "o", color=COLOURS[0], markersize=5)
        axes.text(
            found.ranks[number], -line - 1, f" {models[number]} ({found.ranks[number]:.2f})", va="center", fontsize=8
        )
    for line, group in enumerate(found.groups):
        ends = [found.ranks[group[0]], found.ranks[group[-1]]]
        axes.plot(ends, [0.45 + 0.3 * line] * 2, color=COLOURS[1], linewidth=3, solid_capstyle="butt")
    top = 0.8 + 0.3 * len(found.groups)
    reach = [1.0, 1.0 + min(found.critical_difference, len(models) - 1.0)]
    axes.plot(reach, [top] * 2, color="0.2", linewidth=1.2, marker="|", markersize=7)
    beyond = " (and beyond)" if found.critical_difference > len(models) - 1 else ""
    axes.text(reach[0], top + 0.15, f"critical difference{beyond}", fontsize=7, va="bottom")
    axes.set(ylim=(-len(models) - 0.8, top + 0.9), xlim=(0.9, len(models) + 0.6), yticks=[])
    axes.set_xticks(range(1, len(models) + 1))
    axes.xaxis.tick_top()
    axes.spines[["left", "right", "bottom"]].set_visible(False)
    p = "< 0.001" if found.friedman_p < 0.001 else f"{found.friedman_p:.3f}"
    difference = f"critical difference {found.critical_difference:.2f}, Friedman p {p}"
    axes.set_title(textwrap.fill(f"{method}: average rank over {len(values)} tasks ({difference})", 84), fontsize=8)
    told = ", ".join(f"{models[number]} {found.ranks[number]:.2f}" for number in order)
    words = (
        f"Average ranks over {len(values)} tasks, method {method}, best first: {told}; {difference}. Bars join models "
    )
    save_figure(figure, path, words + "that cannot be told apart.")


def draw_rank_against_rank(path: Path, classified: list[Record], segmented: list[Record], what: str = "") -> None:
    """Average rank over segmentation tasks against that over classification tasks (linear probes), per model.

    As in the DINOv2 radiology study; drawn where two models or more have both. `what` names the records' settings.
    """
    ranks: dict[bool, dict[str, float]] = {}
    for segmentation, records in ((True, segmented), (False, classified)):
        models, values = rank_table(records)
        if min(values.shape) < 1 or len(models) < 2:
            return
        ranks[segmentation] = dict(zip(models, average_ranks(values), strict=True))
    both = [model for model in ranks[True] if model in ranks[False]]
    if len(both) < 2:
        return
    figure = new_figure(4.4, 4.2)
    axes = figure.add_subplot()
    for number, model in enumerate(both):
        axes.plot(ranks[False][model], ranks[True][model], "o", color=COLOURS[number % len(COLOURS)], markersize=8)
        axes.annotate(
            model, (ranks[False][model], ranks[True][model]), xytext=(6, 4), textcoords="offset points", fontsize=8
        )
    top = len(both) + 0.5
    axes.plot([0.5, top], [0.5, top], color="0.8", linewidth=1, linestyle="--", zorder=0)
    axes.set(xlim=(top, 0.5), ylim=(top, 0.5), aspect="equal")
    axes.set(xlabel="average rank, classification (linear)", ylabel="average rank, segmentation")
    axes.set_title(textwrap.fill(what, 60), fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    told = "; ".join(f"{m}: classification {ranks[False][m]:.2f}, segmentation {ranks[True][m]:.2f}" for m in both)
    how = f" of {what}" if what else ""
    save_figure(figure, path, f"Average ranks of the models{how}, best at the upper right. {told}.")
