"""The quickstart's structures lie where atlases of the MNI space have them."""

import numpy as np
import pytest

from biovfm_hf.quickstart.raw import load_brain
from biovfm_hf.quickstart.structures import BASAL_GANGLIA, CORTEX, STRUCTURES, VENTRICLE, Anatomy


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return Anatomy(load_brain())


@pytest.mark.parametrize(
    ("millimetres", "structure"),
    [  # centres of regions of the AAL atlas (Tzourio-Mazoyer et al., NeuroImage 15, 2002)
        ((-11, 11, 9), BASAL_GANGLIA),  # caudate
        ((15, 12, 9), BASAL_GANGLIA),
        ((-24, 4, 2), BASAL_GANGLIA),  # putamen
        ((28, 5, 2), BASAL_GANGLIA),
        ((39, 6, 2), CORTEX),  # insula
        ((-35, 7, 3), CORTEX),
    ],
)
def test_grey_matter_is_divided_by_place(anatomy: Anatomy, millimetres: tuple[int, ...], structure: int) -> None:
    x, y, z = (round(v - o) for v, o in zip(millimetres, anatomy.brain.affine[:3, 3], strict=True))
    around = anatomy.map[x - 2 : x + 3, y - 2 : y + 3, z - 2 : z + 3]
    assert (around == structure).mean() > 0.5


def test_volumes_are_those_of_a_brain(anatomy: Anatomy) -> None:
    """Millilitres: caudate, putamen and accumbens have 8 to 12 a side, both lateral ventricles 10 to 30."""
    assert 15e3 < (anatomy.map == BASAL_GANGLIA).sum() < 30e3
    assert 10e3 < (anatomy.map == VENTRICLE).sum() < 30e3


def test_certain_structures_do_not_overlap_and_brightness_does_not_separate_them(anatomy: Anatomy) -> None:
    sure = dict(zip(STRUCTURES, anatomy.sure, strict=True))
    assert np.sum(anatomy.sure, axis=0).max() == 1
    brightness = {name: anatomy.brain.t1[mask].mean() for name, mask in sure.items()}
    assert abs(brightness["cortex"] / brightness["basal ganglia"] - 1) < 0.15
