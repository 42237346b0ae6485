"""The corruptions of each MedMNIST-C set, in order, with their strengths.

To add a corruption, write its function, add it to `CORRUPTIONS`, and add its strengths to `medmnistc.yaml`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.reading.documents import read_yaml

from . import blur, compression, light, noise, objects
from .draws import RandomSources

SIDE = 224  # image size in pixels for which the strengths are made
SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """A corruption of images.

    Attributes:
        kind: the benchmark's group: digital, noise, blur, color or task-specific.
        apply: function of (image uint8 (H, W, 3), strength, drawn numbers if any) that returns the corrupted image.
        draw: function of (sources, image, strength) that draws an image's random numbers; None if there are none.
    """

    kind: str
    apply: Callable[..., np.ndarray]
    draw: Callable[[RandomSources, np.ndarray, Any], Any] | None = None

    def __call__(self, image: np.ndarray, strength: Any, drawn: Any = None) -> np.ndarray:
        """The corrupted image, uint8 (H, W, 3)."""
        return self.apply(image, strength) if self.draw is None else self.apply(image, strength, drawn)


CORRUPTIONS: dict[str, Corruption] = {
    "pixelate": Corruption("digital", compression.pixelate),
    "jpeg_compression": Corruption("digital", compression.compress_jpeg),
    "gaussian_noise": Corruption("noise", noise.add_gaussian, noise.draw_normal),
    "speckle_noise": Corruption("noise", noise.add_speckle, noise.draw_normal),
    "impulse_noise": Corruption("noise", noise.add_impulses, noise.draw_flips),
    "shot_noise": Corruption("noise", noise.add_shot, noise.draw_photons),
    "defocus_blur": Corruption("blur", blur.blur_defocus),
    "motion_blur": Corruption("blur", blur.blur_motion, blur.draw_angle),
    "zoom_blur": Corruption("blur", blur.blur_zoom),
    "gaussian_blur": Corruption("blur", blur.blur_gaussian),
    "brightness_up": Corruption("color", light.change_brightness),
    "brightness_down": Corruption("color", light.change_brightness),
    "contrast_up": Corruption("color", light.change_contrast),
    "contrast_down": Corruption("color", light.change_contrast),
    "saturate": Corruption("color", light.add_saturation),
    "stain_deposit": Corruption("task-specific", objects.stain, objects.draw_marks),
    "bubble": Corruption("task-specific", objects.add_bubbles, objects.draw_circles),
    "black_corner": Corruption("task-specific", objects.blacken_corners),
    "characters": Corruption("task-specific", objects.write_words, objects.draw_words),
    "gamma_corr_up": Corruption("task-specific", light.change_gamma),
    "gamma_corr_down": Corruption("task-specific", light.change_gamma),
}


@dataclass(frozen=True)
class Benchmark:
    """One of the benchmark's sets.

    Attributes:
        name: name of the MedMNIST set.
        grey: whether corrupted images are converted back to grey.
        strengths: {corruption: strengths at severities 1 to 5}, in the order in which random numbers are drawn.
        clean: AlexNet's error (1 - balanced accuracy) without corruption.
        alexnet: {corruption: AlexNet's mean error over the severities}.
    """

    name: str
    grey: bool
    strengths: dict[str, tuple[Any, ...]]
    clean: float
    alexnet: dict[str, float]

    @property
    def passes(self) -> list[tuple[str, int]]:
        """Every (corruption, severity), in the benchmark's order."""
        return [(name, severity) for name in self.strengths for severity in SEVERITIES]


@cache
def benchmarks() -> dict[str, Benchmark]:
    """The twelve sets by name."""
    stored = read_yaml(Path(__file__).with_name("medmnistc.yaml"))
    return {name: _benchmark(name, entry) for name, entry in stored.items()}


def _benchmark(name: str, entry: dict[str, Any]) -> Benchmark:
    rows = entry["corruptions"]
    strengths = {each: tuple(row["severities"]) for each, row in rows.items()}
    alexnet = {each: row["alexnet"] for each, row in rows.items()}
    return Benchmark(name, entry["grey"], strengths, entry["clean"], alexnet)
