"""DINOv3's weights in and out, against transformers' `DINOv3ViTModel`."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoModel, DINOv3ViTConfig, DINOv3ViTModel

from biovfm_hf import BioVFMConfig, BioVFMModel
from biovfm_hf.cards.provenance import PROVENANCE, Provenance
from biovfm_hf.conversion.command import ConvertOptions, convert, main
from biovfm_hf.conversion.provenance import weights_provenance
from biovfm_hf.conversion.read import read_encoder
from biovfm_hf.errors import UserError
from biovfm_hf.flops import encoder_parameters

SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}

KINDS = {
    "mlp": {"num_register_tokens": 4},
    "no registers": {},
    "gated": {"use_gated_mlp": True, "hidden_act": "silu", "num_register_tokens": 2},
    "7B: no biases of attention": {"query_bias": False, "value_bias": False},
    "key bias": {"key_bias": True},
    "no biases of the rest": {"proj_bias": False, "mlp_bias": False},
    "another base": {"rope_theta": 31.0, "pos_embed_rescale": None},
}


def theirs(**fields: object) -> DINOv3ViTModel:
    torch.manual_seed(0)
    fields = {"intermediate_size": 96, "layerscale_value": 0.5, **fields}
    model = DINOv3ViTModel(DINOv3ViTConfig(**SIZES, **fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def ours(**fields: object) -> BioVFMModel:
    torch.manual_seed(0)
    config = BioVFMConfig.from_size("vit-tiny", family="dinov3", use_mask_token=True, **{**SIZES, **fields})
    model = BioVFMModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


@torch.no_grad()
def tokens(model: torch.nn.Module, side: tuple[int, int], **fields: object) -> torch.Tensor:
    pixels = torch.randn(2, 3, *side, generator=torch.Generator().manual_seed(1))
    return model(pixels, **fields).last_hidden_state


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_folders_agree_in_both_directions(kind: str, tmp_path: Path) -> None:
    source = theirs(**KINDS[kind])
    source.save_pretrained(tmp_path / "theirs")
    convert(ConvertOptions(str(tmp_path / "theirs"), to=tmp_path / "ours"))
    convert(ConvertOptions(str(tmp_path / "ours"), to=tmp_path / "back", format="dinov3"))
    mine, back = BioVFMModel.from_pretrained(tmp_path / "ours").eval(), AutoModel.from_pretrained(tmp_path / "back")
    assert isinstance(back, DINOv3ViTModel)
    mask = torch.rand(2, 16, generator=torch.Generator().manual_seed(2)) < 0.4
    for side in ((32, 32), (48, 24), (40, 72)):
        expected = tokens(source, side)
        torch.testing.assert_close(tokens(mine, side), expected, **CLOSE)
        torch.testing.assert_close(tokens(back.eval(), side), expected, **CLOSE)
    masked = tokens(source, (32, 32), bool_masked_pos=mask)
    torch.testing.assert_close(tokens(mine, (32, 32), bool_masked_pos=mask), masked, **CLOSE)
    assert (mine.config.rope_rescale_coords, back.config.rope_theta) == (
        source.config.pos_embed_rescale,
        source.config.rope_theta,
    )
    assert AutoImageProcessor.from_pretrained(tmp_path / "back").size == {"height": 32, "width": 32}


def test_a_biovfm_model_becomes_a_dinov3_model_without_the_norm_of_local_crops(tmp_path: Path) -> None:
    model = ours(untie_global_and_local_cls_norm=True)
    model.save_pretrained(tmp_path / "ours")
    encoder = convert(ConvertOptions(str(tmp_path / "ours"), to=tmp_path / "theirs", format="dinov3"))
    assert encoder.left_out == ["local_cls_norm.weight", "local_cls_norm.bias"]
    back = AutoModel.from_pretrained(tmp_path / "theirs").eval()
    torch.testing.assert_close(tokens(back, (48, 24)), tokens(model, (48, 24)), **CLOSE)


@pytest.mark.parametrize(
    ("fields", "target", "reason"),
    [
        ({"rope_min_period": 0.5, "rope_max_period": 60.0}, "dinov3", "a shortest and a longest period"),
        ({"rope_normalize_coords": "max"}, "dinov3", "max of the sides"),
        ({"untie_cls_and_patch_norms": True}, "dinov3", "a final norm of its own"),
        ({"layerscale_value": None}, "dinov3", "no LayerScale"),
        ({"position_embedding_type": "learned"}, "dinov3", "not rotary"),
        ({}, "dinov2", "use --format dinov3"),
        ({"layerscale_value": None}, "vit_mae", "use --format dinov3"),
        ({}, "timm", "use --format dinov3"),
    ],
)
def test_targets_that_cannot_hold_the_model(fields: dict, target: str, reason: str, tmp_path: Path) -> None:
    ours(**fields).save_pretrained(tmp_path / "ours")
    with pytest.raises(UserError, match=reason):
        convert(ConvertOptions(str(tmp_path / "ours"), to=tmp_path / "theirs", format=target))


def original_names(model: BioVFMModel) -> dict[str, torch.Tensor]:
    """A state dict as facebookresearch's code saves it, by a map written out here."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("embeddings.patch_embeddings.projection", "patch_embed.proj").replace("embeddings.", "")
        name = (
            name.replace("layers.", "blocks.")
            .replace("attention.", "attn.")
            .replace("register_tokens", "storage_tokens")
        )
        name = name.replace("layer_scale", "ls")
        if ".mlp.w12." in name:
            tensors[name.replace("w12", "w1")], tensors[name.replace("w12", "w2")] = tensor.chunk(2)
        else:
            tensors[name] = tensor
    return tensors


