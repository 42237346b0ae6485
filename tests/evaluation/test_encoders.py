"""Encoders: every family gives the same features by the same rules, and what cannot be loaded is named."""

import numpy as np
import pytest
import torch
import transformers

from biovfm_hf.errors import UserError
from evaluation.encoders import SHORT_NAMES, load_encoder, split_label

SIZES = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
)
TEXT = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=99)


def plain(size=32):
    return transformers.ViTImageProcessor(size={"height": size, "width": size})


def families():
    t = transformers
    sam = dict(
        **{**SIZES, "intermediate_size": None, "image_size": 64, "num_hidden_layers": 2},
        **dict(output_channels=16, window_size=2, global_attn_indexes=[1], mlp_dim=64),
    )
    del sam["intermediate_size"]
    return {
        "dinov2": (t.Dinov2Model, t.Dinov2Config(**SIZES), plain(), 1),
        "registers": (t.Dinov2WithRegistersModel, t.Dinov2WithRegistersConfig(**SIZES), plain(), 5),
        "dinov3": (t.DINOv3ViTModel, t.DINOv3ViTConfig(**SIZES, num_register_tokens=2), plain(), 3),
        "vit": (t.ViTModel, t.ViTConfig(**SIZES), plain(), 1),
        "mae": (t.ViTMAEModel, t.ViTMAEConfig(**SIZES), plain(), 1),
        "msn": (t.ViTMSNModel, t.ViTMSNConfig(**SIZES), plain(), 1),
        "clip": (t.CLIPModel, t.CLIPConfig(vision_config=SIZES, text_config=TEXT), plain(), 1),
        "siglip": (t.SiglipModel, t.SiglipConfig(vision_config=SIZES, text_config=TEXT), plain(), 0),
        "sam": (t.SamModel, t.SamConfig(vision_config=sam), plain(64), 0),
        "resnet": (
            t.ResNetModel,
            t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 32, 32], depths=[1, 1, 1, 1]),
            plain(64),
            0,
        ),
    }


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (40, 50, 3), dtype=np.uint8) for _ in range(2)]


NAMES = ["clip", "dinov2", "dinov3", "mae", "msn", "registers", "resnet", "sam", "siglip", "vit"]


@pytest.mark.parametrize("name", NAMES)
def test_every_family_gives_tokens_and_summaries(tmp_path, images, name):
    transformers.AutoModel  # noqa: B018  (loads the Auto classes before a model's own module)
    cls, config, processor, prefix = families()[name]
    torch.manual_seed(0)
    model = cls(config).eval()
    model.save_pretrained(tmp_path / name)
    processor.save_pretrained(tmp_path / name)
    encoder = load_encoder(str(tmp_path / name))
    pixels = encoder.preprocess(images)
    encoded = encoder.encode(pixels)
    assert encoded.prefix == prefix and len(encoder.revision) == 16
    grid = encoded.grid
    assert encoded.patches().shape[:3] == (2, *grid)
    for vector in encoded.summary().values():
        assert vector.shape == (2, encoded.tokens.shape[-1]) and vector.isfinite().all()
    with torch.inference_mode():
        if name in ("dinov2", "dinov3", "msn", "registers", "siglip", "vit"):
            direct = (model.vision_model if name == "siglip" else model)(pixels).last_hidden_state
            assert torch.allclose(encoded.normed, direct, atol=1e-5)
        if name == "clip":
            pooled = model.vision_model(pixels).pooler_output
            assert torch.allclose(encoded.summary()["class"], pooled, atol=1e-5)
        if name == "mae":  # nothing masked: the class token and patches of the plain encoder, in place
            config.mask_ratio = 0.0
            kept = cls(config)
            kept.load_state_dict(model.state_dict())
            order = torch.arange(16.0).expand(2, -1)
            assert torch.allclose(encoded.normed, kept.eval()(pixels, noise=order).last_hidden_state, atol=1e-5)
        if name in ("resnet", "sam"):
            module = model.vision_encoder if name == "sam" else model
            direct = module(pixels).last_hidden_state.mean((2, 3))
            assert torch.allclose(encoded.summary()["mean"], direct, atol=1e-5)


