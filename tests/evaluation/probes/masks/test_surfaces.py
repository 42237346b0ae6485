"""Surface distances of test cases: volumes are assembled from slices and measured in their spacing."""

import nibabel
import numpy as np
import pytest
import torch

from evaluation.probes.masks.cases import whole_cases
from evaluation.probes.masks.judging import measure_cases
from evaluation.probes.masks.problem import Segmentation
from evaluation.probes.masks.surfaces import SurfaceRule
from evaluation.statistics.masks import SURFACE_VALUES
from evaluation.statistics.surface import average_distance, hausdorff, measure_surfaces, surface_dice
from evaluation.tasks import Split
from evaluation.tasks.volumes import _header


def block(shape, start, stop, value):
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = value
    return mask


@pytest.fixture
def volumes():
    """Two cases of 5 and 12 slices, decided and true, and the split of their slices."""
    truth = [block((5, 12, 10), (1, 2, 2), (4, 8, 7), 1), block((12, 12, 10), (2, 2, 2), (9, 7, 8), 1)]
    decided = [np.roll(truth[0], 1, 1), np.roll(truth[1], 1, 0)]
    truth[1][10, 1:3, 1:3] = 2  # a structure that was not predicted
    split = Split(
        images=list(np.concatenate(truth)),
        masks=list(np.concatenate(truth)),
        case_of_image=np.repeat([0, 1], [5, 12]),
        spacing=np.array([[5.0, 0.8, 0.7], [3.0, 1.0, 2.0]]),
    )
    return truth, decided, split


def predictor(decided):
    slices = torch.from_numpy(np.concatenate(decided).astype(np.int64))
    return lambda rows: torch.nn.functional.one_hot(slices[rows], 3).permute(0, 3, 1, 2).float()


def measured(split, decided, rule):
    """Surface values of the cases of a split, of three classes."""
    segmentation = Segmentation(predictor(decided), {}, 0)
    return measure_cases(split, 3, segmentation, rule)[SURFACE_VALUES]


def test_slices_become_their_volumes(volumes):
    truth, decided, split = volumes
    for (mask, true), expected, known in zip(whole_cases(split, 3, predictor(decided)), decided, truth, strict=True):
        assert np.array_equal(mask, expected) and np.array_equal(true, known)


@pytest.mark.parametrize("convention", ["deepmind", "monai"])
def test_volumes_are_measured_in_their_spacing(volumes, convention):
    truth, decided, split = volumes
    rule = SurfaceRule(convention, 1.0)
    values = measured(split, decided, rule)
    assert values.shape == (2, 2, 3)
    for case in range(2):
        surfaces = measure_surfaces(decided[case] == 1, truth[case] == 1, split.spacing[case], convention)
        wanted = [hausdorff(surfaces, 95, convention), surface_dice(surfaces, 1.0)]
        np.testing.assert_allclose(values[case, 0], [*wanted, average_distance(surfaces, convention)])
    assert values[1, 1, 1] == 0 and np.isinf(values[1, 1, 2])


def test_what_has_no_finite_value_is_counted_in_the_notes(volumes):
    _, decided, split = volumes
    rule = SurfaceRule()
    notes = rule.notes(split, measured(split, decided, rule))
    assert "in mm" in notes[0] and "DeepMind" in notes[0] and "2 mm" in notes[0] and "left out" in notes[0]
    assert "hd95 2, nsd 1, assd 2 of 4" in notes[1]


def test_worst_values_stand_for_a_structure_in_one_mask_alone_and_none_for_one_in_neither(volumes):
    _, decided, split = volumes
    rule = SurfaceRule(empty="worst")
    values = measured(split, decided, rule)
    far = np.linalg.norm([11 * 3.0, 11 * 1.0, 9 * 2.0])
    assert values[1, 1].tolist() == pytest.approx([far, 0, far])  # the second class of the second volume
    assert not np.isfinite(values[0, 1, [0, 2]]).any() and np.isnan(values[0, 1, 1])
    assert "diagonal" in rule.notes(split, values)[0]


def test_spacing_follows_the_slices_whatever_the_order_of_the_file(tmp_path):
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = 5.0, -0.7, 0.9, 1.0
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 6), np.uint8), affine), tmp_path / "v.nii.gz")
    assert _header(tmp_path / "v.nii.gz").spacing == pytest.approx((5.0, 0.9, 0.7))
