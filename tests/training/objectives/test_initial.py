"""What training starts from gives the architecture, and what cannot be is told before anything is allocated."""

import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from biovfm_hf import BioVFMConfig, BioVFMForMaskedAutoencoding, BioVFMModel
from biovfm_hf.errors import UserError
from training.command import main, pretrain, run_script
from training.config_file import load_config, parse_overrides
from training.objectives import method_of
from training.objectives.initial import with_architecture
from training.settings.architecture import biovfm_config

from ..conftest import SMALL_DINO, SMALL_MAE

SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 8, "image_size": 32}


def without_architecture(words: list[str]) -> list[str]:
    return [word for word in words if not word.startswith("model.")]


def test_the_architecture_is_that_of_a_model_folder(tmp_path: Path) -> None:
    switches = {"num_register_tokens": 2, "ffn_type": "swiglu", "layerscale_value": 0.1, "interpolate_offset": 0.1}
    source = BioVFMConfig(**SIZES, **switches)
    BioVFMModel(source).save_pretrained(tmp_path / "encoder")
    config = load_config("dino_continue", {"model.init_from": str(tmp_path / "encoder"), "augment.global_size": 112})
    ours = biovfm_config(with_architecture(config))
    for name in (*SIZES, *switches):
        assert getattr(ours, name) == (112 if name == "image_size" else getattr(source, name)), name
    assert ours.drop_path_rate == 0.1, "the recipe's own"
    given = load_config("dino_continue", {"model.init_from": str(tmp_path / "encoder"), "model.patch_size": 16})
    assert with_architecture(given).model.fields["patch_size"] == 16


def test_the_size_is_named_as_the_weights_are(tmp_path: Path) -> None:
    BioVFMModel(BioVFMConfig.from_size("vit-tiny", image_size=32)).save_pretrained(tmp_path / "tiny")
    config = load_config("dino_continue", {"model.init_from": str(tmp_path / "tiny")})
    assert config.model.size == "vit-base" and with_architecture(config).model.size == "vit-tiny"


def test_rotary_positions_are_the_weights_own(tmp_path: Path) -> None:
    source = BioVFMConfig.from_size("vit-tiny", family="dinov3", **SIZES, rope_base=31.0, rope_rescale_coords=2.0)
    BioVFMModel(source).save_pretrained(tmp_path / "encoder")
    config = load_config("dino_continue", {"model.init_from": str(tmp_path / "encoder"), "augment.global_size": 112})
    ours = biovfm_config(with_architecture(config))
    for name in ("position_embedding_type", "rope_base", "rope_rescale_coords", "mask_key_bias", "layer_norm_eps"):
        assert getattr(ours, name) == getattr(source, name), name
    objective = method_of("dino").build(with_architecture(config), ours)
    assert objective.student.backbone.layers[0].attention.qkv.weight.shape == (144, 48)
    assert objective.student.backbone.config.position_embedding_type == "rope"
    for name, value in (("num_attention_heads", 2), ("rope_base", 7.0), ("hidden_act", "relu")):
        given = replace(config, model=replace(config.model, fields={name: value}))
        with pytest.raises(
            UserError, match=rf"model\.init_from .*encoder has {name} .*, this model {value}; give the"
        ):
            method_of("dino").build(with_architecture(given), biovfm_config(with_architecture(given)))


def test_a_decoder_is_taken_where_there_is_one(tmp_path: Path) -> None:
    decoder = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 4}
    source = BioVFMConfig.from_size("vit-tiny", family="mae", **SIZES, **decoder)
    BioVFMForMaskedAutoencoding(source).save_pretrained(tmp_path / "whole")
    config = with_architecture(load_config("mae_smoke", {"model.init_from": str(tmp_path / "whole")}))
    assert "decoder_hidden_size" not in load_config("dino_continue").model.fields
    ours = biovfm_config(config)
    assert ours.num_hidden_layers == 3 and ours.decoder_hidden_size == 32, "not the recipe's own 6 and 128"
    given = {"model.init_from": str(tmp_path / "whole"), "model.num_hidden_layers": 5}
    assert biovfm_config(with_architecture(load_config("mae_smoke", given))).num_hidden_layers == 5
    plain = load_config("mae_vit_base", {"model.init_from": str(tmp_path / "whole")})
    assert all(getattr(biovfm_config(with_architecture(plain)), name) == decoder[name] for name in decoder)


def test_a_run_continues_from_a_run_and_from_itself_without_being_told_its_size(
    image_folder: Path, tmp_path: Path
) -> None:
    pretrain("dino_smoke", data=image_folder, out=tmp_path / "first", overrides=["steps=2", *SMALL_DINO])
    more = [*without_architecture(SMALL_DINO), "steps=2", "run.checkpoint_every=1", "augment.preset=dinov2"]
    more = [*more, f"model.init_from={tmp_path / 'first'}"]
    (tmp_path / "bare.yaml").write_text("method: dino\noptim: {warmup_steps: 1}\n")
    model = pretrain(tmp_path / "bare.yaml", data=image_folder, out=tmp_path / "second", overrides=more)
    assert BioVFMConfig.from_pretrained(model).hidden_size == 32
    with pytest.raises(UserError, match=r"first has layer_norm_eps 1e-06, this model 0\.1"):
        pretrain(
            tmp_path / "bare.yaml",
            data=image_folder,
            out=tmp_path / "other",
            overrides=[*more, "model.layer_norm_eps=0.1"],
        )
    shutil.move(tmp_path / "first", tmp_path / "gone")
    shutil.rmtree(tmp_path / "second" / "model")
    shutil.rmtree(tmp_path / "second" / "checkpoints" / "step_00000002")
    pretrain(tmp_path / "bare.yaml", data=image_folder, out=tmp_path / "second", overrides=more)
    assert (model / "model.safetensors").is_file()


def test_a_finished_run_with_more_steps_is_told_how_to_go_on(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["--config", "mae_smoke", "--data", str(image_folder), "--out", str(tmp_path / "run"), *SMALL_MAE]
    assert run_script("mae", [*words, "steps=2"]) == 0
    capsys.readouterr()
    assert run_script("mae", [*words, "steps=4"]) == 1
    told = capsys.readouterr().err
    assert "steps 2 -> 4" in told and told.count("\n") == 1
    command = shlex.split(told.partition("with: ")[2])
    assert command[:2] == ["biovfm", "pretrain"] and command[-1] == "steps=2"
    assert main(command[2:]) == 0
    assert (tmp_path / "run-more" / "model" / "model.safetensors").is_file()
    assert run_script("mae", [*words, "steps=4", "seed=1"]) == 1  # other settings are no more of the same
    assert f"with another --out and --model.init_from {tmp_path / 'run'}" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_model_that_no_memory_holds_is_told_in_one_line(device: str, image_folder: Path, tmp_path: Path) -> None:
    words = ["dino.prototypes=2000000000", f"run.device={device}"]
    small = [word for word in SMALL_DINO if not word.startswith(("dino.prototypes", "run.device"))]
    with pytest.raises(UserError, match=r"take .* GiB, this (machine|GPU) has .*dino\.prototypes") as caught:
        pretrain("dino_smoke", data=image_folder, out=tmp_path / "out", overrides=[*small, *words])
    assert "\n" not in str(caught.value) and not (tmp_path / "out" / "checkpoints").exists()
    assert parse_overrides(words)["dino.prototypes"] == 2 * 10**9 and torch.get_num_threads() == 1
