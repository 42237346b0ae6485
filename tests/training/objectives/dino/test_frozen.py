"""A run that learns the scores of an earlier run's teacher, and a run that starts from that teacher."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from biovfm_hf import BioVFMConfig
from biovfm_hf.cards.objective import read_objective
from biovfm_hf.cards.origin import Origin, read_origin
from biovfm_hf.errors import UserError
from biovfm_hf.flops import Architecture
from biovfm_hf.positions import rotary_periods
from training.command import pretrain
from training.config_file import load_config, parse_overrides
from training.estimate import describe
from training.objectives import method_of
from training.objectives.dino.frozen import frozen_config, read_network
from training.run.checkpoint import newest_model
from training.run.provenance import lineages
from training.settings.architecture import biovfm_config
from training.setup import split_batch

from ...conftest import SMALL_DINO, write_images

STUDENT = ["model.hidden_size=16", "dino.hidden=12", "dino.bottleneck=4"]


def run(data: Path, out: Path, *words: str) -> dict[str, torch.Tensor]:
    pretrain("dino_smoke", data=data, out=out, overrides=["steps=4", "run.checkpoint_every=2", *SMALL_DINO, *words])
    return newest_model(out / "checkpoints")


def named(tensors: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a separate head for patches and plain prototypes, as DINOv3 has them."""
    folder = tmp_path_factory.mktemp("first")
    more = ["dino.ibot_separate_head=true", "dino.ibot_prototypes=24", "dino.weight_norm=false"]
    run(write_images(folder / "images", 12), folder / "run", *more)
    return folder / "run"


HEADS = ["dino.ibot_separate_head=true", "dino.ibot_prototypes=24"]


def test_a_narrower_student_learns_the_scores_and_goes_on_bit_for_bit(
    first: Path, image_folder: Path, tmp_path: Path
) -> None:
    words = [*STUDENT, *HEADS, f"teacher.frozen={first}"]
    whole = run(image_folder, tmp_path / "run", *words)
    assert equal(named(whole, "teacher."), named(newest_model(first / "checkpoints"), "teacher."))
    assert whole["followed.backbone.norm.weight"].shape == (16,)
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_00000004")
    stated = (first / "config.yaml").read_text()
    (first / "config.yaml").write_text(stated.replace("  size: ", "  layer_norm_eps: 0.1\n  size: ", 1))
    frozen_config.cache_clear()
    with pytest.raises(UserError, match=r"teacher\.frozen has another configuration than when the run began"):
        run(image_folder, tmp_path / "run", *words)
    (first / "config.yaml").write_text(stated)
    frozen_config.cache_clear()
    assert equal(whole, run(image_folder, tmp_path / "run", *words))
    exported = BioVFMConfig.from_pretrained(tmp_path / "run" / "model")
    assert exported.hidden_size == 16
    assert read_origin(tmp_path / "run" / "model") == Origin(teachers=("run",))
    words = read_objective(tmp_path / "run" / "model")
    assert words and "frozen network" in words.summary and "moving average" not in words.summary
    later = run(image_folder, tmp_path / "later", *STUDENT, *HEADS, f"model.init_from={tmp_path / 'run'}",
                "optim.base_lr=0", "teacher.momentum=1.0")  # fmt: skip
    assert equal(named(later, "teacher."), named(whole, "followed.")), "its average teaches the next run"


def test_nothing_is_hidden_from_the_student(first: Path) -> None:
    words = [*SMALL_DINO, *STUDENT, *HEADS, f"teacher.frozen={first}"]
    config = load_config("dino_smoke", parse_overrides(words))
    objective = method_of("dino").build(config, biovfm_config(config)).train()
    batch = {"global_crops": torch.randn(4, 3, 32, 32), "masks": torch.tensor([[True, False, True, False]] * 4)}
    loss, report = objective(batch, method_of("dino").schedule(config, 1e-3).at(3))
    loss.backward()
    assert not objective.student.backbone.embeddings.mask_token.grad.any() and report["ibot_loss"] > 0
    flops = method_of("dino").flops_per_image(config, biovfm_config(config))
    own = method_of("dino").flops_per_image(
        load_config("dino_smoke", parse_overrides(words[:-1])), biovfm_config(config)
    )
    wide, narrow = (Architecture.of(network.backbone.config).forward_flops(32) for network in
                    (objective.teacher, objective.student))  # fmt: skip
    assert flops == pytest.approx(own + 2 * (wide - narrow)) and "parameters" in describe(config, method_of("dino"))


