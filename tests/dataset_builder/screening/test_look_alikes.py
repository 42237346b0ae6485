"""Which look-alikes stay: the rule for all images at once against the rule applied image by image."""

from collections import defaultdict
from time import process_time
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dataset_builder.screening import look_alikes as module
from dataset_builder.screening.hashing import SIMILARITY, THUMBNAIL, textures
from dataset_builder.screening.look_alikes import RADIUS, look_alikes


def picture_by_picture(hashes, files, alike, standing_most):
    """The rule taken literally: each image is compared with all kept ones: {dropped image: kept image before it}."""
    standing = defaultdict(list)
    answers = {}
    for n, code in enumerate(hashes.tolist()):
        others = [m for value, members in standing.items() if (value ^ code).bit_count() <= RADIUS for m in members]
        others = [m for m in others if files[m] != files[n]]
        if others and alike[n, others].max() >= SIMILARITY:
            answers[n] = others
        elif len(standing[code]) < standing_most:
            standing[code].append(n)
    return answers


def pictures(seed, count, codes, scenes, spread):
    """Hashes around `codes` codes, and thumbnails of `scenes` scenes with noise: alike, less alike, and others."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**64, codes, dtype=np.uint64)[rng.integers(0, codes, count)]
    bits = [rng.choice(64, rng.integers(0, 5), replace=False).tolist() for _ in range(count)]
    flips = np.array([sum(1 << bit for bit in some) for some in bits], np.uint64)
    scene = rng.integers(0, 256, (scenes, THUMBNAIL**2))[rng.integers(0, scenes, count)]
    noise = rng.normal(0, rng.choice([0, 2, spread], (count, 1)), (count, THUMBNAIL**2))
    return base ^ flips, np.clip(scene + noise, 0, 255).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 90),
    st.integers(1, 4),
    st.integers(1, 12),
    st.sampled_from([1, 3, 1000]),
    st.sampled_from([2, 9, 256]),
    st.sampled_from([1, 2, 16]),
    st.sampled_from([5, 2**14]),
)
def test_the_answers_are_those_of_the_rule(seed, count, codes, scenes, files, few, standing, piece):
    hashes, thumbnails = pictures(seed, count, codes, scenes, 9)
    of_file = np.random.default_rng(seed).integers(0, files, count)
    shown = textures(thumbnails)
    alike = shown @ shown.T
    assume(np.abs(alike - SIMILARITY).min() > 1e-6)  # where the order of sums would decide
    with (
        patch.object(module, "_FEW", few),
        patch.object(module, "STANDING", standing),
        patch.object(module, "_PIECE", piece),
    ):
        numbers, like = look_alikes(hashes, of_file, thumbnails, np.arange(count))
    expected = picture_by_picture(hashes, of_file, alike, standing)
    assert numbers.tolist() == list(expected)
    for n, m in zip(numbers.tolist(), like.tolist(), strict=True):
        assert m in expected[n]
        assert alike[n, m] > alike[n, expected[n]].max() - 2e-6


def test_of_a_crowd_the_first_stays(tmp_path):
    hashes, thumbnails = pictures(1, 3000, 1, 1, 0)
    numbers, like = look_alikes(hashes, np.arange(3000), thumbnails, np.arange(3000), tmp_path)
    near = np.flatnonzero(np.bitwise_count(hashes ^ hashes[0]) <= RADIUS)
    assert set(near[1:].tolist()) <= set(numbers.tolist())
    assert not np.isin(like, numbers).any()  # what a dropped one is like was not dropped itself
    assert not list(tmp_path.iterdir())


def test_nothing_is_a_look_alike_of_nothing():
    none = np.empty(0, np.int64)
    numbers, like = look_alikes(none.astype(np.uint64), none, np.empty((0, THUMBNAIL**2), np.uint8), none)
    assert not len(numbers)
    assert not len(like)


@pytest.mark.parametrize("scenes", [1, 2000])
def test_a_crowd_costs_no_comparison_of_thumbnails_with_all(scenes):
    """2,000 pictures under near hashes: two million comparisons one at a time would take minutes."""
    hashes, thumbnails = pictures(2, 2000, 1, scenes, 0)
    started = process_time()
    look_alikes(hashes, np.arange(2000), thumbnails, np.arange(2000))
    assert process_time() - started < 10
