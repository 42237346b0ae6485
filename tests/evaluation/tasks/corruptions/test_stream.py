"""Corrupted images are the same in whatever order they are asked for."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from evaluation.tasks.corruptions import stream as streams
from evaluation.tasks.corruptions.benchmark import CORRUPTIONS, SIDE, Benchmark, benchmarks
from evaluation.tasks.corruptions.stream import Stream


class Pictures:
    def __init__(self, count, size=(SIDE, SIDE)):
        rng = np.random.default_rng(1)
        self.arrays = rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)

    def __len__(self):
        return len(self.arrays)

    def __getitem__(self, index):
        return self.arrays[index]

    def fingerprint(self):
        return "pictures"


def benchmark(*names, grey=False):
    strengths = {name: next(b.strengths[name] for b in benchmarks().values() if name in b.strengths) for name in names}
    return Benchmark("some", grey, strengths, 0.1, dict.fromkeys(names, 0.2))


def in_order(images):
    return [images[index] for index in range(len(images))]


def test_images_do_not_depend_on_who_asks_first():
    few, chosen = Pictures(6), benchmark("shot_noise", "stain_deposit")
    straight = Stream(few, chosen)
    expected = {one: in_order(straight.corrupted(*one)) for one in chosen.passes[:7]}
    late = Stream(few, chosen).corrupted("stain_deposit", 2)  # earlier passes are drawn through
    np.testing.assert_array_equal(late[4], expected["stain_deposit", 2][4])
    np.testing.assert_array_equal(late[1], expected["stain_deposit", 2][1])  # an earlier image after a later one
    with ThreadPoolExecutor(4) as pool:
        images = Stream(few, chosen).corrupted("shot_noise", 1)
        for index, made in enumerate(pool.map(images.__getitem__, range(6))):
            np.testing.assert_array_equal(made, expected["shot_noise", 1][index])


def test_numbers_that_are_kept_are_few(monkeypatch):
    monkeypatch.setattr(streams, "KEPT", 2)
    few, chosen = Pictures(6), benchmark("motion_blur")
    expected = in_order(Stream(few, chosen).corrupted("motion_blur", 1))
    images = Stream(few, chosen).corrupted("motion_blur", 1)
    np.testing.assert_array_equal(images[5], expected[5])
    assert len(images._drawn) <= 2
    np.testing.assert_array_equal(images[0], expected[0])


def test_seeds_and_strengths_change_images():
    few, chosen = Pictures(2), benchmark("impulse_noise")
    first, again, other = (Stream(few, chosen, seed).corrupted("impulse_noise", 1) for seed in (0, 0, 1))
    stronger = Stream(few, chosen).corrupted("impulse_noise", 5)
    assert first.fingerprint() == again.fingerprint()
    assert len({each.fingerprint() for each in (first, other, stronger)}) == 3
    assert (first[0] != other[0]).any()
    assert (first[1] != few[1]).mean() < (stronger[1] != few[1]).mean()


@pytest.mark.parametrize("size", [(28, 28), (40, 64), (300, 250)])
def test_other_sizes_are_brought_to_the_benchmarks(size):
    one = Pictures(1, size)
    stream = Stream(one, benchmark(*CORRUPTIONS, grey=True))
    for name, severity in [
        (name, 3) for name in ("bubble", "characters", "stain_deposit", "zoom_blur", "motion_blur")
    ]:
        image = stream.corrupted(name, severity)[0]
        assert image.shape[2] == 3 and min(image.shape[:2]) == SIDE and image.dtype == np.uint8
        assert (image[..., 0] == image[..., 1]).all()
        assert (image.shape[0] < image.shape[1]) == (size[0] < size[1])
