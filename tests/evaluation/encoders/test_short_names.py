"""Short names through the Hub's cache, which has small models of the same form instead of the published ones."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers

from biovfm_hf.errors import UserError
from evaluation.commands.lists import list_encoders
from evaluation.encoders.embed import embed_batch
from evaluation.encoders.lineup import LINEUP
from evaluation.encoders.load import load_encoder

timm = pytest.importorskip("timm")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
TEXT = dict(SIZES, vocab_size=99, num_hidden_layers=1)
IMAGES = [np.random.default_rng(n).integers(0, 255, (60, 50, 3), dtype=np.uint8) for n in range(2)]
CURIA = """
import numpy as np
import torch
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature


class CuriaLike(BaseImageProcessor):
    def __call__(self, images, return_tensors="pt"):
        grey = torch.from_numpy(images.astype(np.float32))[None, None]
        grey = torch.nn.functional.interpolate(grey, size=(32, 32), mode="bicubic", antialias=True)[0]
        return BatchFeature({"pixel_values": [(grey - grey.mean()) / grey.std()]}, tensor_type=return_tensors)
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty Hub cache, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "hub"


def place(cache, folder, repository):
    """Put a model folder where the Hub's cache has a repository."""
    root = cache / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, root / "snapshots" / COMMIT)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)


def save(folder, model, processor):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_dinov3(cache, tmp_path):
    t = transformers
    t.AutoModel  # noqa: B018  (loads the Auto classes before a model's own module)
    config = t.DINOv3ViTConfig(**SIZES, image_size=32, patch_size=16, num_register_tokens=4)
    processor = t.DINOv3ViTImageProcessor(size={"height": 32, "width": 32})
    torch.manual_seed(0)
    model = t.DINOv3ViTModel(config).eval()
    place(cache, save(tmp_path / "m", model, processor), LINEUP["dinov3-b"].source)
    encoder = load_encoder("dinov3-b")
    pixels = encoder.preprocess(IMAGES)
    assert torch.equal(pixels, processor(IMAGES, return_tensors="pt")["pixel_values"])
    with torch.no_grad():
        expected = model(pixels).last_hidden_state
    encoded = encoder.encode(pixels)
    torch.testing.assert_close(encoded.normed, expected, atol=1e-5, rtol=0)
    assert encoded.prefix == 5
    recommended = torch.cat([expected[:, 0], expected[:, 5:].mean(1)], 1)
    np.testing.assert_allclose(embed_batch(encoder, IMAGES, "card"), recommended.numpy(), atol=1e-5)


def test_medsiglip_and_pubmedclip(cache, tmp_path):
    t = transformers
    t.AutoModel  # noqa: B018
    vision = dict(SIZES, image_size=32, patch_size=8)
    siglip = t.SiglipModel(t.SiglipConfig(vision_config=vision, text_config=TEXT)).eval()
    clip = t.CLIPModel(t.CLIPConfig(vision_config=vision, text_config=TEXT)).eval()
    square = t.SiglipImageProcessor(size={"height": 32, "width": 32})
    cropped = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    for name, model, processor in (("medsiglip", siglip, square), ("pubmedclip", clip, cropped)):
        place(cache, save(tmp_path / name, model, processor), LINEUP[name].source)
        encoder = load_encoder(name)
        pixels = encoder.preprocess(IMAGES)
        assert torch.equal(pixels, processor(IMAGES, return_tensors="pt")["pixel_values"])
        with torch.no_grad():
            expected = model.vision_model(pixels).pooler_output  # for CLIP, the normed class token
        np.testing.assert_allclose(embed_batch(encoder, IMAGES, "card"), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(("name", "registers"), [("uni", 0), ("virchow2", 4)])
def test_pathology(cache, tmp_path, name, registers):
    layers = dict(mlp_layer=timm.layers.SwiGLUPacked, act_layer=torch.nn.SiLU) if name == "virchow2" else {}
    told = dict(img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=2, reg_tokens=registers, init_values=1e-5)
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **told, **layers).eval()
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=0, **told)
    timm.models.save_for_hf(plain, tmp_path / "m", model_args=told)
    from safetensors.torch import save_file

    save_file(model.state_dict(), tmp_path / "m" / "model.safetensors")
    repository = LINEUP[name].source.removeprefix("timm:hf-hub:").partition("?")[0]
    place(cache, tmp_path / "m", repository)
    encoder = load_encoder(name)
    pixels = encoder.preprocess(IMAGES)
    with torch.no_grad():
        expected = model.forward_features(pixels)
    vectors = embed_batch(encoder, IMAGES, "card")
    patches = [expected[:, 1 + registers :].mean(1)] if name == "virchow2" else []
    np.testing.assert_allclose(vectors, torch.cat([expected[:, 0], *patches], 1).numpy(), atol=1e-5)


