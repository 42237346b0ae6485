"""Surface distances by each of the four conventions against the figures of its library."""

import json

import numpy as np
import pytest

from biovfm_hf.errors import UserError
from evaluation.statistics.surface import (
    CONVENTIONS,
    average_distance,
    hausdorff,
    measure_surfaces,
    surface_dice,
)


@pytest.fixture(scope="module")
def cases(reference_dir):
    """Name, both masks and the references' figures of every case."""
    found = []
    for path in sorted(reference_dir.glob("surface_*.npz")):
        stored = np.load(path, allow_pickle=False)
        for name, figures in json.loads(path.with_suffix(".json").read_text()).items():
            found.append((f"{path.stem} {name}", stored[f"{name}.pred"], stored[f"{name}.gt"], figures))
    assert found, f"no surface references in {reference_dir}"
    return found


def check(found, wanted, label):
    """Equal to 1e-6, where None stands for NaN and "inf" for infinity."""
    number = np.nan if wanted is None else float(wanted)
    np.testing.assert_allclose(found, number, rtol=1e-6, atol=1e-6, err_msg=label)


def tolerances(figures):
    """{tolerance in mm: its name} of the surface Dice among the figures."""
    names = [name for name in figures if name.startswith("nsd_") and name.endswith("mm")]
    return {float(name[4:-2]): name for name in names}


def test_reference_deepmind(cases):
    for label, decided, truth, figures in cases:
        wanted, spacing = figures["deepmind"], figures["spacing"]
        surfaces = measure_surfaces(decided, truth, spacing, "deepmind")
        for percent in (100, 95, 50):
            check(hausdorff(surfaces, percent), wanted[f"hd{percent}"], f"{label} hd{percent}")
        for tolerance, name in tolerances(wanted).items():
            check(surface_dice(surfaces, tolerance), wanted[name], f"{label} {name}")
        check(surfaces.truth_sizes.sum(), wanted["surface_area_gt_pred"][0], label)
        check(surfaces.decided_sizes.sum(), wanted["surface_area_gt_pred"][1], label)
        if not surfaces.empty:
            of_truth, of_decided = wanted["assd_pair"]
            check(np.average(surfaces.to_decided, weights=surfaces.truth_sizes), of_truth, label)
            check(np.average(surfaces.to_truth, weights=surfaces.decided_sizes), of_decided, label)
            sizes = wanted["surface_area_gt_pred"]
            check(average_distance(surfaces), np.average(wanted["assd_pair"], weights=sizes), label)


def test_reference_monai(cases):
    for label, decided, truth, figures in cases:
        wanted = figures["monai"]
        surfaces = measure_surfaces(decided, truth, figures["spacing"], "monai")
        check(hausdorff(surfaces, 100, "monai"), wanted["hd100"], label)
        check(hausdorff(surfaces, 95, "monai"), wanted["hd95"], label)
        check(average_distance(surfaces, "monai"), wanted["assd_symmetric"], label)
        for tolerance, name in tolerances(wanted).items():
            check(surface_dice(surfaces, tolerance), wanted[name], f"{label} {name}")


def test_reference_medpy(cases):
    for label, decided, truth, figures in cases:
        wanted = figures.get("medpy_convention")
        surfaces = measure_surfaces(decided, truth, figures["spacing"], "medpy")
        if wanted is None:  # MedPy refuses empty masks
            assert surfaces.empty and np.isnan(hausdorff(surfaces, 95, "medpy"))
            continue
        check(hausdorff(surfaces, 100, "medpy"), wanted["hd100"], label)
        check(hausdorff(surfaces, 95, "medpy"), wanted["hd95_pooled"], label)
        check(average_distance(surfaces, "medpy"), wanted["assd"], label)


def test_reference_seg_metrics(cases):
    for label, decided, truth, figures in cases:
        wanted = figures["seg_metrics"]
        surfaces = measure_surfaces(decided, truth, figures["spacing"], "seg-metrics")
        check(hausdorff(surfaces, 100, "seg-metrics"), wanted["hd"], label)
        check(hausdorff(surfaces, 95, "seg-metrics"), wanted["hd95"], label)
        check(average_distance(surfaces, "seg-metrics"), wanted["msd"], label)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_distances_grow_with_the_spacing_and_do_not_depend_on_order(convention):
    rng = np.random.default_rng(0)
    decided, truth = rng.random((2, 6, 7, 8)) > 0.6
    once = measure_surfaces(decided, truth, (1, 2, 3), convention)
    twice = measure_surfaces(truth, decided, (2, 4, 6), convention)
    assert hausdorff(twice, 95, convention) == pytest.approx(2 * hausdorff(once, 95, convention))
    assert average_distance(twice, convention) == pytest.approx(2 * average_distance(once, convention))
    assert surface_dice(twice, 2.0) == pytest.approx(surface_dice(once, 1.0))


def test_masks_and_spacing_that_do_not_fit_are_refused():
    mask = np.ones((3, 3), bool)
    for spacing, other in (((1.0,), mask), ((1.0, 1.0), mask[:2]), ((0.0, 1.0), mask), ((np.nan, 1.0), mask)):
        with pytest.raises(UserError, match="spacing"):
            measure_surfaces(mask, other, spacing)
    with pytest.raises(UserError, match="none of deepmind"):
        measure_surfaces(mask, mask, (1.0, 1.0), "mine")
