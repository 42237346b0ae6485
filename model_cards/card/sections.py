"""The sections of a card: one entry each, with a template of its name in `templates/card/`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from biovfm_hf.cards.markdown import plain
from biovfm_hf.results.record import Record
from biovfm_hf.size_names import size_words

from .. import formats
from ..inputs.compute import compute_lines
from ..inputs.leakage import MAX_OVERLAPS, leakage_lines
from ..inputs.paths import without_paths
from ..inputs.results import (
    labels_of,
    main_metrics,
    positive_classes,
    published_comparison,
    record_kind,
    seed_text,
    way_text,
)
from ..inputs.run import RunSummary
from .base import SENTENCES, START, BaseModel
from .facts import CardFacts


@dataclass(frozen=True)
class CardSection:
    """A section of the card: the name of its template, its heading, and the template's variables; None omits it."""

    name: str
    title: str
    variables: Callable[[CardFacts], dict[str, Any] | None]


def head(facts: CardFacts) -> dict[str, Any]:
    """The part above the first heading: name, a sentence on the model, and its first picture."""
    return {"name": facts.name, "description": _description(facts), "pictures": facts.figures.pictures[:1]}


def _description(facts: CardFacts) -> str:
    model, run = facts.model, facts.run
    kind = "vision transformer" if model.of_timm is None else "network"
    article = f"{size_words(model.config)}, a {kind} for biomedical images"
    text = f"{plain(article)} with {formats.short_count(model.parameters)} parameters"
    if run is None:
        return f"{text}, of the {plain(model.family)} family."
    seen = f" on {formats.count(run.images)} images seen" if run.images else ""
    recipe = f"pretrained with the {plain(model.family)} recipe for {formats.count(run.steps)} steps{seen}"
    return f"{text}, {recipe}, without labels."


def _usage(facts: CardFacts) -> dict[str, Any]:
    model = facts.model
    first_patch = 1 + int(model.config.get("num_register_tokens") or 0)
    return {"model_id": facts.model_id, "first_patch": first_patch, "of_timm": model.of_timm is not None}


def _limits(facts: CardFacts) -> dict[str, Any]:
    side = facts.model.image_size
    return {"image_size": f"{plain(side)} x {plain(side)} pixels" if side else "a size that is not stated"}


def _part_used(run: RunSummary | None) -> str:
    """Which of the dataset's images a run used, by its settings; "" if they name no part."""
    data = run.config.get("data") or {} if run else {}
    named = [("configuration", [data["config"]] if data.get("config") else []), ("modality", data.get("modality")),
             ("source", data.get("source"))]  # fmt: skip
    parts = [f"{word} {' or '.join(plain(str(value)) for value in values)}" for word, values in named if values]
    if data.get("selection"):
        parts.append("a selection from a list")
    return ", ".join(parts)


def _data(facts: CardFacts) -> dict[str, Any]:
    dataset = facts.dataset
    if dataset is None:
        return {"dataset": None, "dataset_ids": facts.dataset_ids}
    return {
        "dataset": dataset,
        "dataset_ids": facts.dataset_ids,
        "part": _part_used(facts.run),
        "sources": _by_count(dataset.sources),
        "cells": _by_count(dataset.cells),
        "outcomes": _by_count(dataset.outcomes or {})[:30],
        "leakage": leakage_lines(dataset.leakage),
        "overlaps": dataset.leakage.overlaps[:MAX_OVERLAPS] if dataset.leakage else [],
    }


def _training(facts: CardFacts) -> dict[str, Any]:
    run = facts.run
    final = run.final if run is not None else {}
    return {
        "objective": facts.model.objective,
        "origin": _origin(facts),
        "run": run,
        "final_losses": [(name, value) for name, value in final.items() if run and run.group_of(name) == "loss"],
        "final_watch": [(name, value) for name, value in final.items() if run and run.group_of(name) == "watch"],
        "config_yaml": _settings(run),
    }


def _origin(facts: CardFacts) -> str:
    """Sentences on the weights behind the model, "" if unknown."""
    if facts.bases is None:
        return ""
    sentences = [SENTENCES[base.role].format(_linked(base)) for base in facts.bases]
    if all(base.role != START for base in facts.bases):
        sentences.insert(0, "Training began with random weights.")
    return " ".join(sentences)


def _linked(base: BaseModel) -> str:
    name = plain(base.name)
    return f"[{name}](https://huggingface.co/{base.name})" if base.on_hub else f"the model {name}"


def _settings(run: RunSummary | None) -> str:
    if run is None or not run.config:
        return ""
    text = yaml.safe_dump(without_paths(run.config), sort_keys=False, allow_unicode=True).strip()
    return text.replace("```", "'''")


def results(records: list[Record], name: str, pictures: list[dict[str, str]]) -> dict[str, Any]:
    """One model's scores as tables, and its mean beside published ones if they are comparable."""
    mean, table, why_not = published_comparison(records)
    measured = [entry for record in records for entry in record.intervals.values()]
    return {
        "name": name,
        "pictures": pictures,
        "tables": _result_tables(records),
        "label": labels_of(records),
        "positive": positive_classes(records),
        "warnings": dict.fromkeys((record.task, text) for record in records for text in record.warnings or ()),
        "few_shot": any(record.few_shot for record in records),
        "joined": any(record.joined and not record.few_shot for record in records),
        "all_intervals": all(entry.low is not None for entry in measured),
        "mean": mean,
        "table": table,
        "why_not": why_not,
    }


def _result_tables(records: list[Record]) -> list[dict[str, Any]]:
    """A table for each kind of task, since kinds have no metric in common."""
    tables = []
    for kind in ("classification", "segmentation", "detection"):
        chosen = [record for record in records if record_kind(record) == kind]
        if chosen:
            rows = list(zip(chosen, _telling_ways(chosen), strict=True))
            tables.append({"title": kind.capitalize(), "rows": rows, "metrics": main_metrics(chosen)})
    return tables


def _telling_ways(records: list[Record]) -> list[str]:
    """Settings and seed of each record in words, if records of one method and protocol differ in them."""
    ways = {(record.method, record.protocol, record.settings_text) for record in records}
    several = len(ways) > len({(method, protocol) for method, protocol, _ in ways})
    seeds = [seed_text(record.seeds) for record in records]
    seeds_differ = len(set(seeds)) > 1 or any(record.joined for record in records)
    return [
        way_text("", record.settings_text if several else "", seed if seeds_differ else "")
        for record, seed in zip(records, seeds, strict=True)
    ]


def _files(facts: CardFacts) -> dict[str, Any]:
    return {"model": facts.model, "size": size_words(facts.model.config)}


def _by_count(counts: dict[Any, int]) -> list[tuple[Any, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))


SECTIONS = [
    CardSection("usage", "Usage", _usage),
    CardSection("limits", "Intended use and limits", _limits),
    CardSection("data", "Training data", _data),
    CardSection("training", "Training", _training),
    CardSection("compute", "Compute and energy",
            lambda facts: {"compute": compute_lines(facts.model, facts.run, facts.power)}),
    CardSection("results", "Results", lambda facts: results(facts.records, facts.name, facts.figures.pictures[1:])),
    CardSection("distillation", "What distilling lost",
            lambda facts: {"facts": facts.distillation} if facts.distillation else None),
    CardSection("files", "Architecture and files", _files),
    CardSection("licence", "Licence", lambda facts: {"sentence": facts.licence.sentence}),
    CardSection("citation", "Citation", lambda facts: {"objective": facts.model.objective}),
]  # fmt: skip
