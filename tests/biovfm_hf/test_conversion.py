"""Weights of every family in, the same features out; and back."""

import argparse
import subprocess
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTModel,
)

import biovfm_hf  # noqa: F401  (registers the Auto classes)
from biovfm_hf import BioVFMConfig, BioVFMForMaskedAutoencoding, BioVFMModel
from biovfm_hf.cli import main as biovfm
from biovfm_hf.conversion.command import ConvertOptions
from biovfm_hf.conversion.command import convert as run_convert
from biovfm_hf.conversion.read import ConvertedEncoder, read_encoder
from biovfm_hf.errors import UserError
from tests.preloaded import python


def convert(source: str, to: Path, format: str = "biovfm", **heads: int) -> ConvertedEncoder:
    return run_convert(ConvertOptions(source=source, to=to, format=format, **heads))


SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 64, "patch_size": 16}


def scramble(model: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter a random value, so that no tensor can be swapped or missed without being seen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def tokens(model: torch.nn.Module, pixels: torch.Tensor, **kwargs: object) -> torch.Tensor:
    with torch.no_grad():
        return model(pixels, **kwargs).last_hidden_state


def dinov2(**overrides: object) -> Dinov2Model:
    return scramble(Dinov2Model(Dinov2Config(**{**SMALL, **overrides})))


def dinov2_with_registers(**overrides: object) -> Dinov2WithRegistersModel:
    return scramble(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**{**SMALL, **overrides})))


def vit_mae(**overrides: object) -> ViTMAEForPreTraining:
    sizes = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 4}
    fields = {**SMALL, **sizes, "intermediate_size": 192, "decoder_intermediate_size": 128, "layer_norm_eps": 1e-6}
    return scramble(ViTMAEForPreTraining(ViTMAEConfig(**{**fields, **overrides})))


TRANSFORMERS_DINOV2 = {
    "mlp": lambda: dinov2(),
    "swiglu": lambda: dinov2(use_swiglu_ffn=True),
    "no mask token": lambda: dinov2(use_mask_token=False),
    "no qkv bias": lambda: dinov2(qkv_bias=False),
    "registers": lambda: dinov2_with_registers(num_register_tokens=3),
    "registers, swiglu": lambda: dinov2_with_registers(use_swiglu_ffn=True),
}


@pytest.mark.parametrize("kind", TRANSFORMERS_DINOV2)
@pytest.mark.parametrize("sides", [(64, 64), (96, 96), (48, 80)])
def test_transformers_dinov2_agrees_in_both_directions(kind: str, sides: tuple[int, int], tmp_path: Path) -> None:
    theirs = TRANSFORMERS_DINOV2[kind]()
    theirs.save_pretrained(tmp_path / "theirs")
    convert(str(tmp_path / "theirs"), tmp_path / "ours")
    convert(str(tmp_path / "ours"), tmp_path / "back", "dinov2")
    ours, back = AutoModel.from_pretrained(tmp_path / "ours"), AutoModel.from_pretrained(tmp_path / "back")
    assert (type(ours), type(back)) == (BioVFMModel, type(theirs))
    pixels = torch.randn(2, 3, *sides)
    expected = tokens(theirs, pixels)
    torch.testing.assert_close(tokens(ours, pixels), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens(back.eval(), pixels), expected, atol=0, rtol=0)