def test_intermediate_blocks_end_with_the_last_one(tiny_model, images):
    encoder = load_encoder(str(tiny_model))
    encoded = encoder.encode(encoder.preprocess(images), blocks=3)
    assert [tuple(block.shape) for block in encoded.blocks] == [(2, 4, 4, 32)] * 3
    last = encoded.tokens[:, encoded.prefix :].unflatten(1, encoded.grid)
    assert torch.equal(encoded.blocks[-1], last)
    assert not torch.allclose(encoded.blocks[0], last)


def test_convolutional_model_has_no_blocks(tmp_path, images):
    cls, config, processor, _ = families()["resnet"]
    cls(config).save_pretrained(tmp_path / "resnet")
    processor.save_pretrained(tmp_path / "resnet")
    encoder = load_encoder(str(tmp_path / "resnet"))
    with pytest.raises(UserError, match="no equal blocks"):
        encoder.encode(encoder.preprocess(images), blocks=4)


def test_raw_mean_is_before_the_final_norm(tiny_model, images):
    encoder = load_encoder(str(tiny_model))
    pixels = encoder.preprocess(images)
    summary = encoder.encode(pixels).summary()
    with torch.inference_mode():
        hidden = encoder.module(pixels, output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(summary["mean_raw"], hidden[:, 1:].mean(1), atol=1e-5)


def test_half_preprocessing_is_the_authors(tiny_model):
    encoder = load_encoder(str(tiny_model), preprocess="half")
    image = np.full((32, 32, 3), 255, np.uint8)
    assert torch.equal(encoder.preprocess([image]), torch.ones(1, 3, 32, 32))


def test_timm_models_from_a_folder(tmp_path, images):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=24, num_classes=0)
    arguments = dict(img_size=32, patch_size=8, depth=2, embed_dim=24)
    timm.models.save_for_hf(model, tmp_path / "vit", model_args=arguments)
    encoder = load_encoder(f"timm:{tmp_path / 'vit'}")
    pixels = encoder.preprocess(images)
    encoded = encoder.encode(pixels)
    with torch.inference_mode():
        direct = model.eval().forward_features(pixels)
    assert torch.allclose(encoded.normed, direct, atol=1e-5) and encoded.prefix == 1


def test_labels_are_short_and_never_machine_paths(tiny_model, tmp_path):
    assert split_label("ours=runs/a/model") == ("ours", "runs/a/model")
    assert split_label(str(tiny_model))[0] == "tiny"
    assert split_label(str(tmp_path / "run" / "model"))[0] == "run/model"
    assert split_label("facebook/dinov2-base") == ("facebook/dinov2-base", "facebook/dinov2-base")


def test_revision_follows_the_weights(tiny_model, second_model):
    assert load_encoder(str(tiny_model)).revision != load_encoder(str(second_model)).revision


def test_what_cannot_be_loaded_is_named(tmp_path, tiny_model):
    with pytest.raises(UserError, match="no such folder"):
        load_encoder("./nowhere/at/all")
    with pytest.raises(UserError, match="OFA"):
        load_encoder("BiomedGPT")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be loaded"):
        load_encoder(str(tmp_path / "empty"))


def test_without_a_network_a_repository_is_named_as_such(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="without a network"):
        load_encoder("somebody/that-does-not-exist-anywhere")


def test_the_line_up_has_every_model_of_the_papers():
    wanted = (
        "in21k-vit-b",
        "in21k-vit-l",
        "rad-dino",
        "biomedclip",
        "openclip-h",
        "densenet201",
        "resnet152",
        "vgg19",
    )
    assert set(wanted) <= set(SHORT_NAMES)
    assert {f"dinov2-{size}" for size in "sblg"} <= set(SHORT_NAMES)


def test_open_clip_towers_from_a_folder(tmp_path, images):
    open_clip = pytest.importorskip("open_clip")
    import json

    from safetensors.torch import save_file

    vision = {"image_size": 32, "layers": 3, "width": 64, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    torch.manual_seed(0)
    model = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)
    config = {
        "model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "open_clip_model.safetensors")
    encoder = load_encoder(f"open_clip:local-dir:{tmp_path}")
    pixels = encoder.preprocess(images)
    with torch.inference_mode():
        direct = model.visual.eval()(pixels)
    summary = encoder.encode(pixels).summary()
    assert torch.allclose(summary["class"] @ model.visual.proj.detach(), direct.clone(), atol=1e-5)
    assert len(encoder.revision) == 16
