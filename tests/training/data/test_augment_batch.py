"""Looks applied to batches with torch against the same looks applied one by one with OpenCV."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from training.command import run_script
from training.data.augment import Augmenter, Look, pack
from training.data.augment_batch import apply_looks, pack_looks
from training.data.effects import EFFECTS, JITTER

from .test_augment import preset, smooth_rgb


def look_of(*named: str | float, jitter: tuple[tuple[int, float], ...] = ()) -> Look:
    """A look with some effects, by name and number; the others change nothing."""
    numbers = dict(zip(named[::2], named[1::2], strict=True))
    return Look(jitter, tuple(float(numbers.get(effect.name, effect.nothing)) for effect in EFFECTS))


def both_ways(looks: list[Look], grey: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Crops (B, 3, S, S) with the looks, by OpenCV and by torch."""
    augmenter = Augmenter(preset("dinov2"))
    crops = [smooth_rgb(48, 48)[..., 0] if grey else smooth_rgb(48, 48) for _ in looks]
    one_by_one = pack([augmenter.apply(crop, look) for crop, look in zip(crops, looks, strict=True)])
    together = apply_looks(torch.from_numpy(pack(crops)), pack_looks(looks), augmenter.config)
    return one_by_one.astype(float), together.numpy()


@pytest.mark.parametrize(
    ("look", "levels"),  # grey levels by which torch may differ from OpenCV
    [
        (Look(), 0),
        (look_of("solarize", 1), 0),
        *((look_of(effect.name, value), 1) for effect in EFFECTS for value in effect.samples),
        *((Look(((which, change),)), 1) for which in range(3) for change in (-0.3, 0.35)),
    ],
)
def test_each_operation_equals_opencvs(look: Look, levels: int) -> None:
    expected, found = both_ways([look])
    assert np.abs(found - expected).max() <= levels
    assert (found == np.rint(found)).all() and found.min() >= 0 and found.max() <= 255


def test_every_effect_has_samples_that_change_a_crop() -> None:
    for effect in EFFECTS:
        assert effect.samples, f"give the Effect {effect.name} numbers in `samples`, at which the test tries it"
        changed, plain = (both_ways(looks)[0] for looks in (
            [look_of(effect.name, value) for value in effect.samples], [Look()] * len(effect.samples)
        ))  # fmt: skip
        assert (changed != plain).any(), f"{effect.name} changes nothing at {effect.samples}"


def test_looks_reach_the_device_in_two_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides them only constants are copied: of channels and of the blur. Meta is a device without values."""
    looks = [look_of(effect.name, value) for effect in EFFECTS for value in effect.samples]
    looks += [Look(((which, 0.1), (1 - which, -0.1))) for which in (0, 1)]
    copied, own = [], torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *a, **k: copied.append(len(tensor)) or own(tensor, *a, **k))
    crops = torch.zeros(len(looks), 3, 48, 48, dtype=torch.uint8, device="meta")
    config = Augmenter(preset("dinov2")).config
    assert apply_looks(crops, pack_looks(looks), config).device.type == "meta"
    assert copied[:2] == [len(looks), sum(look != Look() for look in looks) + 2] and set(copied[2:]) <= {
        1,
        config.blur_kernel,
    }


@pytest.mark.parametrize("change", [-0.1, 0.02, 0.1])
def test_hue_is_opencvs_but_for_its_eight_bits(change: float) -> None:
    expected, found = both_ways([Look((([entry.name for entry in JITTER].index("hue"), change),))])
    assert np.abs(found - expected).mean() < 1.5 and np.percentile(np.abs(found - expected), 99) <= 6


def test_drawn_looks_agree_and_every_crop_gets_its_own() -> None:
    augmenter = Augmenter(preset("dinov2", solarize_p=[0, 0, 0]))  # rounding near the threshold would invert a pixel
    looks = [augmenter._draw_look(Random(seed), seed % 3) for seed in range(40)]
    expected, found = both_ways(looks)
    assert np.abs(found - expected).mean(axis=(1, 2, 3)).max() < 3
    assert len({crop.tobytes() for crop in found}) > 30


def test_grey_crops_stay_grey() -> None:
    looks = [look_of("gamma", 1.2, "blur", 1.0, jitter=((0, 0.2), (2, 0.1), (3, 0.05)))]
    expected, found = both_ways(looks, grey=True)
    assert np.abs(found - expected).max() <= 2 and (found[:, :1] == found).all()


def test_a_run_with_looks_on_the_device_learns_from_the_same_crops(image_folder: Path, tmp_path: Path) -> None:
    words = ["--config", "dino_smoke", "--data", str(image_folder), "steps=2", "batch.size=4", "data.workers=0"]
    losses = []
    for on_device in ("false", "true"):
        out = tmp_path / on_device
        assert run_script("dino", [*words, "--out", str(out), f"augment.on_device={on_device}"]) == 0
        losses.append((out / "metrics.jsonl").read_text())
        assert (out / "crops.png").is_file()
    first, second = (float(text.split('"loss": ')[1].split(",")[0]) for text in losses)
    assert first != second and first == pytest.approx(second, rel=0.02)
