"""The authors' ways of reading: SAM before its neck, VGG by its second hidden layer."""

import pytest
import torch
import transformers

from evaluation.encoders.lineup import LINEUP, SHORT_NAMES
from evaluation.encoders.tokens import Reading, run


def test_short_names_load_the_authors_checkpoints():
    assert SHORT_NAMES["resnet152"] == "timm:resnet152.tv2_in1k"
    assert SHORT_NAMES["in21k-vit-b"] == "timm:vit_base_patch16_224.orig_in21k_ft_in1k"
    assert SHORT_NAMES["in21k-vit-l"] == "google/vit-large-patch16-224"
    assert LINEUP["sam-l"].reading == {"before_neck": True} and LINEUP["vgg19"].reading == {"by_pooled": True}
    assert all(entry.parameters and entry.size and entry.licence and entry.paper for entry in LINEUP.values())


def test_sam_is_read_before_its_neck():
    config = transformers.SamVisionConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64, output_channels=8, window_size=2
    )
    module = transformers.models.sam.modeling_sam.SamVisionEncoder(config).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        after, before = (run(module, pixels, 0, Reading(before_neck=neck)) for neck in (False, True))
        module.neck = torch.nn.Identity()  # as the authors do
        theirs = module(pixels).last_hidden_state.mean((1, 2))
    assert after.summary()["mean"].shape == (2, 8)
    assert torch.allclose(before.summary()["mean_raw"], theirs, atol=1e-6)


def test_vgg_is_read_by_its_own_vector_and_keeps_its_map():
    timm = pytest.importorskip("timm")
    module = timm.create_model("vgg11", pretrained=False, num_classes=0).eval()
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        encoded, own = run(module, pixels, 0, Reading(by_pooled=True)), module(pixels)
    assert all(torch.equal(vector, own) for vector in encoded.summary().values()) and own.shape == (1, 4096)
    assert encoded.patches().shape == (1, 7, 7, 512)
