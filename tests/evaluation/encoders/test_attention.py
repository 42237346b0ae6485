"""Attention of the class token, against the libraries' own arithmetic."""

import json

import numpy as np
import pytest
import torch

from evaluation.encoders.attention import class_attention
from evaluation.encoders.encoder import to_square
from evaluation.encoders.load import load_encoder
from evaluation.pictures.encoders import draw_attention
from evaluation.tasks import open_task

TIMM = dict(img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=3)


def save_timm(folder, name="vit_tiny_patch16_224", **settings):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, **settings).eval()
    with torch.no_grad():  # weights large enough that attention is not uniform
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    timm.models.save_for_hf(model, folder, model_args=settings)
    return load_encoder(f"timm:{folder}")


def save_open_clip(folder, **vision):
    open_clip = pytest.importorskip("open_clip")
    from safetensors.torch import save_file

    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, **vision}
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    torch.manual_seed(0)
    model = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)
    with torch.no_grad():
        for parameter in model.visual.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    config = {
        "model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    }
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return load_encoder(f"open_clip:local-dir:{folder}")


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (40, 50, 3), dtype=np.uint8) for _ in range(2)]


def class_row(query, key, heads):
    """softmax(q k' / sqrt(d)) of the class token, mean over heads: (B, N) from queries and keys (B, N, D)."""
    query, key = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (query, key))
    scores = query[:, :, :1] @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    return scores.softmax(-1)[:, :, 0].mean(1)


def last_input(encoder, images, part):
    """The input of a part of an encoder, (B, N, D)."""
    seen = []
    hook = part.register_forward_hook(lambda _m, given, _out: seen.append(given[0]))
    encoder.encode(to_square(images, encoder.size, encoder.mean, encoder.std))
    hook.remove()
    return seen[0]


def test_timm_attention_is_that_of_queries_and_keys(tmp_path, images):
    encoder = save_timm(tmp_path / "m", **TIMM)
    found = class_attention(encoder, images)
    attention = encoder.module.blocks[-1].attn
    inside = last_input(encoder, images, attention)
    with torch.inference_mode():
        query, key, _ = attention.qkv(inside).chunk(3, 2)
    wanted = class_row(query, key, 3)[:, 1:].reshape(2, 4, 4).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert wanted.std() > 1e-3 and attention.fused_attn  # not uniform, and the model is unchanged
    assert not attention.attn_drop._forward_hooks


def test_open_clip_attention_is_that_of_queries_and_keys(tmp_path, images):
    encoder = save_open_clip(tmp_path / "m", head_width=32)
    found = class_attention(encoder, images)
    attention = encoder.module.transformer.resblocks[-1].attn
    inside = last_input(encoder, images, attention)
    with torch.inference_mode():
        projected = torch.nn.functional.linear(inside, attention.in_proj_weight, attention.in_proj_bias)
    query, key, _ = projected.chunk(3, 2)
    wanted = class_row(query, key, attention.num_heads)[:, 1:].reshape(2, 4, 4).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert wanted.std() > 1e-3 and not attention._forward_hooks and not attention._forward_pre_hooks


def test_open_clip_models_with_its_own_attention_have_no_picture(tmp_path, images):
    assert class_attention(save_open_clip(tmp_path / "m", scale_attn_inner=True), images) is None


def test_registers_of_timm_are_no_patches(tmp_path, images):
    settings = dict(img_size=56, depth=2, embed_dim=24, num_heads=2)
    found = class_attention(save_timm(tmp_path / "m", "vit_small_patch14_reg4_dinov2", **settings), images)
    assert found.shape == (2, 4, 4) and (found.sum((1, 2)) < 1).all()


def test_transformers_models_give_their_attention(tiny_model, images):
    found = class_attention(load_encoder(str(tiny_model)), images)
    assert found.shape == (2, 4, 4) and (found > 0).all() and (found.sum((1, 2)) < 1).all()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vit_base_patch16_siglip_224", dict(img_size=32, depth=2, embed_dim=24, num_heads=2)),
        ("swin_tiny_patch4_window7_224",
         dict(img_size=64, window_size=2, depths=(1, 1, 2, 1), embed_dim=12, num_heads=(1, 1, 2, 2))),
        ("xcit_nano_12_p16_224", dict(depth=2, embed_dim=32)),
        ("resnet18", dict(channels=(8, 16, 24, 32))),
    ],
)  # fmt: skip
def test_models_without_a_class_token_or_such_attention_have_no_picture(tmp_path, images, name, settings):
    assert class_attention(save_timm(tmp_path / "m", name, **settings), images) is None


def test_the_picture_of_a_timm_model_is_drawn(tmp_path, class_folder):
    draw_attention(tmp_path, save_timm(tmp_path / "m", **TIMM), open_task(str(class_folder), class_folder))
    assert "4x4 patches in the last block" in next((tmp_path / "figures").glob("attention*.txt")).read_text()