def test_masked_patches_agree_with_transformers(tmp_path: Path) -> None:
    theirs = dinov2()
    theirs.save_pretrained(tmp_path / "theirs")
    convert(str(tmp_path / "theirs"), tmp_path / "ours")
    ours = AutoModel.from_pretrained(tmp_path / "ours")
    pixels, mask = torch.randn(2, 3, 64, 64), torch.rand(2, 16) < 0.4
    expected = tokens(theirs, pixels, bool_masked_pos=mask)
    torch.testing.assert_close(tokens(ours, pixels, bool_masked_pos=mask), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm_pix_loss", [True, False])
@pytest.mark.parametrize("sides", [(64, 64), (96, 96)])
def test_transformers_mae_agrees_in_both_directions(
    norm_pix_loss: bool, sides: tuple[int, int], tmp_path: Path
) -> None:
    theirs = vit_mae(norm_pix_loss=norm_pix_loss)
    theirs.save_pretrained(tmp_path / "theirs")
    convert(str(tmp_path / "theirs"), tmp_path / "ours")
    convert(str(tmp_path / "ours"), tmp_path / "back", "vit_mae")
    ours = AutoModelForPreTraining.from_pretrained(tmp_path / "ours")
    back = AutoModelForPreTraining.from_pretrained(tmp_path / "back").eval()
    assert (type(ours), type(back)) == (BioVFMForMaskedAutoencoding, ViTMAEForPreTraining)
    pixels, noise = torch.randn(2, 3, *sides), torch.rand(2, sides[0] * sides[1] // 256)
    with torch.no_grad():
        expected = theirs(pixels, noise=noise, interpolate_pos_encoding=True)
        found = ours(pixels, noise=noise)
        again = back(pixels, noise=noise, interpolate_pos_encoding=True)
    torch.testing.assert_close(found.loss, expected.loss, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.mask, expected.mask)
    torch.testing.assert_close(again.logits, expected.logits, atol=0, rtol=0)


def test_mae_encoder_loads_from_the_autoencoder_folder(tmp_path: Path) -> None:
    theirs = vit_mae()
    theirs.save_pretrained(tmp_path / "theirs")
    convert(str(tmp_path / "theirs"), tmp_path / "ours")
    encoder = AutoModel.from_pretrained(tmp_path / "ours")
    pixels = torch.randn(1, 3, 64, 64)
    keep_all = {"noise": torch.arange(16.0)[None]}
    theirs.vit.config.mask_ratio = 0.0
    torch.testing.assert_close(tokens(encoder, pixels), tokens(theirs.vit, pixels, **keep_all), atol=1e-5, rtol=0)


def test_vit_folder(tmp_path: Path) -> None:
    theirs = scramble(ViTModel(ViTConfig(**SMALL, intermediate_size=192)))
    theirs.save_pretrained(tmp_path / "theirs")
    encoder = convert(str(tmp_path / "theirs"), tmp_path / "ours")
    assert sorted(encoder.left_out) == ["pooler.dense.bias", "pooler.dense.weight"]
    pixels = torch.randn(2, 3, 64, 64)
    ours = AutoModel.from_pretrained(tmp_path / "ours")
    torch.testing.assert_close(tokens(ours, pixels), tokens(theirs, pixels), atol=1e-5, rtol=0)


TIMM = {
    "plain": {"init_values": None},
    "layer scale": {"init_values": 1e-5},
    "registers": {"init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True},
    "registers with positions": {"init_values": 1e-5, "reg_tokens": 4},
}


@pytest.mark.parametrize("kind", TIMM)
def test_timm_agrees_in_both_directions(kind: str, tmp_path: Path) -> None:
    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 5}
    arguments = {**sizes, **TIMM[kind], "dynamic_img_size": True}
    theirs = scramble(timm.create_model("vit_base_patch16_224", **arguments))
    timm.models.save_for_hf(theirs, tmp_path / "theirs", model_args=arguments)
    encoder = convert(str(tmp_path / "theirs"), tmp_path / "ours")
    assert encoder.left_out == ["head.weight", "head.bias"]
    assert read_encoder(str(tmp_path / "theirs"), 6).config.num_attention_heads == 3, "the folder's own count"
    convert(str(tmp_path / "ours"), tmp_path / "back", "timm")
    ours = AutoModel.from_pretrained(tmp_path / "ours")
    back = timm.create_model(f"local-dir:{tmp_path / 'back'}", pretrained=True).eval()
    for side in (64, 96):
        pixels = torch.randn(2, 3, side, side)
        with torch.no_grad():
            expected = theirs.forward_features(pixels)
            torch.testing.assert_close(back.forward_features(pixels), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(tokens(ours, pixels), expected, atol=1e-5, rtol=0)


def test_timm_swiglu(tmp_path: Path) -> None:
    model = scramble(BioVFMModel(BioVFMConfig(**SMALL, ffn_type="swiglu", interpolate_antialias=True)))
    model.save_pretrained(tmp_path / "ours")
    convert(str(tmp_path / "ours"), tmp_path / "timm", "timm")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(theirs.forward_features(pixels), tokens(model, pixels), atol=1e-5, rtol=0)
    convert(str(tmp_path / "timm"), tmp_path / "again")
    again = AutoModel.from_pretrained(tmp_path / "again")
    torch.testing.assert_close(tokens(again, pixels), tokens(model, pixels), atol=1e-6, rtol=0)


def meta_file(path: Path, **fields: object) -> BioVFMModel:
    """A .pth in DINOv2's own names, written from one of our models."""
    from biovfm_hf.conversion.names import DINOV2, rename_to_theirs

    model = scramble(BioVFMModel(BioVFMConfig(**{**SMALL, "use_mask_token": True, **fields})))
    tensors, homeless = rename_to_theirs(model.state_dict(), DINOV2)
    assert not homeless
    torch.save(tensors, path)
    return model


# what each of DINOv2's own files means by its positions at other sizes than its own
DINOV2_FILES: dict[str, tuple[dict, bool]] = {
    "released": ({"interpolate_offset": 0.1}, False),
    "released, SwiGLU": ({"interpolate_offset": 0.1, "ffn_type": "swiglu"}, False),
    "released with registers": ({"num_register_tokens": 4, "interpolate_antialias": True}, False),
    "from training": ({"interpolate_offset": 0.1}, True),
    "from training with registers": ({"interpolate_offset": 0.1, "num_register_tokens": 4}, True),
}


@pytest.mark.parametrize("kind", DINOV2_FILES)
def test_dinov2_pth_keeps_its_way_of_resizing_positions(kind: str, tmp_path: Path) -> None:
    fields, training = DINOV2_FILES[kind]
    model = meta_file(tmp_path / "model.pth", **fields)
    if training:
        tensors = torch.load(tmp_path / "model.pth", weights_only=True)
        teacher = {f"backbone.{name}": tensor for name, tensor in tensors.items()}
        teacher["dino_head.last_layer.weight_v"] = torch.ones(2, 2)
        torch.save({"teacher": teacher}, tmp_path / "model.pth")
    encoder = convert(str(tmp_path / "model.pth"), tmp_path / "ours", num_heads=3)
    assert any("does not state it" in note for note in encoder.notes) == ("num_register_tokens" in fields)
    ours = AutoModel.from_pretrained(tmp_path / "ours")
    pixels = torch.randn(2, 3, 96, 80)
    torch.testing.assert_close(tokens(ours, pixels), tokens(model, pixels), atol=1e-6, rtol=0)


def mae_file(path: Path, width: int, heads: int) -> BioVFMForMaskedAutoencoding:
    """A .pth as MAE writes it, with the command line that made it, of an encoder 192 wide."""
    from biovfm_hf.conversion.names import MAE, rename_to_theirs

    decoder = {"decoder_hidden_size": width, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": heads}
    config = BioVFMConfig.from_size("vit-tiny", family="mae", image_size=64, num_hidden_layers=2, **decoder)
    model = scramble(BioVFMForMaskedAutoencoding(config))
    tensors = {name.removeprefix("biovfm."): tensor for name, tensor in model.state_dict().items()}
    renamed, _ = rename_to_theirs(tensors, MAE)
    torch.save({"model": renamed, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, path)
    return model


@pytest.mark.parametrize(("width", "heads", "told"), [(512, 16, {}), (512, 8, {"decoder_heads": 8}),
                                                      (32, 4, {"decoder_heads": 4})])  # fmt: skip
def test_mae_pth_with_its_command_line(width: int, heads: int, told: dict, tmp_path: Path) -> None:
    model = mae_file(tmp_path / "mae.pth", width, heads)
    encoder = convert(str(tmp_path / "mae.pth"), tmp_path / "ours", **told)
    assert any("16 attention heads in the decoder" in note for note in encoder.notes) == (not told)
    ours = AutoModelForPreTraining.from_pretrained(tmp_path / "ours")
    pixels, noise = torch.randn(2, 3, 64, 64), torch.rand(2, 16)
    with torch.no_grad():
        found, expected = ours(pixels, noise=noise), model(pixels, noise=noise)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.loss, expected.loss)


def test_a_number_of_heads_that_a_file_does_not_state_is_required(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    mae_file(tmp_path / "mae.pth", 128, 4)
    words = ["convert", str(tmp_path / "mae.pth"), "--to", str(tmp_path / "out")]
    assert biovfm(words) == 1
    message = capsys.readouterr().err
    assert "a decoder 128 wide does not determine its attention heads; give --decoder-heads" in message
    assert not (tmp_path / "out").exists()
    assert biovfm([*words, "--decoder-heads", "5"]) == 1
    assert "multiple of decoder_num_attention_heads 5" in capsys.readouterr().err
    assert biovfm([*words, "--decoder-heads", "4"]) == 0
    assert "note: 3 attention heads, as the released models of width 192 have" in capsys.readouterr().out
    meta_file(tmp_path / "narrow.pth")
    assert biovfm(["convert", str(tmp_path / "narrow.pth"), "--to", str(tmp_path / "other")]) == 1
    assert "width 48 does not determine the number of attention heads; give --num-heads" in capsys.readouterr().err


class Harmful:
    def __reduce__(self) -> tuple:
        return (print, ("this must never run",))


def test_pickled_object_is_refused_and_never_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"teacher": Harmful()}, tmp_path / "bad.pth")
    assert biovfm(["convert", str(tmp_path / "bad.pth"), "--to", str(tmp_path / "out")]) == 1
    output = capsys.readouterr()
    assert "must never run" not in output.out + output.err
    assert output.err.startswith("error: ") and output.err.count("\n") == 1 and "bad.pth" in output.err
    assert not (tmp_path / "out").exists()


def bad_sources(folder: Path) -> dict[str, tuple[str, str]]:
    """name: (what to convert, what the message must say)"""
    (folder / "empty").mkdir()
    (folder / "text.pth").write_text("not weights")
    model = meta_file(folder / "good.pth")
    good = torch.load(folder / "good.pth", weights_only=True)
    truncated = (folder / "good.pth").read_bytes()
    (folder / "cut.pth").write_bytes(truncated[: len(truncated) // 2])
    torch.save({name: good[name] for name in good if name != "blocks.1.attn.qkv.weight"}, folder / "missing.pth")
    torch.save({**good, "norm_pre.weight": torch.ones(48)}, folder / "extra.pth")
    save_file({"a": torch.ones(2)}, folder / "other.safetensors")
    model.config.patch_size = 8
    model.save_pretrained(folder / "patch")
    return {
        "no weights": ("empty", "no weights there"),
        "no such file": ("nowhere.pth", "no such file"),
        "not a torch file": ("text.pth", "text.pth"),
        "truncated": ("cut.pth", "cut.pth"),
        "unfilled": ("missing.pth", "unfilled: layers.1.attention.qkv.weight"),
        "unread": ("extra.pth", "unread: norm_pre.weight"),
        "no transformer": ("other.safetensors", "its tensors are named a"),
        "wrong patch size": ("patch", "patch_size 8"),
    }


def test_bad_sources_get_one_line_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sources = bad_sources(tmp_path)
    capsys.readouterr()
    for what, (source, reason) in sources.items():
        words = ["convert", str(tmp_path / source), "--to", str(tmp_path / "out"), "--num-heads", "3"]
        assert biovfm(words) == 1, what
        message = capsys.readouterr().err.splitlines()
        assert len(message) == 1 and reason in message[0] and source in message[0], (what, message)
        assert not (tmp_path / "out").exists(), what


@pytest.mark.parametrize(
    ("fields", "target", "reason"),
    [
        ({"layerscale_value": None}, "dinov2", "no LayerScale"),
        ({}, "vit_mae", "LayerScale"),
        ({"layerscale_value": None, "num_register_tokens": 2}, "vit_mae", "register"),
        ({}, "dinov2_with_registers", "no register tokens"),
    ],
)
def test_targets_that_cannot_hold_the_model(fields: dict, target: str, reason: str, tmp_path: Path) -> None:
    BioVFMModel(BioVFMConfig(**{**SMALL, **fields})).save_pretrained(tmp_path / "ours")
    with pytest.raises(UserError, match=reason):
        convert(str(tmp_path / "ours"), tmp_path / "out", target)


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    meta_file(tmp_path / "good.pth")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="exists already"):
        convert(str(tmp_path / "good.pth"), tmp_path / "out", num_heads=3)


def test_exported_dinov2_needs_nothing_of_ours(tmp_path: Path) -> None:
    model = scramble(BioVFMModel(BioVFMConfig(**SMALL)))
    model.save_pretrained(tmp_path / "ours")
    convert(str(tmp_path / "ours"), tmp_path / "theirs", "dinov2")
    script = (
        "import sys, numpy; from transformers import AutoImageProcessor, AutoModel;"
        f"model = AutoModel.from_pretrained({str(tmp_path / 'theirs')!r});"
        f"processor = AutoImageProcessor.from_pretrained({str(tmp_path / 'theirs')!r});"
        "inputs = processor(numpy.zeros((80, 70, 3), 'uint8'), return_tensors='pt');"
        "print(type(model).__name__, tuple(model(**inputs).last_hidden_state.shape), 'biovfm_hf' in sys.modules)"
    )
    done = subprocess.run([python(), "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.split("\n")[0] == "Dinov2Model (1, 17, 48) False"


def test_processor_travels_with_the_weights(tmp_path: Path) -> None:
    from biovfm_hf import BioVFMImageProcessor

    model = scramble(BioVFMModel(BioVFMConfig(**SMALL, interpolate_antialias=True)))
    model.save_pretrained(tmp_path / "ours")
    fields = {"resize_mode": "crop", "window": (-160.0, 240.0), "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    BioVFMImageProcessor(size={"height": 64, "width": 64}, **fields).save_pretrained(tmp_path / "ours")
    convert(str(tmp_path / "ours"), tmp_path / "copy")
    copy = BioVFMImageProcessor.from_pretrained(tmp_path / "copy")
    assert (copy.resize_mode, tuple(copy.window), tuple(copy.image_mean)) == ("crop", (-160.0, 240.0), (0.5,) * 3)
    convert(str(tmp_path / "ours"), tmp_path / "timm", "timm")
    convert(str(tmp_path / "timm"), tmp_path / "back")
    assert tuple(BioVFMImageProcessor.from_pretrained(tmp_path / "back").image_mean) == (0.5,) * 3


def test_learned_positions_without_layer_scale_stay_learned(tmp_path: Path) -> None:
    meta_file(tmp_path / "dino_v1.pth", layerscale_value=None, use_mask_token=False)
    config = convert(str(tmp_path / "dino_v1.pth"), tmp_path / "ours", num_heads=3).config
    assert (config.position_embedding_type, config.initialization) == ("learned", "dinov2")


def test_an_exported_mae_encoder_sees_every_patch(tmp_path: Path) -> None:
    fields = {"layerscale_value": None, "position_embedding_type": "sincos", "initialization": "mae"}
    model = scramble(BioVFMModel(BioVFMConfig(**SMALL, **fields)))
    model.save_pretrained(tmp_path / "ours")
    convert(str(tmp_path / "ours"), tmp_path / "theirs", "vit_mae")
    theirs = AutoModel.from_pretrained(tmp_path / "theirs").eval()
    pixels = torch.randn(2, 3, 64, 64)
    found = tokens(theirs, pixels, noise=torch.arange(16.0).expand(2, -1))
    torch.testing.assert_close(found, tokens(model, pixels), atol=1e-5, rtol=0)


def test_a_segmentation_model_converts_without_its_head(tmp_path: Path) -> None:
    from biovfm_hf import BioVFMForSemanticSegmentation

    BioVFMForSemanticSegmentation(BioVFMConfig(**SMALL, num_labels=3)).save_pretrained(tmp_path / "seg")
    assert sorted(convert(str(tmp_path / "seg"), tmp_path / "ours").left_out) == ["decoder.bias", "decoder.weight"]
