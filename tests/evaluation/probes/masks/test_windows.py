"""Windows of large images: they cover the image, and their merged scores are those of the whole image."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.probes.masks.problem import MaskProblem
from evaluation.probes.masks.windows import OVERLAP, cut_windows, place_windows, stitched
from evaluation.tasks import Split


@settings(max_examples=80, deadline=None)
@given(st.tuples(st.integers(1, 70), st.integers(1, 70)), st.integers(1, 40))
def test_windows_cover_an_image_and_overlap_by_a_third_at_least(shape, side):
    covered = np.zeros(shape, int)
    places = place_windows(0, shape, side)
    for place in places:
        part = covered[place.top : place.top + place.side, place.left : place.left + place.side]
        assert part.shape == (place.side, place.side) and place.side == min(side, *shape)
        part += 1
    assert covered.min() == 1 or covered.min() > 1
    for starts in ({place.top for place in places}, {place.left for place in places}):
        steps = np.diff(sorted(starts))
        assert (steps <= max(1, round(min(side, *shape) * (1 - OVERLAP)))).all()
    assert len(set(places)) == len(places)


class Plain:
    """Arrays as a task's images or masks."""

    def __init__(self, arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays)

    def __getitem__(self, index):
        return self.arrays[index]

    def fingerprint(self):
        return "plain"


@pytest.fixture
def problem():
    """Three test images of different sizes, the last two slices of one case, and masks that follow brightness."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (*shape, 3), np.uint8) for shape in ((30, 44), (16, 16), (50, 20))]
    masks = Plain([(image[..., 0] > 128).astype(np.uint8) for image in images])
    split = Split(Plain(images), masks=masks, case_of_image=np.array([0, 1, 1]))
    return MaskProblem("plain", 2, {"train": split, "val": split, "test": split})


def test_cut_images_and_masks_are_parts_of_one_place_and_keep_their_case(problem):
    windows = cut_windows(problem, 16).splits["test"]
    whole = problem.splits["test"]
    assert len(windows.images) == len(windows.masks) == len(windows.case_of_image) > 3
    for number, place in enumerate(windows.images.places):
        assert windows.case_of_image[number] == whole.case_of_image[place.image]
        assert np.array_equal(windows.masks[number], (windows.images[number][..., 0] > 128))
        rows, columns = slice(place.top, place.top + 16), slice(place.left, place.left + 16)
        assert np.array_equal(windows.images[number], whole.images[place.image][rows, columns])
    assert windows.images.fingerprint() != cut_windows(problem, 15).splits["test"].images.fingerprint()


def test_scores_that_depend_on_a_pixel_alone_are_put_together_as_if_of_the_whole(problem):
    windows = cut_windows(problem, 16).splits["test"]

    def brightness(images, rows):
        return [torch.from_numpy(images[int(row)][..., :2].copy()).permute(2, 0, 1).float() for row in rows]

    rows = np.array([2, 0])
    whole = stitched(lambda numbers: brightness(windows.images, numbers), windows)(rows)
    for scores, expected in zip(whole, brightness(problem.splits["test"].images, rows), strict=True):
        torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-3)


def test_the_middle_of_a_window_weighs_more_than_its_border(problem):
    windows = cut_windows(problem, 16).splits["test"]
    of_first = [n for n, place in enumerate(windows.images.places) if place.image == 0]

    def numbered(rows):  # each window predicts its own index with certainty
        return [torch.full((1, 1, 1), float(of_first.index(int(row)))) for row in rows]

    (scores,) = stitched(numbered, windows)(np.array([0]))
    first, second = windows.images.places[of_first[0]], windows.images.places[of_first[1]]
    overlap = scores[0, 0, second.left : first.left + 16]
    assert first.top == second.top == 0 and len(overlap) >= 4
    assert (overlap.diff() > 0).all() and overlap[0] < 0.5 < overlap[-1]
