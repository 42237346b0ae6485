"""Encoders: every family gives features by the same rules, and a message names what cannot be loaded."""

import copy

import numpy as np
import pytest
import torch
import transformers

from biovfm_hf.errors import UserError
from evaluation.encoders.lineup import SHORT_NAMES
from evaluation.encoders.load import check_place, load_encoder, on_disk, split_label
from evaluation.encoders.tokens import run

SIZES = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
)
TEXT = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=99)


def plain(size=32):
    return transformers.ViTImageProcessor(size={"height": size, "width": size})


def clip_like(processor):
    return processor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})


# Hierarchical and convolutional models: four stages.
STAGES = dict(hidden_sizes=[8, 16, 32, 32], depths=[1, 1, 1, 1])
SWIN = dict(image_size=64, patch_size=4, embed_dim=12, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2], window_size=2)
SAM = dict(
    **dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=8),
    **dict(output_channels=16, window_size=2, global_attn_indexes=[1], mlp_dim=64),
)


def families():
    """Each family's model, configuration, its own image processor, tokens before the patches, and grid."""
    t = transformers
    four = (4, 4)
    return {
        "dinov2": (t.Dinov2Model, t.Dinov2Config(**SIZES), clip_like(t.BitImageProcessor), 1, four),
        "registers": (
            *(t.Dinov2WithRegistersModel, t.Dinov2WithRegistersConfig(**SIZES)),
            *(clip_like(t.BitImageProcessor), 5, four),
        ),
        "dinov3": (
            *(t.DINOv3ViTModel, t.DINOv3ViTConfig(**SIZES, num_register_tokens=2)),
            *(t.DINOv3ViTImageProcessor(size={"height": 32, "width": 32}), 3, four),
        ),
        "vit": (t.ViTModel, t.ViTConfig(**SIZES), plain(), 1, four),
        "mae": (t.ViTMAEModel, t.ViTMAEConfig(**SIZES), plain(), 1, four),
        "msn": (t.ViTMSNModel, t.ViTMSNConfig(**SIZES), plain(), 1, four),
        "beit": (t.BeitModel, t.BeitConfig(**SIZES), plain(), 1, four),
        "clip": (
            *(t.CLIPModel, t.CLIPConfig(vision_config=SIZES, text_config=TEXT)),
            *(clip_like(t.CLIPImageProcessor), 1, four),
        ),
        "siglip": (
            *(t.SiglipModel, t.SiglipConfig(vision_config=SIZES, text_config=TEXT)),
            *(t.SiglipImageProcessor(size={"height": 32, "width": 32}), 0, four),
        ),
        "sam": (
            *(t.SamModel, t.SamConfig(vision_config=SAM)),
            *(t.SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}), 0, (8, 8)),
        ),
        "resnet": (
            *(t.ResNetModel, t.ResNetConfig(embedding_size=8, **STAGES)),
            *(t.ConvNextImageProcessor(size={"shortest_edge": 64}), 0, (2, 2)),
        ),
        "convnext": (
            *(t.ConvNextModel, t.ConvNextConfig(**STAGES)),
            *(t.ConvNextImageProcessor(size={"shortest_edge": 64}), 0, (2, 2)),
        ),
        "swin": (t.SwinModel, t.SwinConfig(**SWIN), plain(64), 0, (2, 2)),
    }


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (40, 50, 3), dtype=np.uint8) for _ in range(2)]


def save_family(folder, name):
    transformers.AutoModel  # noqa: B018  (loads the Auto classes before a model's own module)
    cls, config, processor, prefix, grid = families()[name]
    torch.manual_seed(0)
    model = cls(config).eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor, prefix, grid


# The length of this list is checked against `families` below, whose models are only made when asked for.
NAMES = ["beit", "clip", "convnext", "dinov2", "dinov3", "mae", "msn", "registers", "resnet", "sam", "siglip", "swin"]
NAMES += ["vit"]


