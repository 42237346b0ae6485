"""A run with Gram anchoring: its teacher, its stages, and that it continues exactly."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from biovfm_hf import BioVFMConfig, BioVFMModel
from biovfm_hf.errors import UserError
from training.command import pretrain
from training.config_file import load_config, parse_overrides
from training.data.batches import CropBatches, Share
from training.data.images import open_images
from training.data.order import SampleOrder
from training.estimate import describe
from training.objectives import method_of
from training.objectives.initial import with_architecture
from training.run.checkpoint import newest_model
from training.run.provenance import lineages
from training.settings.architecture import biovfm_config

from ...conftest import SMALL_DINO

GRAM = ["gram.weight=2.0", "gram.start=2", "gram.ramp=2", "gram.refresh_every=2", "gram.refreshes=1"]


def run(data: Path, out: Path, *words: str) -> dict[str, torch.Tensor]:
    pretrain("dino_smoke", data=data, out=out, overrides=["steps=6", "run.checkpoint_every=3", *SMALL_DINO, *words])
    return newest_model(out / "checkpoints")


def test_a_killed_run_goes_on_bit_for_bit_across_start_and_refresh(image_folder: Path, tmp_path: Path) -> None:
    whole = run(image_folder, tmp_path / "run", *GRAM, "augment.anchor_size=64")
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_00000006")
    again = run(image_folder, tmp_path / "run", *GRAM, "augment.anchor_size=64")
    assert any(name.startswith("gram_teacher.") for name in whole)
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)
    moved = [not torch.equal(whole[f"gram_teacher.{name.removeprefix('teacher.backbone.')}"], tensor)
             for name, tensor in whole.items() if name.startswith("teacher.backbone.layers.0.norm1")]  # fmt: skip
    assert all(moved), "renewed after the fourth step, then kept"


def test_without_a_weight_nothing_is_held_and_nothing_changes(image_folder: Path, tmp_path: Path) -> None:
    plain = run(image_folder, tmp_path / "plain")
    later = run(image_folder, tmp_path / "later", "gram.weight=1.0", "gram.start=6")
    assert not any(name.startswith("gram_teacher.") for name in plain)
    assert all(torch.equal(tensor, later[name]) for name, tensor in plain.items())


def test_a_stage_is_estimated_and_goes_on_without_the_weights_that_it_began_with(
    image_folder: Path, tmp_path: Path
) -> None:
    run(image_folder, tmp_path / "first")
    words = ["gram.weight=1.0", f"gram.teacher={tmp_path / 'first' / 'model'}"]
    config = load_config("dino_smoke", parse_overrides([*SMALL_DINO, *words]))
    assert "parameters" in describe(config, method_of("dino"))
    whole = run(image_folder, tmp_path / "second", *words)
    shutil.rmtree(tmp_path / "first")
    shutil.rmtree(tmp_path / "second" / "model")
    shutil.rmtree(tmp_path / "second" / "checkpoints" / "step_00000006")
    again = run(image_folder, tmp_path / "second", *words)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize("source", ["", "model"])
def test_the_teacher_of_a_run_or_a_folder(image_folder: Path, tmp_path: Path, source: str) -> None:
    first = run(image_folder, tmp_path / "first", *GRAM)
    anchored = run(
        image_folder, tmp_path / "second", "gram.weight=1.0", f"gram.teacher={tmp_path / 'first' / source}",
        f"model.init_from={tmp_path / 'first'}",
    )  # fmt: skip
    frozen = {k.removeprefix("gram_teacher."): v for k, v in anchored.items() if k.startswith("gram_teacher.")}
    assert frozen and all(torch.equal(tensor, first[f"teacher.backbone.{name}"]) for name, tensor in frozen.items())
    settings = (tmp_path / "second" / "model" / "training_config.yaml").read_text()
    assert str(tmp_path) not in settings and "gram" in settings


def test_an_anchor_that_computes_other_features_is_refused(tmp_path: Path) -> None:
    """Its tensors fit, but a configuration of its own makes other features of them."""
    (tmp_path / "bare.yaml").write_text(
        "method: dino\naugment: {global_size: 32, local_size: 16}\ndino: {prototypes: 8, hidden: 8}\n"
    )
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32}
    rotary = BioVFMConfig.from_size("vit-tiny", family="dinov3", **sizes, use_mask_token=True)
    BioVFMModel(rotary).save_pretrained(tmp_path / "rotary")
    learned = BioVFMConfig.from_size("vit-tiny", **sizes, layerscale_value=1.0, use_mask_token=True)
    BioVFMModel(learned).save_pretrained(tmp_path / "learned")
    changes = [("rotary", {"num_attention_heads": 4}), ("rotary", {"rope_base": 10000.0}),
               ("rotary", {"hidden_act": "relu"}), ("rotary", {"layer_norm_eps": 0.1}),
               ("rotary", {"mask_key_bias": False}), ("rotary", {"rope_normalize_coords": "max"}),
               ("learned", {"interpolate_offset": 0.1})]  # fmt: skip
    for kind, change in changes:
        (name, value), teacher = *change.items(), tmp_path / "changed"
        shutil.copytree(tmp_path / kind, teacher, dirs_exist_ok=True)
        stated = json.loads((tmp_path / kind / "config.json").read_text())
        (teacher / "config.json").write_text(json.dumps({**stated, **change}))
        words = {"model.init_from": str(tmp_path / kind), "gram.weight": 1.0, "gram.teacher": str(teacher)}
        config = with_architecture(load_config(tmp_path / "bare.yaml", words))
        with pytest.raises(UserError, match=rf"gram\.teacher .*changed has {name} {value}, this model"):
            method_of("dino").build(config, biovfm_config(config))


def test_anchor_crops_are_the_global_ones_untouched_and_larger(image_folder: Path) -> None:
    plain = ["jitter_p", "grayscale_p"]
    words = {f"augment.{name}": 0.0 for name in plain} | {
        "augment.blur_p": (0.0,) * 3,
        "augment.solarize_p": (0.0,) * 3,
    }
    words |= {"augment.global_size": 32, "augment.local_size": 16, "data.path": str(image_folder), "gram.weight": 1.0}
    config = load_config("dino_smoke", {**words, "augment.anchor_size": 32, "model.patch_size": 8})
    images = open_images(config.data)
    batch = CropBatches(images, SampleOrder(len(images), 0), config, Share(3))[0]
    assert np.array_equal(batch["anchor_crops"], batch["global_crops"])
    config = load_config("dino_smoke", {**words, "augment.anchor_size": 64, "model.patch_size": 8})
    larger = CropBatches(images, SampleOrder(len(images), 0), config, Share(3))[0]
    assert larger["anchor_crops"].shape == (6, 3, 64, 64)
    assert np.array_equal(larger["global_crops"], batch["global_crops"]), "training's own crops are as they were"


def test_settings_that_say_nothing_or_too_much_are_refused() -> None:
    with pytest.raises(UserError, match=r"augment\.anchor_size is given, but gram\.weight is 0"):
        load_config("dino_smoke", {"augment.anchor_size": 64})
    with pytest.raises(UserError, match=r"gram\.per_image=false"):
        load_config("dino_smoke", {"gram.weight": 1.0, "gram.tokens": "masked"})


def test_the_licence_of_a_gram_teacher_binds_too(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "dinov3_vit"}')
    config = load_config("dino_smoke", {"gram.weight": 1.0, "gram.teacher": str(tmp_path)})
    assert lineages(config)["model"].provenance.licences == ("dinov3-license",)
