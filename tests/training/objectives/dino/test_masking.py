import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.objectives.dino.masking import block_masks, rectangle_masks


def one_by_one(target: int, rows: int, columns: int, rng: random.Random) -> np.ndarray:
    """The published procedure for a single mask, written plainly."""
    mask, left_over = np.zeros((rows, columns), dtype=bool), target
    while left_over > 0:
        room = min(left_over, rows // 2 * columns)
        for _ in range(10):
            area, aspect = rng.uniform(4, room), math.exp(rng.uniform(math.log(0.3), -math.log(0.3)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if width >= columns or height >= rows:
                continue
            top, left = rng.randint(0, rows - height), rng.randint(0, columns - width)
            block = mask[top : top + height, left : left + width]
            new = block.size - block.sum()
            if 0 < new <= room:
                block[:] = True
                left_over -= int(new)
                break
        else:
            return mask
    return mask


@pytest.mark.parametrize(("grid", "target"), [((14, 14), 50), ((7, 9), 30)])
def test_same_distribution_as_one_mask_at_a_time(grid: tuple[int, int], target: int) -> None:
    count, rng = 1500, random.Random(0)
    plain = np.stack([one_by_one(target, *grid, rng) for _ in range(count)])
    ours = rectangle_masks(np.full(count, target), grid, np.random.default_rng(0))
    sizes, plain_sizes = ours.sum((1, 2)), plain.sum((1, 2))
    assert (sizes == target).mean() == pytest.approx((plain_sizes == target).mean(), abs=0.04)
    assert sizes.mean() == pytest.approx(plain_sizes.mean(), rel=0.005)
    # where patches are hidden, and how ragged the masks are
    assert np.abs(ours.mean(0) - plain.mean(0)).max() < 0.08
    assert np.abs(ours.mean(0) - plain.mean(0)).mean() < 0.02
    edges = [np.abs(np.diff(masks.astype(int), axis=2)).sum((1, 2)) for masks in (ours, plain)]
    assert edges[0].mean() == pytest.approx(edges[1].mean(), rel=0.04)
    assert edges[0].std() == pytest.approx(edges[1].std(), rel=0.1)


def test_counts_as_measured_on_dinov2() -> None:
    batch = block_masks(4000, (14, 14), np.random.default_rng(1))
    counts = batch["masks"].sum(1)
    masked = counts[counts > 0].float() / 196
    assert len(masked) == 2000
    assert 0.292 < masked.mean() < 0.299
    assert masked.max() <= 0.5
    # one target per stratum: sorted, they follow the range from 0.1 to 0.5, to a patch and the few that are missed
    wanted = torch.linspace(0.1, 0.5, 2000)
    assert (masked.sort().values - wanted).abs().max() < 0.03


@settings(deadline=None, max_examples=60)
@given(
    images=st.integers(1, 12),
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    probability=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_any_grid_and_probability(images: int, rows: int, columns: int, probability: float, seed: int) -> None:
    batch = block_masks(images, (rows, columns), np.random.default_rng(seed), probability)
    masks = batch["masks"]
    assert masks.shape == (images, rows * columns) and masks.dtype == torch.bool
    assert (masks.sum(1) > 0).sum() <= int(images * probability)
    assert masks.sum(1).max() <= 0.5 * rows * columns
    assert batch["mask_indices"].tolist() == masks.flatten().nonzero().flatten().tolist()


def test_a_seed_gives_the_same_masks() -> None:
    first, second, other = (block_masks(8, (14, 14), np.random.default_rng(seed))["masks"] for seed in (3, 3, 4))
    assert first.equal(second)
    assert not first.equal(other)


def test_masked_images_are_anywhere_in_the_batch() -> None:
    generator = np.random.default_rng(0)
    where = torch.stack([block_masks(8, (6, 6), generator)["masks"].any(1) for _ in range(200)]).float().mean(0)
    assert (where - 0.5).abs().max() < 0.15