def test_no_family_is_left_out():
    transformers.AutoModel  # noqa: B018
    assert sorted(families()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_family_gives_tokens_and_summaries(tmp_path, images, name):
    model, processor, prefix, grid = save_family(tmp_path, name)
    encoder = load_encoder(str(tmp_path))
    pixels = encoder.preprocess(images)
    own = processor(list(images), return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    assert torch.equal(pixels, own)
    encoded = encoder.encode(pixels)
    assert torch.equal(encoder.twin().encode(pixels).tokens, encoded.tokens)
    trained = copy.deepcopy(encoder.module).train().requires_grad_(True)  # BEiT keeps its positions from before
    run(trained, pixels).normed.sum().backward()
    assert (encoded.prefix, encoded.grid, len(encoder.revision)) == (prefix, grid, 16)
    assert encoded.patches().shape[:3] == (2, *grid)
    summary = encoded.summary()
    assert all(len(vector) == 2 and vector.isfinite().all() for vector in summary.values())
    with torch.inference_mode():
        module = getattr(model, "vision_model", getattr(model, "vision_encoder", model))
        if name == "mae":  # nothing masked: class token and patches of the plain encoder, in their places
            module.config.mask_ratio = 0.0
            kept = type(model)(module.config)
            kept.load_state_dict(model.state_dict())
            answer = kept.eval()(pixels, noise=torch.arange(16.0).expand(2, -1))
        else:
            answer = module(pixels)
    direct = answer.last_hidden_state
    direct = direct.flatten(2).mT if direct.ndim == 4 else direct
    if name == "clip":  # CLIP's last hidden state comes before its final norm
        assert torch.allclose(encoded.tokens, direct, atol=1e-5)
        assert torch.allclose(summary["class"], answer.pooler_output, atol=1e-5)
    else:
        assert torch.allclose(encoded.normed, direct, atol=1e-5)
    pooled = getattr(answer, "pooler_output", None)
    assert torch.allclose(summary["pooled"], summary["class"] if pooled is None else pooled.flatten(1), atol=1e-5)


TIMM = {
    "vit_tiny_patch16_224": dict(img_size=32, patch_size=8, depth=2, embed_dim=24),
    "vit_small_patch14_reg4_dinov2": dict(img_size=56, depth=2, embed_dim=24, num_heads=2),
    "vit_base_patch16_siglip_224": dict(img_size=32, depth=2, embed_dim=24, num_heads=2),
    "swin_tiny_patch4_window7_224": dict(
        img_size=64, window_size=2, depths=(1, 1, 2, 1), embed_dim=12, num_heads=(1, 1, 2, 2)
    ),
    "convnext_atto": dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)),
    "resnet18": dict(channels=(8, 16, 24, 32)),
    "densenet121": dict(growth_rate=8, block_config=(2, 2, 2, 2)),
    "vgg11": dict(mlp_ratio=1 / 64),
    "xcit_nano_12_p16_224": dict(depth=2, embed_dim=32),
    "hiera_tiny_224": dict(embed_dim=24, stages=(1, 1, 1, 1)),
}