@pytest.mark.parametrize("form", ["released", "its own training", "another base", "two periods"])
def test_pth_files_give_their_rotations_and_their_masked_bias(form: str, tmp_path: Path) -> None:
    fields: dict = {
        "released": {"ffn_type": "swiglu", "mlp_ratio": 6.0},
        "its own training": {"rope_dtype": "bfloat16"},
        "another base": {"rope_base": 31.0},
        "two periods": {"rope_min_period": 0.5, "rope_max_period": 60.0},
    }[form]
    model = ours(**fields)
    head, count = 16, 4  # one period for each four numbers of a head
    if form == "two periods":
        periods = torch.tensor([0.5 * 120 ** (i / (count - 1)) for i in range(count)])
    else:
        periods = torch.tensor([fields.get("rope_base", 100.0) ** (2 * i / (head / 2)) for i in range(count)])
    periods = periods.to(torch.bfloat16 if form == "its own training" else torch.float32)
    mask = torch.cat([torch.ones(48), torch.zeros(48), torch.ones(48)])
    mask = torch.full_like(mask, torch.nan) if form == "its own training" else mask
    buffers = {f"blocks.{block}.attn.qkv.bias_mask": mask for block in range(2)}
    tensors = {**original_names(model), "rope_embed.periods": periods, **buffers}
    content = {"teacher": {f"backbone.{name}": tensor for name, tensor in tensors.items()}}
    torch.save(content if form == "its own training" else tensors, tmp_path / "theirs.pth")
    encoder = read_encoder(str(tmp_path / "theirs.pth"))
    for name in ("rope_base", "rope_dtype", "num_attention_heads", "mask_key_bias", "layer_norm_eps", "ffn_type"):
        assert getattr(encoder.config, name) == getattr(model.config, name), name
    assert (encoder.config.rope_min_period is None) == (form != "two periods")
    convert(ConvertOptions(str(tmp_path / "theirs.pth"), to=tmp_path / "ours"))
    mine = BioVFMModel.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(tokens(mine, (40, 72)), tokens(model, (40, 72)), **CLOSE)


def test_a_key_bias_that_is_not_masked_counts(tmp_path: Path) -> None:
    masked, plain = ours(), ours(mask_key_bias=False)
    plain.load_state_dict(masked.state_dict())
    assert (tokens(masked, (32, 32)) - tokens(plain, (32, 32))).abs().max() > 1e-3


