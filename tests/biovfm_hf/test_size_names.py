"""Names of sizes follow from the configuration, never from the name of a model."""

import pytest

from biovfm_hf import BioVFMConfig
from biovfm_hf.size_names import size_name, size_words
from biovfm_hf.sizes import SIZES


@pytest.mark.parametrize("name", SIZES)
def test_every_named_size_is_known_again(name):
    config = BioVFMConfig.from_size(name).to_dict()
    title = name[4:].title().replace("-Plus", "+")
    assert size_name(config) == f"ViT-{title}/{config['patch_size']}"


def test_a_changed_size_has_no_name():
    config = BioVFMConfig.from_size("vit-small", num_hidden_layers=3).to_dict()
    assert size_name(config) is None and size_words(config) == "ViT of width 384 with 3 blocks"
    assert size_words({}) == "ViT"
