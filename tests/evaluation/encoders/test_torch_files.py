"""Encoders published as torch files: MedDINOv3 against DINOv3's code, MedImageInsight against its authors' DaViT."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn import functional

from biovfm_hf.errors import UserError
from evaluation.encoders.families import find_family
from evaluation.encoders.load import load_encoder
from evaluation.encoders.projects import load_torch_file
from evaluation.encoders.published import TORCH_FILES

timm = pytest.importorskip("timm")
REFERENCE = Path(__file__).parents[2] / "reference"


def read(name):
    with safe_open(REFERENCE / name, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def build(monkeypatch, network, **sizes):
    """Make timm build a small network instead of the published one."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **keywords: create(network, **keywords, **sizes))


def test_meddinov3_is_read_as_dinov3s_own_code_reads_it(monkeypatch, tmp_path):
    tensors, metadata = read("dinov3_backbone_a.safetensors")
    form = json.loads(metadata["json"])["constructor"]
    build(monkeypatch, "vit_tiny_patch16_dinov3_qkvb", depth=form["depth"], embed_dim=64, num_heads=4, img_size=64)
    own = {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}
    teacher = {f"backbone.{name}": value for name, value in own.items()} | {"dino_head.mlp.0.weight": torch.ones(2)}
    torch.save({"teacher": teacher}, tmp_path / "model.pth")
    encoder = load_encoder(f"meddinov3:{tmp_path}")
    encoded = encoder.encode(tensors["in.native.image"])
    torch.testing.assert_close(encoded.normed[:, 0], tensors["out.native.cls"], atol=1e-4, rtol=0)
    patches = encoded.patches().flatten(1, 2)
    torch.testing.assert_close(patches, tensors["out.native.patch"].reshape(patches.shape), atol=1e-4, rtol=0)
    assert encoded.prefix == 5 and torch.equal(encoder.module.rope.periods, own["rope_embed.periods"].float())


@pytest.mark.parametrize("key", TORCH_FILES)
def test_each_published_file_is_a_family(key):
    assert find_family(f"{key}:model.pth").load is load_torch_file


def test_meddinov3_takes_hounsfield_units_of_one_window():
    entry = TORCH_FILES["meddinov3"]
    shown = (np.array([-1000.0, 65.108, 1000.0]) + 1000) / 2000  # by the window, in 0..1
    expected = (np.array([-1000.0, 65.108, 1000.0]) - 65.108) / 178.017
    np.testing.assert_allclose((shown - entry.mean[0]) / entry.std[0], expected, atol=1e-9)


def test_medimageinsight_gives_its_authors_vectors(monkeypatch, tmp_path):
    tensors, _ = read("medimageinsight.safetensors")
    sizes = dict(depths=(1, 1, 2, 1), embed_dims=(8, 8, 16, 16), num_heads=(2, 2, 4, 4))
    build(monkeypatch, "davit_huge_fl", **sizes)
    weights = {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}
    torch.save({**weights, "lang_encoder.token_embedding.weight": torch.ones(2)}, tmp_path / "vision.pt")
    encoder = load_encoder(f"medimageinsight:{tmp_path / 'vision.pt'}")
    encoded = encoder.encode(tensors["pixel_values"])
    expected = functional.normalize(tensors["pooled"] @ weights["image_projection"], dim=-1)
    torch.testing.assert_close(encoded.summary()["pooled"], expected, atol=1e-5, rtol=0)
    assert encoded.grid == (3, 3) and "licence" in encoder.notes[0]
    pixels = encoder.preprocess([np.full((20, 30, 3), 255, np.uint8)])
    assert pixels.shape == (1, 3, 480, 480) and pixels[0, 0, 0, 0].item() == pytest.approx((1 - 0.485) / 0.229)


def test_files_of_something_else_are_refused(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="no such file; give the authors' file"):
        load_encoder("meddinov3:nowhere.pth")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no model\.pth"):
        load_encoder(f"meddinov3:{tmp_path / 'empty'}")
    build(monkeypatch, "vit_tiny_patch16_dinov3_qkvb", depth=1, embed_dim=64, num_heads=4)
    torch.save({"teacher": {"backbone.cls_token": torch.zeros(1, 1, 64)}}, tmp_path / "model.pth")
    with pytest.raises(UserError, match="tensors of meddinov3 are lacking or differ"):
        load_encoder(f"meddinov3:{tmp_path / 'model.pth'}")


@pytest.mark.usefixtures("hub_without_address")
def test_without_a_network_the_short_names_say_what_is_needed():
    with pytest.raises(UserError, match="ricklisz123/MedDINOv3-ViTB-16-CT-3M is neither a file nor"):
        load_encoder("meddinov3")
