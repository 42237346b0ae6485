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
        near = [m for m in standing if int(hashes[m] ^ hashes[n]).bit_count() <= RADIUS][:crowd]
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
        patch.object(module, "_LISTED", blocks[0]),
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


KINDS = {
    "uniform, with near copies": lambda rng, count: (
        rng.integers(0, 2**64, -(-count // 2), np.uint64).repeat(2)[:count] ^ rng.integers(0, 2, count, np.uint64)
    ),
    "equal bits": lambda rng, count: rng.integers(0, 2**12, count, dtype=np.uint64),
    "equal": lambda rng, count: np.full(count, 7, np.uint64),
    "near each other": lambda rng, count: around(rng, count, 1, 2),
    "around a centre": lambda rng, count: around(rng, count, 1, 4),
    "28 free bits": lambda rng, count: rng.integers(0, 2**28, count, dtype=np.uint64) << np.uint64(17),
    "20 free bits": lambda rng, count: rng.integers(0, 2**20, count, dtype=np.uint64) << np.uint64(17),
    "crowds of 800": lambda rng, count: around(rng, count, count // 800, 3),
}


def around(rng: np.random.Generator, count: int, centres: int, bits: int) -> np.ndarray:
    """Random hashes of which up to `bits` bits are those of another centre."""
    hashes = rng.integers(0, 2**64, centres, dtype=np.uint64)[rng.integers(0, centres, count)]
    places = np.argsort(rng.random((count, 64)), axis=1)[:, :bits].astype(np.uint64)
    flipped = np.arange(bits) < rng.integers(0, bits + 1, count)[:, None]
    return hashes ^ np.bitwise_or.reduce(flipped.astype(np.uint64) << places, axis=1)


def mixture(rng: np.random.Generator, count: int) -> np.ndarray:
    """A bit of each kind, in random order."""
    share = -(-count // len(KINDS))
    return rng.permutation(np.concatenate([kind(rng, max(share, 800)) for kind in KINDS.values()]))[:count]


@pytest.mark.parametrize("listed", [0, 2**24])
@pytest.mark.parametrize("kind", [*KINDS, "mixture"])
def test_crowds_are_decided_by_the_rule(kind, listed):
    rng = np.random.default_rng(4)
    hashes = KINDS.get(kind, mixture)(rng, 1600)
    scenes = rng.integers(0, 256, (1200, THUMBNAIL**2))[rng.integers(0, 1200, 1600) * rng.integers(0, 2, 1600)]
    thumbnails = np.clip(scenes + rng.normal(0, 2, scenes.shape), 0, 255).astype(np.uint8)
    files = rng.integers(0, 400, 1600)
    shown = textures(thumbnails)
    alike = shown @ shown.T
    with patch.object(module, "_LISTED", listed):
        numbers, like = look_alikes(hashes, files, thumbnails, np.arange(1600))
    expected = picture_by_picture(hashes, files, alike, module.STANDING, module.CROWD)
    assert 0 < len(expected) < 1600
    assert numbers.tolist() == list(expected)
    assert all(alike[n, m] > alike[n, expected[n]].max() - 2e-6 for n, m in zip(numbers, like, strict=True))


@pytest.mark.parametrize("scenes", [1, 4000])
@pytest.mark.parametrize("kind", ["equal", "near each other", "around a centre", "crowds of 800"])
def test_each_picture_of_a_crowd_is_compared_with_few(kind, scenes):
    """All pictures look alike, or none does: few hashes and few textures are compared for each."""
    rng = np.random.default_rng(2)
    hashes = KINDS[kind](rng, 4000)
    thumbnails = rng.integers(0, 256, (scenes, THUMBNAIL**2), dtype=np.uint8)
    rows = np.arange(4000) % scenes
    near, compared = [], []

    def neighbours(left, right, radius):
        for i, j in near_hashes.neighbours(left, right, radius):
            near.append(len(i))
            yield i, j

    def alike(self, i, j):
        compared.append(len(i))
        return honest(self, i, j)

    honest = module._Textures.alike
    with (
        patch.object(module, "CROWD", 8),
        patch.object(module, "neighbours", neighbours),
        patch.object(module._Textures, "alike", alike),
    ):
        numbers, _ = look_alikes(hashes, np.arange(4000), thumbnails, rows)
    assert len(numbers) > 3500 if scenes == 1 else not len(numbers)
    assert sum(compared) < 2 * 8 * 4000
    assert sum(near) < 8 * 8 * 4000


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
