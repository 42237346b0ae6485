"""Compute and energy of a training run: what was logged, and estimates that say what they assume."""

from dataclasses import dataclass

from ..formats import duration, short_count
from .files import finite
from .model import ModelSummary, forward_flops
from .run import RunSummary


@dataclass(frozen=True)
class Power:
    """What the user states about the machine: mean draw of all devices in watts, grams of CO2e per kWh of the grid."""

    watts: float | None = None
    grams_per_kwh: float | None = None


def energy_kwh(run: RunSummary | None, power: Power) -> float | None:
    """Logged training time times the stated draw, in kWh, or None if either is unknown."""
    if run is None or run.seconds is None or power.watts is None:
        return None
    return run.seconds * power.watts / 3.6e6


def training_flops(model: ModelSummary, run: RunSummary) -> tuple[float, str] | None:
    """Estimated operations of the run and the assumption behind it, or None where the recipe cannot be told.

    MAE: encoder on the kept patches, decoder on all, forward and backward (3 forwards). DINOv2: student forward and
    backward on global and local crops, teacher forward on the global ones. Heads and losses are left out.
    """
    if run.images is None or model.flops_per_image is None:
        return None
    config = model.config
    patches = (int(config["image_size"]) // int(config["patch_size"])) ** 2
    if config.get("initialization") == "mae":
        kept = int(patches * (1 - (finite(config.get("mask_ratio")) or 0.75))) + 1
        decoder = {name: config.get(f"decoder_{name}") for name in ("hidden_size", "num_hidden_layers")}
        encoder_cost, decoder_cost = forward_flops(config, kept), forward_flops({**config, **decoder}, patches + 1)
        if encoder_cost is None or decoder_cost is None:
            return None
        return 3 * run.images * (encoder_cost + decoder_cost), "encoder on the visible patches, decoder on all"
    crops = run.config.get("augment")
    names = ("global_count", "global_size", "local_count", "local_size")
    sizes = [finite(crops.get(name)) for name in names] if isinstance(crops, dict) else [None]
    if any(size is None for size in sizes):
        return None
    globals_, global_side, locals_, local_side = (int(size) for size in sizes if size is not None)
    global_cost = forward_flops({**config, "image_size": global_side}) or 0.0
    local_cost = forward_flops({**config, "image_size": local_side}) or 0.0
    text = f"{globals_} global crops of {global_side} and {locals_} local crops of {local_side} pixels per image"
    return run.images * (4 * globals_ * global_cost + 3 * locals_ * local_cost), text


def compute_lines(model: ModelSummary, run: RunSummary | None, power: Power) -> list[str]:
    """Sentences on compute and energy for a card or report: logged facts first, then estimates named as such."""
    lines = []
    if run is not None and run.seconds is not None:
        lines.append(f"Logged training time: {duration(run.seconds)}.")
    if model.flops_per_image is not None:
        text = f"One forward pass of the encoder on one image: about {short_count(model.flops_per_image)}FLOP"
        lines.append(text + " (estimate: matrix products only, two operations per multiply-add).")
    estimate = training_flops(model, run) if run is not None else None
    if estimate is not None:
        lines.append(f"Whole run: about {short_count(estimate[0])}FLOP (estimate: {estimate[1]}; heads left out).")
    energy = energy_kwh(run, power)
    if energy is None:
        return [*lines, "Energy: not estimated, since the machine's power draw was not recorded."]
    text = (
        f"Energy: about {energy:.3g} kWh (estimate: logged time at a mean draw of {power.watts:g} W, a stated figure)"
    )
    if power.grams_per_kwh is not None:
        text += f", about {energy * power.grams_per_kwh:.3g} g CO2e at {power.grams_per_kwh:g} g per kWh"
    return [*lines, text + "."]