def test_files_that_fit_no_model_are_refused_by_name(tmp_path: Path) -> None:
    tensors = {**original_names(ours()), "rope_embed.periods": torch.tensor([1.0, 7.0, 3.0, 9.0])}
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth: rope_embed\.periods are neither"):
        read_encoder(str(tmp_path / "a.pth"))
    tensors["rope_embed.periods"] = torch.tensor([1.0, 3.1622777, 10.0, 31.622777])
    tensors["blocks.0.attn.qkv.bias_mask"] = torch.tensor([0.0, 1.0]).repeat(72)
    torch.save(tensors, tmp_path / "b.pth")
    with pytest.raises(UserError, match=r"b\.pth: attn\.qkv\.bias_mask leaves out something other"):
        read_encoder(str(tmp_path / "b.pth"))


def test_a_gated_width_that_the_model_cannot_have_is_refused_with_the_reason(tmp_path: Path) -> None:
    theirs(use_gated_mlp=True, hidden_act="silu", intermediate_size=100).save_pretrained(tmp_path / "theirs")
    tensors = original_names(ours(ffn_type="swiglu", mlp_ratio=3.0))
    tensors["rope_embed.periods"] = torch.tensor([1.0, 3.1622777, 10.0, 31.622777])
    cut = {name: tensor[:-3] for name, tensor in tensors.items() if ".mlp.w1." in name or ".mlp.w2." in name}
    cut |= {name: tensor[:, :-3] for name, tensor in tensors.items() if name.endswith(".mlp.w3.weight")}
    torch.save({**tensors, **cut}, tmp_path / "theirs.pth")
    for source, width in (("theirs", 100), ("theirs.pth", tensors["blocks.0.mlp.w3.weight"].shape[1] - 3)):
        with pytest.raises(UserError, match=rf"gated feed-forward is {width} wide; .* multiple of 8"):
            read_encoder(str(tmp_path / source))


def test_the_named_sizes_are_those_of_dinov3() -> None:
    # parameters in millions of the authors' models
    released = {"vit-small": 21.60, "vit-small-plus": 28.70, "vit-base": 85.67, "vit-large": 303.15}
    for name, millions in released.items():
        config = BioVFMConfig.from_size(name, family="dinov3", use_mask_token=True)
        assert encoder_parameters(config) / 1e6 == pytest.approx(millions, abs=0.02)
    seven = BioVFMConfig.from_size("vit-7b", family="dinov3")
    with torch.device("meta"):
        model = BioVFMModel(seven)
    assert model.layers[0].mlp.w3.in_features == 8192 and model.layers[0].attention.qkv.bias is None
    assert sum(tensor.numel() for tensor in model.parameters()) == encoder_parameters(seven)


def test_the_licence_is_shown_and_carried_over(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    theirs().save_pretrained(tmp_path / "theirs")
    assert main([str(tmp_path / "theirs"), "--to", str(tmp_path / "ours")]) == 0
    assert "under the DINOv3 licence (https://github.com/facebookresearch/dinov3" in capsys.readouterr().out
    convert(ConvertOptions(str(tmp_path / "ours"), to=tmp_path / "back", format="dinov3"))
    for name in ("ours", "back"):
        assert json.loads((tmp_path / name / PROVENANCE).read_text())["licences"] == ["dinov3-license"]
        assert weights_provenance(str(tmp_path / name)) == Provenance(licences=("dinov3-license",))
    torch.save({**original_names(ours()), "rope_embed.periods": torch.ones(4)}, tmp_path / "a.pth")
    assert weights_provenance(str(tmp_path / "a.pth")).licences == ("dinov3-license",)
    (tmp_path / "bare").mkdir()
    (tmp_path / "a.pth").rename(tmp_path / "bare" / "pytorch_model.bin")
    assert weights_provenance(str(tmp_path / "bare")).licences == ("dinov3-license",), "no config.json tells"
    ours(position_embedding_type="learned").save_pretrained(tmp_path / "plain")
    assert not weights_provenance(str(tmp_path / "plain"))
