"""Compute and energy of a training run: logged facts, and estimates with their assumptions."""

from dataclasses import dataclass

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


def compute_lines(model: ModelSummary, run: RunSummary | None, power: Power) -> list[str]:
    """Sentences on compute and energy for a card or report: logged facts first, then estimates marked as such."""
    lines = []
    if run is not None and run.seconds is not None:
        lines.append(f"Logged training time: {duration(run.seconds)}.")
    if model.flops_per_image is not None:
        text = f"One forward pass of the encoder on one image: about {short_count(model.flops_per_image)}FLOP"
        lines.append(text + " (estimate: matrix products only, two operations per multiply-add).")
    if run is not None and run.images is not None and model.objective is not None:
        each = model.objective.flops_per_image
        whole = f"Whole run: about {short_count(run.images * each)}FLOP"
        lines.append(f"{whole} (estimate: {short_count(each)}FLOP for each image seen).")
    energy = energy_kwh(run, power)
    if energy is None:
        return [*lines, "Energy: not estimated, since the machine's power draw was not recorded."]
    text = (
        f"Energy: about {energy:.3g} kWh (estimate: logged time at a mean draw of {power.watts:g} W, a stated figure)"
    )
    if power.grams_per_kwh is not None:
        text += f", about {energy * power.grams_per_kwh:.3g} g CO2e at {power.grams_per_kwh:g} g per kWh"
    return [*lines, text + "."]
