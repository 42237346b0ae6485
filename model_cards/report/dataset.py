"""The report's section on datasets: what they contain, what was left out and why, and a few samples."""

from math import log1p
from typing import Any

from ..inputs.dataset import DatasetSummary, sample_images
from ..inputs.leakage import MAX_OVERLAPS, leakage_lines
from .material import MAX_ROWS, Material


def dataset_section(material: Material) -> dict[str, Any] | None:
    """One part for each dataset folder."""
    if not material.datasets:
        return None
    return {"datasets": [dataset_facts(summary, material) for summary in material.datasets]}


def dataset_facts(summary: DatasetSummary, material: Material) -> dict[str, Any]:
    """Counts as a modality x anatomy table, sources with licences, outcomes, and a drawn sample per modality."""
    private = () if material.private_images else summary.provenance.private_sources
    modalities = _ordered({modality: 0 for modality, _ in summary.cells}, summary.cells, 0)
    anatomies = _ordered({anatomy: 0 for _, anatomy in summary.cells}, summary.cells, 1)
    top = max(summary.cells.values(), default=1)
    rows = [
        {
            "name": anatomy,
            "cells": [_cell(summary.cells.get((modality, anatomy), 0), top) for modality in modalities],
            "total": sum(summary.cells.get((modality, anatomy), 0) for modality in modalities),
        }
        for anatomy in anatomies
    ]
    grid = [
        (modality, [picture for alt, raw in images if (picture := material.store.add(raw, alt, 160))])
        for modality, images in sample_images(summary, seed=material.seed, without=private).items()
    ]
    outcomes = sorted((summary.outcomes or {}).items(), key=lambda item: (item[0] != "kept", -item[1]))
    details = sorted(summary.outcomes_by_source.items(), key=lambda item: (item[0][0], -item[1]))
    return {
        "summary": summary,
        "modalities": modalities,
        "rows": rows,
        "totals": [sum(summary.cells.get((modality, anatomy), 0) for anatomy in anatomies) for modality in modalities],
        "sources": sorted(summary.sources.items(), key=lambda item: (-item[1], item[0])),
        "outcomes": outcomes[:60],
        "considered": sum(count for _, count in outcomes),
        "details": [(source, outcome, count) for (source, outcome), count in details if outcome != "kept"][:MAX_ROWS],
        "leakage": leakage_lines(summary.leakage),
        "overlaps": summary.leakage.overlaps[:MAX_OVERLAPS] if summary.leakage else [],
        "grid": [(modality, pictures) for modality, pictures in grid if pictures],
        "seed": material.seed,
        "withheld": private,
    }


def _ordered(totals: dict[str, int], cells: dict[tuple[str, str], int], axis: int) -> list[str]:
    for key, count in cells.items():
        totals[key[axis]] += count
    return sorted(totals, key=lambda name: (-totals[name], name))


def _cell(count: int, top: int) -> tuple[int, int]:
    """A count and how dark its cell is, 0 to 10, by the logarithm of the count."""
    return count, round(10 * log1p(count) / log1p(top)) if count else 0
