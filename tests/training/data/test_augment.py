"""Crops: what each operation does, how often, and that grey images stay what they are."""

import re
from dataclasses import fields
from itertools import chain
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from biovfm_hf.errors import UserError
from training.config_file import config_from_tree
from training.data import augment
from training.data.augment import Augmenter, draw_box, pack, resize
from training.data.effects import EFFECTS, JITTER, Draw, Effect, Jitter
from training.settings.augment import PRESETS, AugmentConfig, check_augment


def preset(name: str, **fields) -> AugmentConfig:
    method = "mae" if name == "mae" else "dino"
    return config_from_tree({"method": method, "augment": {"preset": name, **fields}}).augment


def smooth_rgb(height: int = 64, width: int = 80) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@given(
    st.integers(2, 300),
    st.integers(2, 300),
    st.floats(0.01, 0.5),
    st.floats(0.5, 1.0),
    st.integers(0, 2**32),
)
@settings(max_examples=100, deadline=None)
def test_boxes_lie_inside_and_keep_the_scale(height: int, width: int, low: float, high: float, seed: int) -> None:
    top, left, box_height, box_width = draw_box(height, width, (low, high), (3 / 4, 4 / 3), Random(seed))
    assert 0 <= top <= top + box_height <= height and 0 <= left <= left + box_width <= width
    assert box_height > 0 and box_width > 0


def test_boxes_follow_the_rule_of_random_resized_crop() -> None:
    boxes = [draw_box(200, 200, (0.05, 0.32), (3 / 4, 4 / 3), Random(seed)) for seed in range(2000)]
    areas = np.array([height * width for _, _, height, width in boxes]) / 200**2
    ratios = np.log([width / height for _, _, height, width in boxes])
    assert areas.min() > 0.045 and areas.max() < 0.33 and abs(areas.mean() - 0.185) < 0.01
    assert abs(ratios.mean()) < 0.02 and np.abs(ratios).max() < np.log(4 / 3) + 0.05


@pytest.mark.parametrize("change", [-0.3, 0.2])
@pytest.mark.parametrize("operation", JITTER)
def test_jitter_is_torchvisions(operation: Jitter, change: float) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    image, name = smooth_rgb(), operation.name
    theirs = getattr(functional, f"adjust_{name}")(PILImage.fromarray(image), change if name == "hue" else 1 + change)
    ours = operation.on_image(image, change)
    difference = np.abs(ours.astype(int) - np.asarray(theirs).astype(int))
    # hue goes through 8-bit HSV in both, whose rounding differs
    assert difference.mean() < (2.0 if name == "hue" else 0.6)
    assert np.percentile(difference, 99) <= (8 if name == "hue" else 1)