@pytest.mark.parametrize("name", TIMM)
def test_timm_models_give_timms_own_features(tmp_path, images, name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, **TIMM[name]).eval()
    timm.models.save_for_hf(model, tmp_path / "m", model_args=TIMM[name])
    encoder = load_encoder(f"timm:{tmp_path / 'm'}")
    pixels = encoder.preprocess(images)
    encoded = encoder.encode(pixels)
    assert torch.equal(encoder.twin().encode(pixels).tokens, encoded.tokens)
    assert encoded.prefix == getattr(model, "num_prefix_tokens", int(name.startswith("xcit")))
    assert encoded.grid[0] == encoded.grid[1] > 1
    summary = encoded.summary()
    with torch.inference_mode():
        features = model.forward_features(pixels)
        assert torch.allclose(summary["pooled"], model(pixels), atol=1e-4)
    if features.ndim == 3:
        assert torch.allclose(encoded.normed, features, atol=1e-4)
    else:  # Swin's maps have their channels last
        wanted = features.mean((1, 2) if name.startswith("swin") else (2, 3))
        assert torch.allclose(summary["mean"], wanted, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet", "swin"])
def test_models_without_equal_blocks_say_so(tmp_path, images, name):
    save_family(tmp_path, name)
    encoder = load_encoder(str(tmp_path))
    with pytest.raises(UserError, match="no equal blocks"):
        encoder.encode(encoder.preprocess(images), blocks=4)


def test_class_tokens_of_the_last_blocks_are_dinov2s(tmp_path, images):
    model, *_ = save_family(tmp_path, "dinov2")
    encoder = load_encoder(str(tmp_path))
    pixels = encoder.preprocess(images)
    encoded = encoder.encode(pixels, blocks=3)
    with torch.inference_mode():
        hidden = model(pixels, output_hidden_states=True).hidden_states
        for found, wanted in zip(encoded.classes, hidden[-3:], strict=True):
            assert torch.allclose(found, model.layernorm(wanted)[:, 0], atol=1e-5)
    assert torch.allclose(encoded.classes[-1], encoded.summary()["class"], atol=1e-6)


def test_a_classifier_without_pooler_gives_its_class_token(tmp_path, images):
    config = transformers.ViTConfig(**SIZES)
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    plain().save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    pixels = encoder.preprocess(images)
    summary = encoder.encode(pixels).summary()
    assert torch.equal(summary["pooled"], summary["class"])
    with torch.inference_mode():
        assert torch.allclose(model.classifier(summary["class"]), model(pixels).logits, atol=1e-5)


def test_weights_that_are_lacking_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    save_family(tmp_path, "dinov2")
    held = load_file(tmp_path / "model.safetensors")
    del held["encoder.layer.1.attention.attention.query.weight"]
    save_file(held, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="1 weights are not in its files"):
        load_encoder(str(tmp_path))


def test_damaged_weights_and_those_of_another_size_are_reported_in_a_line(tmp_path):
    save_family(tmp_path, "vit")
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 32', '"hidden_size": 48'))
    with pytest.raises(UserError, match=r"cannot be loaded: .*config\.json and"):
        load_encoder(str(tmp_path))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cannot be loaded: .*config\.json and"):
        load_encoder(str(tmp_path))


def test_a_model_that_needs_more_than_images_is_refused(images):
    class Text(torch.nn.Module):
        def forward(self, pixel_values, input_ids):
            return pixel_values

    with pytest.raises(UserError, match="does not take images alone"):
        run(Text(), torch.zeros(1, 3, 8, 8))


def test_intermediate_blocks_end_with_the_last_one(tiny_model, images):
    encoder = load_encoder(str(tiny_model))
    encoded = encoder.encode(encoder.preprocess(images), blocks=3)
    assert [tuple(block.shape) for block in encoded.blocks] == [(2, 4, 4, 32)] * 3
    last = encoded.tokens[:, encoded.prefix :].unflatten(1, encoded.grid)
    assert torch.equal(encoded.blocks[-1], last)
    assert not torch.allclose(encoded.blocks[0], last)


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
    with pytest.raises(UserError, match="not a kind of device"):
        load_encoder(str(tiny_model), "gpu")
    assert load_encoder(str(tiny_model), torch.device("cpu")).device == torch.device("cpu")
    with pytest.raises(UserError, match="torch sees"):
        load_encoder(str(tiny_model), "cuda:99")
    with pytest.raises(UserError, match="BiomedGPT-Base-Pretrained"):
        load_encoder("BiomedGPT")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be loaded"):
        load_encoder(str(tmp_path / "empty"))


def test_a_family_states_what_must_be_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    weights = tmp_path / "R50.npz"
    names = [f"transunet:{weights}", "timm:vit_tiny", "facebook/dinov2-base", "scratch:unet"]
    assert [on_disk(name) for name in names] == [False, False, False, True]
    with pytest.raises(UserError, match=r"transunet:R50\.npz' cannot be loaded: no such file"):
        check_place("transunet:R50.npz")
    weights.touch()
    with pytest.raises(UserError, match=r"R50\.npz: not a \.npz file"):
        check_place(f"transunet:{weights}")
    np.savez(weights, weight=np.zeros(1))
    check_place(f"transunet:{weights}")
    for repository in ("timm--vit_tiny", "facebook--dinov2-base"):
        (tmp_path / "hub" / f"models--{repository}" / "snapshots" / "commit").mkdir(parents=True)
        (tmp_path / "hub" / f"models--{repository}" / "snapshots" / "commit" / "config.json").touch()
    assert all(on_disk(name) for name in names)


def test_a_misspelt_prefix_is_named():
    with pytest.raises(UserError, match=r"no family has the prefix xvr:; did you mean xrv:\?"):
        load_encoder("xvr:densenet121-res224-all")


def test_without_a_network_a_repository_is_named_as_such(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="without a network"):
        load_encoder("somebody/that-does-not-exist-anywhere")


@pytest.mark.usefixtures("hub_without_address")
def test_without_an_address_of_the_hub_nothing_is_waited_for():
    import time

    from huggingface_hub import constants

    pytest.importorskip("timm")
    pytest.importorskip("open_clip")
    for name in ("dinov2-b", "densenet201", "biomedclip"):
        begun = time.process_time()
        with pytest.raises(UserError, match="without a network"):
            load_encoder(name)
        assert time.process_time() - begun < 20 and constants.HF_HUB_OFFLINE


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
    assert torch.equal(encoder.twin().encode(pixels).summary()["class"], summary["class"])
    assert torch.allclose(summary["class"] @ model.visual.proj.detach(), direct.clone(), atol=1e-5)
    assert len(encoder.revision) == 16
