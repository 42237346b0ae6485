"""Fingerprints of pictures."""

import cv2
import numpy as np
import pytest
from PIL import Image

from dataset_builder.screening.hashing import THUMBNAIL, fingerprint, reduced, sha256_of_pixels, textures


def distance(a: int, b: int) -> int:
    return (a ^ b).bit_count()


def test_fingerprints_survive_what_copies_go_through(make):
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
            one, two = textures(np.stack([thumbnail, shown]))
            assert one @ two > 0.97
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


def test_a_texture_is_that_of_its_picture_whatever_the_others():
    thumbnails = np.random.default_rng(0).integers(0, 256, (70, THUMBNAIL**2), dtype=np.uint8)
    thumbnails[3] = 9  # without texture
    shown = textures(thumbnails)
    for some in ([4], [69, 3, 0], list(range(30, 64))):
        assert np.array_equal(textures(thumbnails[some]), shown[some])
    picture = thumbnails[5].reshape(THUMBNAIL, THUMBNAIL).astype(np.float32)
    picture = cv2.GaussianBlur(picture, (0, 0), 0.9)
    band = picture - cv2.GaussianBlur(picture, (0, 0), 2.0)
    expected = (band / (np.sqrt(cv2.GaussianBlur(band * band, (0, 0), 2.0)) + 3)).ravel()
    expected -= expected.mean()
    assert shown[5] == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)
    assert not shown[3].any()