def test_prototypes_and_patches_must_be_those_of_the_frozen_network(first: Path) -> None:
    for word, message in (
        ("dino.prototypes=64", r"has dino\.prototypes 32, this run 64; give dino\.prototypes=32"),
        ("model.patch_size=8", r"has model\.patch_size 16, this run 8"),
        ("dino.ibot_separate_head=false", r"give dino\.ibot_separate_head=true"),
        ("dino.ibot_prototypes=8", r"give dino\.ibot_prototypes=24"),
    ):
        with pytest.raises(UserError, match=message):
            words = [*SMALL_DINO, *HEADS, f"teacher.frozen={first}", word]
            pretrain("dino_smoke", dry_run=True, overrides=words)
    with pytest.raises(UserError, match=r"has no heads, .*; distil its features: method distill"):
        pretrain("dino_smoke", dry_run=True, overrides=[*SMALL_DINO, f"teacher.frozen={first / 'model'}"])
    with pytest.raises(UserError, match=r"teacher\.frozen and gram\.weight are both given"):
        load_config("dino_smoke", {"teacher.frozen": "x", "gram.weight": 1.0})


def test_a_weight_file_with_heads_is_read_whole(tmp_path: Path) -> None:
    """As DINOv3's training writes its teacher."""
    stored = load_file(Path(__file__).parents[3] / "reference" / "dinov3_distill_a.safetensors")
    teacher = named(stored, "teacher.")
    periods = rotary_periods(16, 100.0, None, None, torch.float32)
    torch.save({"teacher": {**teacher, "backbone.rope_embed.periods": periods}}, tmp_path / "teacher.pth")
    words = {"teacher.frozen": str(tmp_path / "teacher.pth"), "model.size": "vit-tiny", "model.patch_size": 8}
    words |= {"dino.prototypes": 32, "dino.ibot_separate_head": True, "dino.ibot_prototypes": 24}
    words |= {"augment.global_size": 32, "augment.local_size": 16}
    config = load_config("dino_smoke", words)
    network = read_network(config, biovfm_config(config))
    assert network.backbone.config.num_attention_heads == 3 and network.dino_head.last_layer.weight.shape == (32, 20)
    assert torch.equal(network.ibot_head.mlp[4].weight, teacher["ibot_head.mlp.4.weight"])
    assert torch.equal(network.backbone.norm.bias, teacher["backbone.norm.bias"])


def test_the_licence_of_a_frozen_network_binds(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "dinov3_vit"}')
    config = load_config("dino_smoke", {"teacher.frozen": str(tmp_path)})
    assert lineages(config)["model"].provenance.licences == ("dinov3-license",)
    assert config.renamed(lambda path: path and Path(path).name).teacher.frozen == tmp_path.name


def test_a_stage_that_its_teacher_leads_begins_as_it(first: Path, image_folder: Path, tmp_path: Path) -> None:
    still = ["steps=1", "optim.base_lr=0", "teacher.momentum=1.0", f"model.init_from={first}", *HEADS]
    still.append("dino.weight_norm=false")
    before = newest_model(first / "checkpoints")
    as_they_were = run(image_folder, tmp_path / "plain", *still)
    led = run(image_folder, tmp_path / "led", *still, "teacher.leads=true")
    assert equal(named(as_they_were, "student."), named(before, "student."))
    assert equal(named(led, "student."), named(before, "teacher.")) and led["student.dino_head.mlp.0.bias"].any()


def test_koleo_searches_no_more_images_than_there_are() -> None:
    words = {"batch.size": 16, "batch.per_process": 4, "dino.koleo_group": 8}
    assert split_batch(load_config("dino_smoke", words), processes=4, rank=0)[0].images == 4
    with pytest.raises(UserError, match=r"koleo_group 8 must be a multiple of the 4 .* give dino\.koleo_group=0"):
        split_batch(load_config("dino_smoke", words), processes=1, rank=0)
    with pytest.raises(UserError, match="koleo_neighbours 4 needs more than 4 images to search"):
        split_batch(load_config("dino_smoke", {**words, "dino.koleo_group": 0, "dino.koleo_neighbours": 4}), 4, 0)
    with pytest.raises(UserError, match="koleo_neighbours 16 must be fewer"):
        load_config("dino_smoke", {"batch.size": 16, "dino.koleo_neighbours": 16})
