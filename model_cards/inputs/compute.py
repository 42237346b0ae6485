"""Compute and energy of a training run: logged facts, and estimates with their assumptions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from biovfm_hf.flops import Architecture, Crops, Heads, step_flops
from biovfm_hf.reading.documents import finite

from ..formats import duration, short_count
from .model import ModelSummary
from .run import RunSummary


@dataclass(frozen=True)
class Power:
    """The user's figures for the machine: mean draw of all devices in watts, grams of CO2e per kWh of the grid."""

    watts: float | None = None
    grams_per_kwh: float | None = None


def energy_kwh(run: RunSummary | None, power: Power) -> float | None:
    """Logged training time times the stated draw, in kWh, or None if either is unknown."""
    if run is None or run.seconds is None or power.watts is None:
        return None
    return run.seconds * power.watts / 3.6e6


def training_flops(model: ModelSummary, run: RunSummary) -> tuple[float, str] | None:
    """Operations of the run and what they count, or None if the recipe is unknown.

    Training states those of one image. For folders without them they are counted as in `biovfm pretrain --dry-run`
    (`biovfm_hf.flops`): forward and backward, with the run's heads and stochastic depth.
    """
    if run.images is None:
        return None
    if model.objective is not None:
        each = model.objective.flops_per_image
        return run.images * each, f"{short_count(each)}FLOP for each image seen"
    if model.flops_per_image is None:
        return None
    architecture, settings = Architecture.of(model.config), run.config
    drop_path = finite(_section(settings, "model").get("drop_path_rate")) or 0.0
    if model.config.get("initialization") == "mae":
        visible = 1 - (finite(model.config.get("mask_ratio")) or 0.75)
        crops = Crops(1, architecture.image_size, 0)
        flops = step_flops(architecture, crops, decoder=True, visible=visible, drop_path=drop_path)
        return run.images * flops.total, "encoder on the visible patches, decoder on all"
    crops_of_run = _crops(settings)
    if crops_of_run is None:
        return None
    heads = _heads(settings, architecture, crops_of_run)
    taught = "teacher" in settings
    flops = step_flops(architecture, crops_of_run, teacher=taught, heads=heads, drop_path=drop_path)
    text = (
        f"{crops_of_run.global_count} global crops of {crops_of_run.global_size} and {crops_of_run.local_count} local "
        f"crops of {crops_of_run.local_size} pixels per image{'' if heads else '; heads left out'}"
    )
    return run.images * flops.total, text


def _section(settings: dict[str, Any], name: str) -> dict[str, Any]:
    section = settings.get(name)
    return section if isinstance(section, dict) else {}


def _numbers(section: dict[str, Any], names: Sequence[str]) -> list[int] | None:
    """The whole numbers of these names, or None if one is missing."""
    values = [finite(section.get(name)) for name in names]
    return None if any(value is None for value in values) else [int(value) for value in values if value is not None]


def _crops(settings: dict[str, Any]) -> Crops | None:
    numbers = _numbers(_section(settings, "augment"), ("global_count", "global_size", "local_count", "local_size"))
    return None if numbers is None else Crops(*numbers)


def _heads(settings: dict[str, Any], architecture: Architecture, crops: Crops) -> Heads | None:
    """The heads of a DINOv2 run, from its configuration."""
    dino, mask = _section(settings, "dino"), _section(settings, "mask")
    names = ("hidden", "layers", "bottleneck", "prototypes")
    own = _numbers(dino, names)
    patch = _numbers(dino, [f"ibot_{name}" for name in names]) if dino.get("ibot_separate_head") else own
    probability, ratio = finite(mask.get("probability")), mask.get("ratio")
    if own is None or patch is None or probability is None or not isinstance(ratio, list) or len(ratio) != 2:
        return None
    masked = crops.global_count * probability * sum(ratio) / 2 * architecture.patches(crops.global_size)
    return Heads(masked, (own[0], own[1], own[2], own[3]), (patch[0], patch[1], patch[2], patch[3]))


def compute_lines(model: ModelSummary, run: RunSummary | None, power: Power) -> list[str]:
    """Sentences on compute and energy for a card or report: logged facts first, then estimates marked as such."""
    lines = []
    if run is not None and run.seconds is not None:
        lines.append(f"Logged training time: {duration(run.seconds)}.")
    if model.flops_per_image is not None:
        text = f"One forward pass of the encoder on one image: about {short_count(model.flops_per_image)}FLOP"
        lines.append(text + " (estimate: matrix products only, two operations per multiply-add).")
    estimate = training_flops(model, run) if run is not None else None
    if estimate is not None:
        lines.append(f"Whole run: about {short_count(estimate[0])}FLOP (estimate: {estimate[1]}).")
    energy = energy_kwh(run, power)
    if energy is None:
        return [*lines, "Energy: not estimated, since the machine's power draw was not recorded."]
    text = (
        f"Energy: about {energy:.3g} kWh (estimate: logged time at a mean draw of {power.watts:g} W, a stated figure)"
    )
    if power.grams_per_kwh is not None:
        text += f", about {energy * power.grams_per_kwh:.3g} g CO2e at {power.grams_per_kwh:g} g per kWh"
    return [*lines, text + "."]
