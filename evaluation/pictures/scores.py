"""Pictures of scores: ROC curves, confusion matrices, few-shot curves, ranks."""

import textwrap
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from biovfm_hf.results.record import Record
from biovfm_hf.results.significance import mean_ranks, p_text

from ..results.records import read_scores, stored_split
from ..results.table import blocks, positives, unlike
from ..statistics.counts import predict
from ..statistics.kinds import BINARY, MULTILABEL, SEGMENTATION
from ..statistics.significance import rank_models
from ..statistics.split import checked_split
from .figure import COLOURS, MAX_CLASSES_SHOWN, discard, figure_path, new_figure, save_figure
from .ranks import rank_plane

MAX_CURVES = 8
MAX_MATRICES = 4


def draw_all(out: Path, records: list[Record]) -> None:
    """Draw ROC curves and confusion matrices, ranks and few-shot curves if possible. Removes earlier pictures."""
    discard_all(out)
    for name, group in figure_blocks(records):
        method = group[0].method
        names, title = ((name,), name) if name else ((method, group[0].protocol), method)
        for task, alike in by_task(group).items():
            if alike[0].kind != SEGMENTATION and alike[0].thresholds is not None:
                scored = [(record, read_scores(out, record)) for record in alike]
                heading = title + (", not all of the same data" if unlike(alike, "data", "task") else "")
                draw_roc(figure_path(out, "roc", task, *names), task, heading, scored)
                draw_confusion(figure_path(out, "confusion", task, *names), task, heading, scored)
        draw_ranks(figure_path(out, "ranks", *names), title, group)
    draw_ranks_of_kinds(out, records)
    draw_shots(out, records)


def discard_all(out: Path) -> None:
    """Remove the pictures that `draw_all` draws: they do not fit other records."""
    for kind in ("roc", "confusion", "ranks", "rank-against-rank", "fewshot"):
        discard(out, kind)


def figure_blocks(
    records: list[Record], seen_as: Callable[[Record], Record] = lambda record: record
) -> list[tuple[str, list[Record]]]:
    """Groups of records that one picture may compare, as in the tables (`table.blocks`), each with a heading.

    The heading is the block's name, empty for the only block of its method and protocol.
    """
    groups = blocks(records, seen_as)
    pairs = [(seen_as(group[0]).method, group[0].protocol) for group in groups.values()]
    return [("" if pairs.count(pair) == 1 else name, groups[name]) for name, pair in zip(groups, pairs, strict=True)]


