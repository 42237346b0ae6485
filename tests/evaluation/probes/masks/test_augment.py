"""Augmentation of images with their masks: what moves together, what stays, and how often."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.probes.masks.augment import (
    _blur,
    _coarsen,
    _gamma,
    _matrices,
    _move,
    augment_medical,
    augment_study,
    augmentation,
)
from evaluation.probes.masks.settings import AUGMENTATIONS

SIDE = 24


def disc_pairs(count=4, seed=0):
    """Images that are bright where their mask is 1."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    masks = [(rows - y) ** 2 + (columns - x) ** 2 < 30 for y, x in rng.integers(9, 15, (count, 2))]
    masks = torch.from_numpy(np.stack(masks)).long()
    return masks[:, None].expand(-1, 3, -1, -1).float().clone(), masks


@pytest.mark.parametrize("name", AUGMENTATIONS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_images_and_masks_move_together(name, seed):
    pixels, masks = disc_pairs()
    moved, classes = augmentation(name)(pixels, masks, np.random.default_rng(seed))
    assert moved.shape == pixels.shape and classes.shape == masks.shape and classes.dtype == torch.int64
    assert moved.min() >= 0 and moved.max() <= 1 and set(classes.unique().tolist()) <= {0, 1}
    for image, mask in zip(moved, classes, strict=True):
        inside, outside = image[0][mask == 1], image[0][mask == 0]
        assert not len(inside) or inside.mean() > outside.mean() + 0.15


def test_a_seed_gives_the_same_again_and_another_others():
    pixels, masks = disc_pairs()
    for name in AUGMENTATIONS:
        one, again, other = (augmentation(name)(pixels, masks, np.random.default_rng(seed))[0] for seed in (3, 3, 4))
        assert torch.equal(one, again) and not torch.equal(one, other)


def test_the_study_turns_upside_down_in_three_of_eight_cases():
    """Two vertical flips, each with probability 1/4; the rotation is turned off here."""
    marker = torch.zeros(2000, 3, 5, 5)
    marker[:, :, 0, 2] = 1
    rng = np.random.default_rng(0)

    class Straight:
        def random(self, *size):
            return rng.random(*size)

        def uniform(self, low, high, size):
            return np.zeros(size)

    moved, _ = augment_study(marker, marker[:, 0].long(), Straight())
    assert set(moved[:, 0].sum((1, 2)).tolist()) == {1.0}
    assert (moved[:, 0, 4, 2] == 1).float().mean().item() == pytest.approx(3 / 8, abs=0.03)
    assert ((moved[:, 0, 4, 2] == 1) | (moved[:, 0, 0, 2] == 1)).all()  # never left and right


def test_a_quarter_turn_is_numpys():
    pixels, masks = torch.rand(1, 3, 6, 6), torch.randint(0, 3, (1, 6, 6))
    moved, classes = _move(pixels, masks, _matrices(np.array([np.pi / 2]), np.ones(1), np.ones(1)), "nearest")
    turned = [
        torch.from_numpy(np.rot90(array, turns, (-2, -1)).copy()) for array in (pixels, masks) for turns in (1, 3)
    ]
    assert (torch.equal(moved, turned[0]) and torch.equal(classes, turned[2])) or (
        torch.equal(moved, turned[1]) and torch.equal(classes, turned[3])
    )


def test_a_scale_of_two_doubles_a_side():
    pixels, masks = torch.zeros(1, 3, 16, 16), torch.zeros(1, 16, 16).long()
    masks[:, 6:10, 6:10] = 1
    _, classes = _move(pixels, masks, _matrices(np.zeros(1), np.full(1, 2.0), np.ones(1)), "nearest")
    assert int(classes.sum()) == 64 and int(classes[0, 4:12, 4:12].sum()) == 64


def test_changes_of_colour_keep_shape_type_and_range():
    image = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0))
    curved = _gamma(image, 1.5)
    assert curved.mean().item() == pytest.approx(image.mean().item(), abs=1e-5)
    assert curved.std().item() == pytest.approx(image.std().item(), rel=1e-4)
    flat = torch.full((3, 8, 8), 0.5)
    for change in (lambda x: _gamma(x, 1.3), lambda x: _blur(x, 0.8), lambda x: _coarsen(x, 0.5)):
        assert torch.allclose(change(flat), flat, atol=1e-5)
    assert _blur(image, 1.0).std() < image.std() and _coarsen(image, 0.5).shape == image.shape


def test_most_images_of_the_medical_set_are_changed_and_some_are_not():
    pixels, masks = disc_pairs(200)
    moved, _ = augment_medical(pixels, masks, np.random.default_rng(0))
    changed = (moved - pixels).abs().amax((1, 2, 3)) > 1e-4
    assert 0.6 < changed.float().mean() < 0.95
