"""The three stages of the recipe with DINOv3's architecture, small: pretrain, anchor, raise the resolution."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, DINOv3ViTConfig, DINOv3ViTModel

from biovfm_hf.cards.origin import Origin, read_origin
from biovfm_hf.cards.provenance import read_provenance
from training.command import pretrain
from training.config_file import load_config, parse_overrides
from training.data.batches import Drawn
from training.estimate import memory_gib
from training.objectives import method_of
from training.run.checkpoint import newest_model
from training.schedule import StepValues
from training.settings.architecture import biovfm_config
from training.settings.config import TrainConfig

from ...conftest import SMALL_DINO

SMALL = [
    *SMALL_DINO,
    "dino.ibot_prototypes=24",
    "dino.ibot_hidden=16",
    "dino.ibot_bottleneck=8",
    "batch.per_process=4",
    "run.compile=false",
    "run.export_every=2",
    "run.checkpoint_every=2",
    "optim.warmup_steps=1",
    "watch.images=8",
    "watch.every=2",
    "steps=4",
]
MIXTURE = (
    "augment.mixture=[{global_size: 48, local_size: 16, anchor_size: 64}, {global_size: 64, local_size: 32, "
    "anchor_size: 96}]"
)


@pytest.fixture(scope="module")
def stages(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")

    def run(config: str, out: str, *words: str) -> None:
        pretrain(config, data=image_folder, out=folder / out, overrides=[*SMALL, *words])

    run("dino_v3_small", "first")
    anchor = f"gram.teacher={folder / 'first' / 'exports' / 'step_00000002' / 'model'}"
    run(
        "dino_v3_gram",
        "second",
        f"model.init_from={folder / 'first'}",
        anchor,
        "augment.anchor_size=64",
        "gram.ramp=2",
        "gram.refresh_every=1",
    )
    resolution = [f"model.init_from={folder / 'second'}", f"gram.teacher={folder / 'second'}", MIXTURE]
    run("dino_v3_high_resolution", "third", *resolution, "dino.koleo_group=0")
    shutil.copytree(folder / "third", folder / "killed")
    shutil.rmtree(folder / "killed" / "checkpoints" / "step_00000004")
    shutil.rmtree(folder / "killed" / "model")
    run("dino_v3_high_resolution", "killed", *resolution, "dino.koleo_group=0")
    return folder


def part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def test_each_stage_is_anchored_to_what_it_was_told_and_ends_in_a_model(stages: Path) -> None:
    early = AutoModel.from_pretrained(stages / "first" / "exports" / "step_00000002" / "model").state_dict()
    second, third = (newest_model(stages / name / "checkpoints") for name in ("second", "third"))
    renewed = part(second, "gram_teacher.")
    assert renewed.keys() == early.keys() | {"embeddings.mask_token"}
    assert not torch.equal(renewed["norm.weight"], early["norm.weight"]), "refreshed in each of the first three steps"
    before = part(second, "teacher.backbone.")
    assert all(torch.equal(tensor, before[name]) for name, tensor in part(third, "gram_teacher.").items())
    model = AutoModel.from_pretrained(stages / "third" / "model")
    assert model.config.position_embedding_type == "rope" and model.config.image_size == 32
    assert model(torch.zeros(1, 3, 64, 64)).last_hidden_state.shape == (1, 1 + 4 + 16, 32)


def test_steps_of_a_mixture_go_on_bit_for_bit(stages: Path) -> None:
    whole, again = (newest_model(stages / name / "checkpoints") for name in ("third", "killed"))
    assert whole.keys() == again.keys() and all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
    lines = [json.loads(line) for line in (stages / "third" / "metrics.jsonl").read_text().splitlines()]
    assert [line["local_weight"] for line in lines if "local_weight" in line] == [0.5] * 4
    assert all(line["gram_weight"] == 1.5 and line["gram_loss"] > 0 for line in lines if "loss" in line)


def test_continuing_from_dinov3s_weights_is_resumed_bit_for_bit(image_folder: Path, tmp_path: Path) -> None:
    """From a folder of transformers' model; its architecture is taken, and its licence goes along, also when the run
    continues after that folder is gone."""
    config = DINOv3ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_register_tokens=4,
        layerscale_value=1e-5, use_gated_mlp=True, hidden_act="silu",
    )  # fmt: skip
    DINOv3ViTModel(config).save_pretrained(tmp_path / "theirs")
    own = ("model.num_hidden_layers", "model.hidden_size", "model.num_attention_heads")
    words = [word for word in SMALL if not word.startswith(own)] + [f"model.init_from={tmp_path / 'theirs'}"]
    pretrain("dino_v3_continue", data=image_folder, out=tmp_path / "run", overrides=words)
    whole = newest_model(tmp_path / "run" / "checkpoints")
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_00000004")
    shutil.move(tmp_path / "theirs", tmp_path / "elsewhere")
    pretrain("dino_v3_continue", data=image_folder, out=tmp_path / "run", overrides=words)
    again = newest_model(tmp_path / "run" / "checkpoints")
    assert whole.keys() == again.keys() and all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
    model = AutoModel.from_pretrained(tmp_path / "run" / "model")
    assert model.config.ffn_type == "swiglu" and model.config.num_register_tokens == 4
    assert read_provenance(tmp_path / "run" / "model").licences == ("dinov3-license",)
    assert read_origin(tmp_path / "run" / "model") == Origin("theirs")
    settings = (tmp_path / "run" / "model" / "training_config.yaml").read_text()
    assert "init_from: theirs" in settings and str(tmp_path) not in settings


GRAM = ["gram.weight=1.0", "augment.anchor_size=160", "augment.global_size=128"]


@pytest.mark.parametrize("tokens", ["all", "masked"])
def test_operations_and_memory_of_a_gram_step_are_estimated(tokens: str) -> None:
    """On blocks so few and narrow that the Gram matrices are most of it."""
    words = ["model.num_hidden_layers=2", "model.hidden_size=48", "model.patch_size=8", "dino.prototypes=64", *GRAM]
    words += [
        "model.num_attention_heads=3",
        "dino.hidden=64",
        "batch.per_process=2",
        "batch.size=2",
        "run.precision=fp32",
    ]
    words += ["gram.tokens=masked", "gram.per_image=false"] if tokens == "masked" else []
    config = load_config("dino_smoke", parse_overrides(words))
    method, model_config = method_of("dino"), biovfm_config(config)
    objective = method.build(config, model_config).train()
    with FlopCounterMode(display=False) as counter:
        kept = kept_bytes(config, objective, 2)
    assert method.flops_per_image(config, model_config) == pytest.approx(counter.get_total_flops() / 2, rel=0.3)
    _, estimated = memory_gib(method, config, model_config, objective, images=2)
    assert estimated * 2**30 == pytest.approx(kept, rel=0.25)


def kept_bytes(config: TrainConfig, objective: torch.nn.Module, images: int) -> int:
    """What autograd keeps of a forward pass, without the parameters; the backward pass is made too."""
    ours = {parameter.untyped_storage().data_ptr() for parameter in objective.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    augment = config.augment
    drawn = Drawn(np.arange(images), np.arange(images), augment.global_size)
    batch = method_of("dino").batch_extra(config)(drawn, np.random.default_rng(0))
    sides = {"global_crops": (2, augment.global_size), "local_crops": (augment.local_count, augment.local_size)}
    for name, (count, side) in {**sides, "anchor_crops": (2, augment.anchor_size)}.items():
        batch[name] = torch.randn(images * count, 3, side, side)
    values = StepValues(0.0, 0.0, 0.0, momentum=0.9, teacher_temp=0.07, gram_weight=1.0)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss, _ = objective(batch, values)
    loss.backward()
    return sum(size for place, size in kept.items() if place not in ours)