@given(
    st.integers(160, 300),
    st.floats(0.75, 1.6),
    st.sampled_from([16, 50, 96, 98]),
    st.booleans(),
    st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_crops_that_shrink_are_pils_antialiased_bicubic(
    height: int, aspect: float, size: int, grey: bool, seed: int
) -> None:
    shape = (height, round(aspect * height))
    image = np.random.default_rng(seed).integers(0, 256, shape if grey else (*shape, 3), dtype=np.uint8)
    cut = np.pad(image, [(3, 5), (2, 1)] + [(0, 0)] * (not grey))[3:-5, 2:-1]  # a part of an image, as crops are
    resized = resize(cut, size)
    assert resized.shape == (size, size, *image.shape[2:]) and resized.dtype == np.uint8
    theirs = np.asarray(PILImage.fromarray(image).resize((size, size), PILImage.Resampling.BICUBIC))
    difference = np.abs(resized.astype(int) - theirs)
    assert difference.max() <= 2 and difference.mean() < 0.05


def test_crops_are_as_sharp_as_pils() -> None:
    """Area averages would be 8 % less sharp."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    image = cv2.resize(image, (256, 256), interpolation=cv2.INTER_CUBIC)
    for side in (80, 110, 120, 140, 153, 160, 256):
        theirs = np.asarray(PILImage.fromarray(image[:side, :side]).resize((96, 96), PILImage.Resampling.BICUBIC))
        ours = resize(image[:side, :side], 96)
        steps = [np.abs(np.diff(view.astype(float), axis=0)).mean() for view in (ours, theirs)]
        assert 0.94 < steps[0] / steps[1] < 1.1
        assert np.mean((ours.astype(float) - theirs) ** 2) < (6.5 if side <= 153 else 0.05)  # 40 and 61 dB


def test_blur_rates_are_as_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    blurred: list[int] = []
    monkeypatch.setattr(augment.cv2, "GaussianBlur", lambda view, *_: blurred.append(view.shape[0]) or view)
    config = preset("dinov2", global_size=32, local_size=16, local_count=1)
    augmenter = Augmenter(config)
    counts = []
    for kind in range(3):
        blurred.clear()
        for seed in range(500):
            augmenter.apply(*augmenter._crop(smooth_rgb(32, 32), Random(seed), 32, (0.5, 1.0), kind, (0.0, 0.0)))
        counts.append(len(blurred) / 500)
    assert counts[0] == 0 and abs(counts[1] - 0.9) < 0.05 and abs(counts[2] - 0.5) < 0.07


def test_a_seed_fixes_every_view_and_another_changes_it() -> None:
    augmenter = Augmenter(preset("dinov2", global_size=32, local_size=16))
    first, again, other = (augmenter.views(smooth_rgb(), Random(seed)) for seed in (1, 1, 2))
    for one, two in zip(first[0] + first[1], again[0] + again[1], strict=True):
        assert np.array_equal(one, two)
    assert not np.array_equal(first[0][0], other[0][0])
    assert [view.shape[0] for view in first[0] + first[1]] == [32] * 2 + [16] * 8


def test_an_added_effect_that_is_off_changes_no_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """All crops share the generator, so its state tells whether any drew another count of numbers."""

    def invert(view: np.ndarray, *_: object) -> np.ndarray:
        return 255 - view

    augmenter = Augmenter(preset("dinov2", global_size=32, local_size=16))
    without, random = Random(0), Random(0)
    before = chain(*augmenter.views(smooth_rgb(), without))
    added = Effect("inverted", lambda draw: float(draw.happens(0.0)), invert, lambda pixels, *_: 255 - pixels, (1.0,))
    monkeypatch.setattr(augment, "EFFECTS", (added, *EFFECTS))
    for one, two in zip(before, chain(*augmenter.views(smooth_rgb(), random)), strict=True):
        assert np.array_equal(one, two)
    assert random.getstate() == without.getstate() != Random(0).getstate()
    assert Draw(augmenter.config, random, 0, jittered=True).happens(1.0)


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda effect: effect.name)
def test_an_effect_that_is_off_takes_no_random_number(effect: Effect) -> None:
    """MAE's preset switches all effects off; three take a number nevertheless, as the views of every seed hold it."""
    random = Random(0)
    draws = [effect.draw(Draw(preset("mae"), random, kind, jittered=True)) for kind in range(3)]
    assert draws == [effect.nothing] * 3, f"switch {effect.name} off in PRESETS['mae']"
    assert (random.getstate() == Random(0).getstate()) == (effect.name not in ("grey", "blur", "solarize"))


def test_grey_images_give_the_same_views_as_their_colour_copy() -> None:
    """The one-channel path is a shortcut, not another augmentation."""
    grey = smooth_rgb()[..., 0]
    augmenter = Augmenter(preset("dinov2", global_size=32, local_size=16, saturation=0.0, hue=0.0, grayscale_p=0.0))
    one, three = augmenter.views(grey, Random(3)), augmenter.views(np.repeat(grey[..., None], 3, 2), Random(3))
    for a, b in zip(one[0] + one[1], three[0] + three[1], strict=True):
        assert a.ndim == 2
        assert np.abs(b.astype(int) - a[..., None]).max() <= 1


def test_the_medical_preset_neither_inverts_nor_shifts_colours() -> None:
    config = preset("medical", global_size=32, local_size=16)
    assert config.solarize_p == (0.0, 0.0, 0.0) and config.hue == config.saturation == config.grayscale_p == 0
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    image[..., 0] = np.arange(40)[:, None] * 6
    for seed in range(30):
        for view in Augmenter(config).views(image, Random(seed))[0]:
            assert view[..., 1:].max() <= view[..., 0].max()  # what was black stays below the red channel


def test_flips_follow_the_modality() -> None:
    config = preset(
        "medical", flip_by_modality={"CT": [0.0, 0.0], "Microscopy": [1.0, 1.0]}, jitter_p=0, blur_p=[0, 0, 0]
    )
    image = np.add.outer(np.arange(40) * 4, np.arange(40)).astype(np.uint8)
    for modality, sign in (("CT", 1), ("Microscopy", -1)):
        for view in Augmenter(config).views(image, Random(0), modality)[0]:
            assert np.sign(int(view[-1, 0]) - int(view[0, 0])) == sign
            assert np.sign(int(view[0, -1]) - int(view[0, 0])) == sign


def test_packing_repeats_grey_and_keeps_colour() -> None:
    colour = smooth_rgb(16, 16)
    packed = pack([colour, colour[..., 1]])
    assert packed.shape == (2, 3, 16, 16)
    assert np.array_equal(packed[0], colour.transpose(2, 0, 1))
    assert all(np.array_equal(packed[1, channel], colour[..., 1]) for channel in range(3))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"local_size": 256}, "larger than augment.global_size"),
        ({"global_size": 220}, "220 is not a multiple of the patch size 16; use 224"),
        ({"local_size": 97}, "97 is not a multiple"),
        ({"global_scale": [0.5, 0.2]}, "the smaller number comes first"),
        ({"jitter_p": 1.5}, "it must be from 0 to 1"),
        ({"blur_kernel": 8}, "blur_kernel 8 is not odd and positive"),
        ({"blur_kernel": -3}, "augment.blur_kernel is -3; it must be from 1 to 999"),
        ({"brightness": -2}, "brightness is -2.0; it must be at least 0"),
        ({"std": [0, 0, 0]}, "augment.std is"),
    ],
)
def test_impossible_augmentations_are_refused(fields: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_augment(preset("dinov2", **fields), 16)


def test_every_preset_passes_its_own_check() -> None:
    for name in PRESETS:
        check_augment(preset(name), 16)


def test_every_field_is_told_and_acts_on_the_crops() -> None:
    """Every field must change something."""
    code = "".join(path.read_text() for path in Path(augment.__file__ or "").parents[1].rglob("*.py"))
    for name in (field.name for field in fields(AugmentConfig)):
        assert f"        {name}: " in (AugmentConfig.__doc__ or ""), f"say in AugmentConfig what {name} does"
        assert re.search(rf"[.\"]{name}\b", code), f"{name} is read nowhere"