def by_task(records: list[Record]) -> dict[str, list[Record]]:
    """Records by task, in order of appearance."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.task, []).append(record)
    return groups


def draw_ranks_of_kinds(out: Path, records: list[Record]) -> None:
    """Draw `draw_rank_against_rank` for every pair of settings of linear probes and segmentation."""
    kinds = [[pair for pair in blocks(records).items() if pair[1][0].method == m] for m in ("linear", "segment")]
    pairs = list(product(*kinds))
    for (linear, classified), (segment, segmented) in pairs:
        names = (linear, segment) if len(pairs) > 1 else ()
        path = figure_path(out, "rank-against-rank", *names)
        draw_rank_against_rank(path, classified, segmented, " and ".join(names))


def draw_shots(out: Path, records: list[Record]) -> None:
    """Draw few-shot curves of each task, one picture per group of settings that differ only in the shots."""
    few = [record for record in records if record.few_shot]
    for name, group in figure_blocks(few, _without_shots):
        for task, of_task in by_task(group).items():
            if len({record.method for record in of_task}) > 1:
                title = f"{task}, {name}" if name else task
                draw_few_shot(figure_path(out, "fewshot", task, *([name] if name else [])), title, of_task)


def _without_shots(record: Record) -> Record:
    """The record as those of other shots have it, too: `fewshot-4` becomes `fewshot`."""
    return replace(record.without("shots"), method=record.method.partition("-")[0])


def line_look(number: int) -> tuple[str, str]:
    """Colour and line style of a model's curve; the first 48 are different."""
    return COLOURS[number % len(COLOURS)], ("-", "--", ":", "-.")[number // len(COLOURS) % 4]


def roc_points(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates of (n,) 0/1 labels, from (0, 0) to (1, 1); NaN if a class is missing."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order])
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    with np.errstate(invalid="ignore", divide="ignore"):
        tpr = hits[last] / hits[-1]
        fpr = (last + 1 - hits[last]) / (len(labels) - hits[-1])
    return np.r_[0.0, fpr], np.r_[0.0, tpr]


def mean_roc(kind: str, labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ROC curve of a binary task; otherwise the vertical mean of the one-vs-rest curves of classes or labels."""
    split = checked_split(kind, labels, scores)
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
    areas = []
    for number, (record, arrays) in enumerate(scored[:MAX_CURVES]):
        fpr, tpr = mean_roc(record.kind, arrays["test_labels"], arrays["test_scores"])
        entry = record.metrics.get("auc")
        area = "AUC undefined" if entry is None else f"AUC {entry['value']:.3f}"
        if record.joined:  # its stored scores are the first seed's
            area += f", mean of {len(record.joined)} seeds (curve of seed {record.seed})"
        areas.append(f"{record.model}: {area}")
        colour, line = line_look(number)
        axes.plot(fpr, tpr, label=areas[-1], color=colour, linestyle=line, linewidth=1.8)
    axes.set(xlabel="False positive rate", ylabel="True positive rate", xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    kind = scored[0][0].kind
    records = [record for record, _ in scored]
    what = _of_positive(records) if kind == BINARY else f" (mean over {'labels' if kind == MULTILABEL else 'classes'})"
    what += _of_how_many(len(areas), len(scored))
    axes.set_title(textwrap.fill(f"{task}, {method}{what}", 56), fontsize=10)
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path, f"ROC curves{what} on the test split of {task}, method {method}. {'; '.join(areas)}.")


def confusion(record: Record, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, list[str]]:
    """Counts (K, K), rows are the truth, and row names; K = 0 for multi-label tasks, which have no single matrix."""
    split = stored_split(record, arrays)
    if record.kind == MULTILABEL:
        return np.zeros((0, 0), int), []
    decided = predict(split).reshape(-1)
    truth = split.labels.reshape(-1)
    size = 2 if record.kind == BINARY else split.scores.shape[1]
    counts = np.bincount(truth * size + decided, minlength=size * size).reshape(size, size)
    return counts, [str(name) for name in record.classes or range(size)]


def draw_confusion(path: Path, task: str, method: str, scored: list[tuple[Record, dict[str, np.ndarray]]]) -> None:
    """Draw one confusion matrix per model, each row as shares; nothing for multi-label or very many classes."""
    pairs = [(_of_seed(record), *confusion(record, arrays)) for record, arrays in scored[:MAX_MATRICES]]
    if not pairs or not 0 < len(pairs[0][1]) <= MAX_CLASSES_SHOWN:
        return
    size = len(pairs[0][1])
    side = max(2.6, 0.42 * size + 1.6)
    figure = new_figure(side * len(pairs) + 0.6, side + 0.5)
    counts_right = []
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
        counts_right.append(f"{model}: {int(np.trace(counts))} of {int(counts.sum())} right")
    what = _of_positive([record for record, _ in scored]) + _of_how_many(len(counts_right), len(scored))
    figure.suptitle(textwrap.fill(f"{task}, {method}{what}", 56), fontsize=10)
    description = f"Confusion matrices{what} on the test split of {task}, method {method}. {'; '.join(counts_right)}."
    save_figure(figure, path, description)


def _of_positive(records: list[Record]) -> str:
    """A phrase that names the positive class of a binary task; empty for other kinds."""
    names = positives(records)
    return f" (positive: {' or '.join(names)})" if names else ""


def _of_how_many(shown: int, models: int) -> str:
    """A phrase saying that a picture shows only some of the models; empty if it shows all."""
    return f" (the first {shown} of {models} models)" if shown < models else ""


def _of_seed(record: Record) -> str:
    """The model's name; with several seeds, also the seed whose scores are shown."""
    return f"{record.model}, seed {record.seed}" if record.joined else record.model


def draw_few_shot(path: Path, task: str, records: list[Record]) -> None:
    """The primary metric against the number of training cases per class, with the spread over draws."""
    figure = new_figure(5.2, 3.8)
    axes = figure.add_subplot()
    primary, lines = records[0].primary, []
    every = sorted({int(record.setting("shots")) for record in records})
    for number, model in enumerate(dict.fromkeys(record.model for record in records)):
        own_records = sorted((r for r in records if r.model == model and primary in r.metrics),
                      key=lambda r: r.setting("shots"))  # fmt: skip
        shots = [r.setting("shots") for r in own_records]
        entries = [r.metrics[primary] for r in own_records]
        values = np.array([entry["value"] for entry in entries])
        colour, line = line_look(number)
        axes.plot(shots, values, marker="o", color=colour, linestyle=line, label=model)
        low, high = (np.array([np.nan if e[end] is None else e[end] for e in entries]) for end in ("low", "high"))
        axes.fill_between(shots, low, high, color=colour, alpha=0.15, linewidth=0)
        lines.append(model + ": " + ", ".join(f"{s} shots {v:.3f}" for s, v in zip(shots, values, strict=True)))
    axes.set_xscale("log", base=2)
    axes.set_xticks(every, [str(s) for s in every])
    axes.set(xlabel="training subjects per class", ylabel=primary)
    axes.set_title(textwrap.fill(task, 56), fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path, f"Few-shot {primary} on {task}; bands hold 95 % of the draws. {'; '.join(lines)}.")


def rank_table(records: list[Record]) -> tuple[list[str], np.ndarray]:
    """Models and their primary metric (tasks, models) on every task that all models have; distances are negated.

    Models with several sets of weights and tasks with several versions of their data are left out.
    """
    mixed = {("model", name) for name in unlike(records, "revision", "model")}
    mixed |= {("task", name) for name in unlike(records, "data", "task")}
    records = [record for record in records if not {("model", record.model), ("task", record.task)} & mixed]
    models = list(dict.fromkeys(record.model for record in records))
    values: dict[str, dict[str, float]] = {}
    for record in records:
        entry = record.metrics.get(record.primary)
        if entry is not None:
            sign = -1 if record.primary in (record.lower_is_better or ()) else 1
            values.setdefault(record.task, {})[record.model] = sign * entry["value"]
    whole = [[scores_of[model] for model in models] for scores_of in values.values() if set(models) <= set(scores_of)]
    return models, np.array(whole).reshape(len(whole), len(models))


def draw_ranks(path: Path, method: str, records: list[Record]) -> None:
    """Draw average ranks over tasks with Nemenyi's critical difference (Demsar 2006), for at least two of each."""
    models, values = rank_table(records)
    if min(values.shape) < 2:
        return
    ranking = rank_models(values)
    order = np.argsort(ranking.ranks, kind="stable")
    figure = new_figure(6.2, 1.2 + 0.32 * len(models) + 0.16 * len(ranking.groups))
    axes = figure.add_subplot()
    for line, number in enumerate(order):
        axes.plot([ranking.ranks[number]] * 2, [0, -line - 1], color="0.6", linewidth=0.8)
        axes.plot(ranking.ranks[number], 0, "o", color=COLOURS[0], markersize=5)
        axes.text(
            *(ranking.ranks[number], -line - 1, f" {models[number]} ({ranking.ranks[number]:.2f})"),
            va="center",
            fontsize=8,
            bbox={"facecolor": "white", "linewidth": 0, "pad": 0},  # lines of close ranks would cross the name
        )
    for line, group in enumerate(ranking.groups):
        ends = [ranking.ranks[group[0]], ranking.ranks[group[-1]]]
        axes.plot(ends, [0.45 + 0.3 * line] * 2, color=COLOURS[1], linewidth=3, solid_capstyle="butt")
    top = 0.8 + 0.3 * len(ranking.groups)
    reach = [1.0, 1.0 + min(ranking.critical_difference, len(models) - 1.0)]
    axes.plot(reach, [top] * 2, color="0.2", linewidth=1.2, marker="|", markersize=7)
    beyond = " (and beyond)" if ranking.critical_difference > len(models) - 1 else ""
    axes.text(reach[0], top + 0.15, f"critical difference{beyond}", fontsize=7, va="bottom")
    axes.set(ylim=(-len(models) - 0.8, top + 0.9), xlim=(0.9, len(models) + 0.6), yticks=[])
    axes.set_xticks(range(1, len(models) + 1))
    axes.xaxis.tick_top()
    axes.spines[["left", "right", "bottom"]].set_visible(False)
    difference = f"critical difference {ranking.critical_difference:.2f}, Friedman p {p_text(ranking.friedman_p)}"
    axes.set_title(textwrap.fill(f"{method}: average rank over {len(values)} tasks ({difference})", 84), fontsize=8)
    ranks_text = ", ".join(f"{models[number]} {ranking.ranks[number]:.2f}" for number in order)
    description = (
        f"Average ranks over {len(values)} tasks, method {method}, best first: {ranks_text}; {difference}. Bars join "
        "models that do not differ significantly."
    )
    save_figure(figure, path, description)


def draw_rank_against_rank(path: Path, classified: list[Record], segmented: list[Record], what: str = "") -> None:
    """Average rank over segmentation tasks (x) against that over classification tasks (y; linear probes).

    As figure 1 of the DINOv2 radiology study. Drawn if at least two models have both; `what` names the settings.
    """
    ranks: dict[bool, dict[str, float]] = {}
    for segmentation, records in ((True, segmented), (False, classified)):
        models, values = rank_table(records)
        if min(values.shape) < 1 or len(models) < 2:
            return
        ranks[segmentation] = dict(zip(models, mean_ranks(values), strict=True))
    both = [model for model in ranks[True] if model in ranks[False]]
    if len(both) < 2:
        return
    figure = rank_plane({model: (ranks[True][model], ranks[False][model]) for model in both})
    figure.axes[0].set(xlabel="average rank, segmentation", ylabel="average rank, classification (linear)")
    figure.axes[0].set_title(textwrap.fill(what, 60), fontsize=8)
    ranks_text = "; ".join(
        f"{m}: classification {ranks[False][m]:.2f}, segmentation {ranks[True][m]:.2f}" for m in both
    )
    how = f" of {what}" if what else ""
    save_figure(figure, path, f"Average ranks of the models{how}, best at the upper right. {ranks_text}.")
