"""Keywords of timm in an encoder's name: their types, what they change, and what is refused."""

import numpy as np
import pytest
import safetensors.torch
import torch

from biovfm_hf.errors import UserError
from evaluation.encoders.lineup import LINEUP
from evaluation.encoders.load import load_encoder
from evaluation.encoders.timm_keywords import split_keywords

timm = pytest.importorskip("timm")
TINY = dict(img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A ViT with LayerScale and a packed SwiGLU, whose folder does not say so, like Virchow's."""
    torch.manual_seed(0)
    told = {**TINY, "reg_tokens": 4}
    layers = dict(mlp_layer=timm.layers.SwiGLUPacked, act_layer=torch.nn.SiLU, init_values=1e-5)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **told, **layers).eval()
    path = tmp_path_factory.mktemp("vit")
    timm.models.save_for_hf(timm.create_model("vit_tiny_patch16_224", num_classes=0, **told), path, model_args=told)
    safetensors.torch.save_file(model.state_dict(), path / "model.safetensors")
    return path, model


def test_values_have_the_types_of_their_text():
    name, keywords = split_keywords(
        "hf-hub:o/n?init_values=1e-5&dynamic_img_size=true&depth=24&global_pool=token&out=[1,2]&x=null"
    )
    assert name == "hf-hub:o/n"
    assert keywords == {
        "init_values": 1e-5, "dynamic_img_size": True, "depth": 24, "global_pool": "token", "out": [1, 2], "x": None,
    }  # fmt: skip
    assert split_keywords("resnet18") == ("resnet18", {})


def test_keywords_build_the_network_that_the_weights_are_of(folder):
    path, model = folder
    words = "init_values=1e-5&mlp_layer=SwiGLUPacked&act_layer=SiLU"
    encoder = load_encoder(f"timm:{path}?{words}")
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.forward_features(pixels)
    encoded = encoder.encode(pixels)
    torch.testing.assert_close(encoded.normed, expected, atol=1e-5, rtol=0)
    assert encoded.prefix == 5 and encoder.revision.endswith(words)
    both = torch.cat([encoded.summary()[name] for name in ("class", "mean")], 1)  # Virchow2's own recommendation
    torch.testing.assert_close(both, torch.cat([expected[:, 0], expected[:, 5:].mean(1)], 1), atol=1e-5, rtol=0)


def test_images_are_brought_to_the_size_that_a_keyword_gives(folder):
    encoder = load_encoder(f"timm:{folder[0]}?init_values=1e-5&mlp_layer=SwiGLUPacked&act_layer=SiLU&img_size=48")
    pixels = encoder.preprocess([np.zeros((30, 40, 3), np.uint8)])
    assert encoder.size == 48 and encoder.encode(pixels).grid == (6, 6)
    with pytest.raises(UserError, match="refuses images of 32 x 32 pixels"):
        encoder.encode(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("", "cannot be loaded"),  # the weights belong to another network
        ("init_values=1e-5&mlp_layer=SwiGLUPacked&act_layer=SiLU&no_such_keyword=1", "no_such_keyword"),
        ("mlp_layer=NoLayer", "is no layer of timm.layers or torch.nn"),
        ("act_layer=os", "is no layer"),
        ("init_values", "no NAME=VALUE"),
        ("pretrained=false", "pretrained cannot be given"),
        ("num_classes=3", "num_classes cannot be given"),
        ('pretrained_cfg_overlay={"file":"other.safetensors"}', "pretrained_cfg_overlay cannot be given"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(folder, words, reason):
    with pytest.raises(UserError, match=reason) as refusal:
        load_encoder(f"timm:{folder[0]}?{words}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "arguments", "prefix", "patches"),
    [
        ("uni", {}, 1, 196),
        ("uni2-h", {}, 9, 256),
        ("virchow", {"mlp_ratio": 5.3375, "dynamic_img_size": True, "global_pool": "", "init_values": 1e-5}, 1, 256),
        ("virchow2", {"mlp_ratio": 5.3375, "reg_tokens": 4, "dynamic_img_size": True, "global_pool": "",
                      "init_values": 1e-5}, 5, 256),
    ],
)  # fmt: skip
def test_the_pathology_models_keywords_build_the_networks_of_their_cards(name, arguments, prefix, patches):
    """On no device: parameters as the cards tell, and tokens. What a card's config.json has is in `arguments`."""
    architecture = {"uni": "vit_large_patch16_224", "uni2-h": "vit_giant_patch14_224"}
    _, keywords = split_keywords(LINEUP[name].source.removeprefix("timm:"))
    network = architecture.get(name, "vit_huge_patch14_224")
    size = {} if name == "uni2-h" else {"img_size": 224}
    with torch.device("meta"):
        model = timm.create_model(network, num_classes=0, **size, **arguments, **keywords)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(LINEUP[name].parameters, rel=0.01)
    assert model.embed_dim == LINEUP[name].width and model.num_prefix_tokens == prefix
    assert model.patch_embed.num_patches == patches