def test_curia_needs_the_commit_of_its_processor_and_takes_grey_slices(cache, tmp_path):
    transformers.AutoModel  # noqa: B018
    config = transformers.Dinov2Config(**SIZES, image_size=32, patch_size=16, num_channels=1)
    model = transformers.Dinov2Model(config).eval()
    model.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "curia_like.py").write_text(CURIA)
    settings = {"image_processor_type": "CuriaLike", "auto_map": {"AutoImageProcessor": "curia_like.CuriaLike"}}
    (tmp_path / "m" / "preprocessor_config.json").write_text(json.dumps(settings))
    place(cache, tmp_path / "m", "raidium/curia")
    with pytest.raises(UserError, match=r"--trust-remote-code COMMIT .40 hex digits.; accept its terms at"):
        load_encoder("curia")
    encoder = load_encoder("curia", trust_remote_code=COMMIT)
    pixels = encoder.preprocess(IMAGES)
    assert pixels.shape == (2, 1, 32, 32) and COMMIT in encoder.notes[0] and encoder.revision.endswith(COMMIT)
    with torch.no_grad():
        expected = model(pixels).last_hidden_state[:, 0]
    np.testing.assert_allclose(embed_batch(encoder, IMAGES, "card"), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["dinov3-7b", "uni2-h", "medsiglip", "curia"])
def test_gated_ones_say_how_to_get_access(name):
    repository = LINEUP[name].source.removeprefix("timm:hf-hub:").partition("?")[0]
    with pytest.raises(UserError, match=f"accept its terms at https://huggingface.co/{repository}, then run: hf auth"):
        load_encoder(name)


def test_parameters_of_dinov3_are_those_of_its_configurations():
    form = {"s": (384, 12, 1536), "s-plus": (384, 12, 1536), "b": (768, 12, 3072), "l": (1024, 24, 4096),
            "h-plus": (1280, 32, 5120), "7b": (4096, 40, 8192)}  # fmt: skip
    transformers.AutoModel  # noqa: B018
    for name, (width, depth, hidden) in form.items():
        gated = {"use_gated_mlp": True, "hidden_act": "silu"} if name in ("s-plus", "h-plus", "7b") else {}
        config = transformers.DINOv3ViTConfig(
            hidden_size=width, num_hidden_layers=depth, num_attention_heads=width // 64, intermediate_size=hidden,
            num_register_tokens=4, **gated,
        )  # fmt: skip
        with torch.device("meta"):
            model = transformers.DINOv3ViTModel(config)
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        assert millions == pytest.approx(LINEUP[f"dinov3-{name}"].parameters, rel=0.01)


def test_the_list_describes_every_encoder():
    rows = list_encoders()
    assert {row["name"] for row in rows} == set(LINEUP)
    asked_for = {"dinov3-s", "dinov3-7b", "uni", "uni2-h", "virchow2", "curia", "medsiglip", "medimageinsight",
                 "meddinov3", "pubmedclip", "xrv-densenet121"}  # fmt: skip
    assert asked_for <= set(LINEUP)
    for row in rows:
        assert all(row.values()) and row["features"] in ("class", "both", "mean", "pooled")
    access = {row["name"]: row["access"] for row in rows}
    assert access["dinov2-b"] == "open" and "huggingface.co/MahmoodLab/UNI2-h" in access["uni2-h"]
    licences = {row["name"]: row["licence"] for row in rows}
    assert licences["rad-dino"] == "MIT" and licences["virchow2"] == "CC-BY-NC-ND-4.0"
