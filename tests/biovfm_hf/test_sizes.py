"""Facts about sizes and families that need no configuration."""

from typing import get_args

import pytest

from biovfm_hf.configuration_biovfm import FAMILY_FIELDS
from biovfm_hf.sizes import SIZES, Family, swiglu_width

RELEASED = {"vit-small-plus": 1536, "vit-huge": 3416, "vit-huge-plus": 5120, "vit-giant": 4096, "vit-7b": 8192}


@pytest.mark.parametrize(("name", "width"), RELEASED.items())
def test_a_swiglu_is_as_wide_as_in_the_released_weights(name: str, width: int) -> None:
    assert swiglu_width(SIZES[name].hidden_size, SIZES[name].mlp_ratio) == width


def test_every_family_has_its_fields() -> None:
    assert set(get_args(Family)) == set(FAMILY_FIELDS)
