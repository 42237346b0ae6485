"""Which look-alikes stay: the rule for all images at once against the rule applied image by image."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dataset_builder.screening import look_alikes as module
from dataset_builder.screening import near_hashes
from dataset_builder.screening.hashing import SIMILARITY, THUMBNAIL, textures
from dataset_builder.screening.look_alikes import RADIUS, look_alikes


def picture_by_picture(hashes, files, alike, equal_most, crowd):
    """The rule taken literally: {dropped image: the standing images before it with which it is compared}."""
    standing, answers = [], {}
    for n in range(len(hashes)):
        near = [m for m in standing if int(hashes[m] ^ hashes[n]).bit_count() <= RADIUS]
        others = [m for m in near if files[m] != files[n]]
        if others and alike[n, others].max() >= SIMILARITY:
            answers[n] = others
        elif sum(hashes[m] == hashes[n] for m in near) < equal_most and len(near) < crowd:
            standing.append(n)
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
    st.tuples(st.integers(1, 4), st.sampled_from([2**64 - 1, 2**12 - 1, 0x0303030303030303])),
    st.integers(1, 12),
    st.sampled_from([1, 3, 1000]),
    st.sampled_from([1, 2, 16]),
    st.sampled_from([1, 5, 20, 128]),
    st.sampled_from([(2, 5, 512, 256), (2, 2**14, 512, 256), (9, 5, 512, 256), (9, 2**14, 0, 2), (256, 2**14, 0, 2)]),
)
def test_the_answers_are_those_of_the_rule(seed, count, codes, scenes, files, standing, crowd, blocks):
    hashes, thumbnails = pictures(seed, count, codes[0], scenes, 9)
    hashes &= np.uint64(codes[1])
    of_file = np.random.default_rng(seed).integers(0, files, count)
    shown = textures(thumbnails)
    alike = shown @ shown.T
    assume(np.abs(alike - SIMILARITY).min() > 1e-6)  # where the order of sums would decide
    with (
        patch.object(module, "_FEW", blocks[0]),
        patch.object(module, "STANDING", standing),
        patch.object(module, "CROWD", crowd),
        patch.object(module, "_PIECE", blocks[1]),
        patch.multiple(near_hashes, _TABLE=blocks[2], _RUN=blocks[3]),
    ):
        numbers, like = look_alikes(hashes, of_file, thumbnails, np.arange(count))
    expected = picture_by_picture(hashes, of_file, alike, standing, crowd)
    assert numbers.tolist() == list(expected)
    for n, m in zip(numbers.tolist(), like.tolist(), strict=True):
        assert m in expected[n]
        assert alike[n, m] > alike[n, expected[n]].max() - 2e-6


def test_of_a_crowd_the_first_stays(tmp_path):
    hashes, thumbnails = pictures(1, 600, 1, 1, 0)
    numbers, like = look_alikes(hashes, np.arange(600), thumbnails, np.arange(600), tmp_path)
    near = np.flatnonzero(np.bitwise_count(hashes ^ hashes[0]) <= RADIUS)
    assert set(near[1:].tolist()) <= set(numbers.tolist())
    assert not np.isin(like, numbers).any()  # what a dropped one is like was not dropped itself
    assert not list(tmp_path.iterdir())


def test_nothing_is_a_look_alike_of_nothing():
    none = np.empty(0, np.int64)
    numbers, like = look_alikes(none.astype(np.uint64), none, np.empty((0, THUMBNAIL**2), np.uint8), none)
    assert not len(numbers)
    assert not len(like)


@pytest.mark.parametrize("scenes", [1, 1500])
def test_each_picture_of_a_crowd_is_compared_with_few(scenes):
    """All hashes are near each other; all pictures look alike, or none does."""
    _, thumbnails = pictures(2, 1500, 1, scenes, 0)
    hashes = np.array([1 << n % 3 | 1 << 8 + n % 5 for n in range(1500)], np.uint64)
    compared = []
    honest = module._Textures.alike

    def alike(self, i, j):
        compared.append(len(i))
        return honest(self, i, j)

    with (
        patch.object(module, "_FEW", 16),
        patch.object(module, "CROWD", 8),
        patch.object(module._Textures, "alike", alike),
    ):
        numbers, _ = look_alikes(hashes, np.arange(1500), thumbnails, np.arange(1500))
    assert len(numbers) == 1499 if scenes == 1 else len(numbers) < 50
    assert 1400 < sum(compared) < 1500 * (8 + 16)


def test_a_sketch_rules_out_no_look_alike(tmp_path):
    """The worst pair: textures that correlate by hardly more than SIMILARITY, and differ in what a sketch sums up."""
    shown = np.zeros((2, THUMBNAIL**2), np.float32)
    with (
        (tmp_path / "textures").open("w+b") as file,
        patch.object(module, "textures", lambda thumbnails: thumbnails),
    ):
        cache = module._Textures(shown, np.arange(2), file)
        angle = np.arccos(SIMILARITY + 1e-4)
        shown[0, :THUMBNAIL] = cache._signs[0]
        shown[1] = np.cos(angle) * shown[0]
        shown[1, THUMBNAIL : 2 * THUMBNAIL] = np.sin(angle) * cache._signs[1]
        places, correlations = cache.alike(np.array([1]), np.array([0]))
    assert places.tolist() == [0]
    assert correlations == pytest.approx(SIMILARITY + 1e-4, abs=1e-6)
