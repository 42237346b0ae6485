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


def test_sizes_that_differ_in_feed_forward_or_patches_alone_keep_their_names(monkeypatch):
    lean = SIZES["vit-base"]._replace(ffn_type="swiglu", mlp_ratio=3.0)
    more = {"vit-base-wide": lean._replace(mlp_ratio=6.0), "vit-base-lean": lean}
    more["vit-small-fine"] = SIZES["vit-small"]._replace(patch_size=8)
    for name, size in more.items():
        monkeypatch.setitem(SIZES, name, size)
    assert [size_name(size._asdict()) for size in more.values()] == [
        "ViT-Base-Wide/16", "ViT-Base-Lean/16", "ViT-Small-Fine/8",
    ]  # fmt: skip
    assert size_name(SIZES["vit-small"]._asdict()) == "ViT-Small/16"
    assert size_name(SIZES["vit-small"]._replace(patch_size=32)._asdict()) == "ViT-Small/32"


def test_a_changed_size_has_no_name():
    config = BioVFMConfig.from_size("vit-small", num_hidden_layers=3).to_dict()
    assert size_name(config) is None and size_words(config) == "ViT of width 384 with 3 blocks"
    assert size_words({}) == "ViT"
