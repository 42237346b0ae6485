"""Fingerprints and the look-up of near hashes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dataset_builder.screening.hashing import THUMBNAIL, fingerprint, neighbours, reduced, sha256_of_pixels, similarity


def distance(a: int, b: int) -> int:
    return (a ^ b).bit_count()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(0, 10),
)
def test_neighbours_are_those_of_a_full_comparison(seed, n, m, radius):
    rng = np.random.default_rng(seed)
    left = rng.integers(0, 2**63, n, dtype=np.uint64) if n else np.empty(0, np.uint64)
    right = rng.integers(0, 2**63, m, dtype=np.uint64) if m else np.empty(0, np.uint64)
    for k in range(min(n, m)):  # some true neighbours at every distance around the radius
        flips = rng.choice(64, k % 14, replace=False)
        right[k] = left[k] ^ np.uint64(sum(1 << int(bit) for bit in flips))
    i, j = neighbours(left, right, radius)
    full = np.bitwise_count(left[:, None] ^ right[None]) <= radius
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == list(
        zip(*map(np.ndarray.tolist, np.nonzero(full)), strict=True)
    )


def test_distinct_neighbours_leave_out_each_hash_itself():
    hashes = np.random.default_rng(0).integers(0, 2**63, 300, dtype=np.uint64)
    hashes[100:200] = hashes[:100] ^ np.uint64(5)
    pairs = {tuple(pair) for pair in zip(*neighbours(hashes, hashes, 4), strict=True)}
    distinct = {tuple(pair) for pair in zip(*neighbours(hashes, hashes, 4, distinct=True), strict=True)}
    assert distinct == {(i, j) for i, j in pairs if i != j}
    assert len(distinct) >= 200


def test_neighbours_of_many_equal_hashes():
    crowd = np.zeros(600, np.uint64)
    i, _ = neighbours(crowd, crowd[:400], 3)
    assert len(i) == 600 * 400


def test_the_lookup_is_sub_linear():
    """A hundred times as many hashes must not cost a hundred times a hundred times as much."""
    import time

    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 100_000, dtype=np.uint64)
    started = time.process_time()
    neighbours(hashes[:1000], hashes, 4)
    assert time.process_time() - started < 5
    started = time.process_time()
    neighbours(hashes, hashes, 4)
    assert time.process_time() - started < 20  # all pairs would be 10^10 comparisons


def test_fingerprints_bear_what_copies_go_through(make):
    for seed in range(12):
        image = make.picture(seed, 200, 260)
        code, thumbnail = fingerprint(reduced(image))
        for altered in (
            np.asarray(Image.fromarray(image).resize((130, 100), Image.Resampling.BICUBIC)),
            np.clip(image * 0.8 + 20, 0, 255).astype(np.uint8),
            np.repeat(image[..., None], 3, axis=2),
        ):
            other, shown = fingerprint(reduced(altered))
            assert distance(code, other) <= 4
            assert similarity(thumbnail, shown[None])[0] > 0.97
        others = [fingerprint(reduced(make.picture(100 + n, 200, 260))) for n in range(12)]
        assert min(distance(code, other) for other, _ in others) > 8
        mirrored, _ = fingerprint(reduced(image[:, ::-1]))
        assert distance(code, mirrored) > 8


def test_thumbnails_are_those_of_pillow(make):
    image = reduced(make.picture(1, 112, 80))
    _, thumbnail = fingerprint(image)
    expected = np.asarray(Image.fromarray(image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC), int)
    assert np.abs(thumbnail.reshape(THUMBNAIL, THUMBNAIL).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("shape", [(1, 1), (5, 112), (28, 28), (300, 2)])
def test_any_shape_has_a_fingerprint(shape):
    code, thumbnail = fingerprint(reduced(np.full(shape, 7, np.uint8)))
    assert 0 <= code < 2**64
    assert thumbnail.shape == (THUMBNAIL**2,)


def test_the_exact_hash_knows_shape_and_values():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert sha256_of_pixels(image) == sha256_of_pixels(np.asfortranarray(image))
    assert len({sha256_of_pixels(x) for x in (image, image.T, image.reshape(4, 3), image + 1, image[..., None])}) == 4
