"""A distillation from its teacher to the exported student: what is compared, learned, resumed, estimated and told."""

import json
import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save, save_file
from torch.testing import assert_close
from transformers import (
    AutoModel,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from biovfm_hf import BioVFMConfig, BioVFMModel
from biovfm_hf.cards.origin import Origin, read_origin
from biovfm_hf.cards.provenance import read_provenance
from biovfm_hf.conversion.dinov3 import LICENCE as DINOV3_LICENCE
from biovfm_hf.conversion.read import read_encoder
from biovfm_hf.errors import UserError
from biovfm_hf.flops import Architecture
from model_cards.card.command import card
from model_cards.card.options import CardOptions
from tests.own_model import OWN_MODEL
from training.command import pretrain
from training.config_file import config_from_tree, load_config, parse_overrides
from training.estimate import describe, image_flops
from training.objectives import method_of
from training.objectives.distill import teacher as loading
from training.objectives.initial import with_architecture
from training.objectives.method import Method
from training.run.checkpoint import _checksum, newest_model
from training.run.provenance import lineages
from training.settings.architecture import biovfm_config

from ...conftest import SMALL


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """Wider than the student, with patches of 8 pixels and another normalisation."""
    torch.manual_seed(0)
    config = BioVFMConfig(
        hidden_size=48, num_hidden_layers=1, num_attention_heads=2, patch_size=8, image_size=32, drop_path_rate=0.5,
        layerscale_value=1.0, use_mask_token=True, num_register_tokens=1,
    )  # fmt: skip
    BioVFMModel(config).save_pretrained(tmp_path / "teacher")
    words = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "teacher" / "preprocessor_config.json").write_text(json.dumps(words))
    return tmp_path / "teacher"


def run(data: Path, out: Path, teacher: Path, *words: str) -> Path:
    more = [*SMALL, "steps=4", "run.checkpoint_every=2", f"distill.teacher={teacher}", *words]
    return Path(pretrain("distill_smoke", data=data, out=out, overrides=more))


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_killed_run_goes_on_bit_for_bit_and_its_student_is_an_ordinary_model(
    teacher: Path, image_folder: Path, tmp_path: Path
) -> None:
    model = run(image_folder, tmp_path / "run", teacher)
    whole = newest_model(tmp_path / "run" / "checkpoints")
    shutil.rmtree(model)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_00000004")
    run(image_folder, tmp_path / "run", teacher)
    again = newest_model(tmp_path / "run" / "checkpoints")
    assert whole.keys() == again.keys() and all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
    assert not any(name.startswith("teacher.") for name in again), "it is read again, and not saved"
    loaded = AutoModel.from_pretrained(model)
    assert loaded(torch.zeros(1, 3, 32, 32)).last_hidden_state.shape == (1, 5, 32)
    assert not any("head" in name or "teacher" in name for name in loaded.state_dict())
    assert "pretrained with distillation" in (model / "README.md").read_text()
    settings = (model / "training_config.yaml").read_text()
    assert "teacher: teacher" in settings and str(tmp_path) not in settings


@pytest.mark.parametrize("compared", ["cosine", "mse", "similarity"])
def test_the_student_learns(compared: str, teacher: Path, image_folder: Path, tmp_path: Path) -> None:
    words = [f"distill.cls_loss={compared}", f"distill.patch_loss={compared}", "steps=40", "batch.size=12"]
    run(image_folder, tmp_path / "run", teacher, *words, "optim.base_lr=0.01", "optim.lr_rule=none")
    first, *_, last = records(tmp_path / "run")
    assert last["cls_loss"] < 0.8 * first["cls_loss"] and last["patch_loss"] < 0.9 * first["patch_loss"]


def objective_of(teacher: Path, **distill: object) -> tuple:
    tree = {"method": "distill", "model": {"size": "vit-tiny", "num_hidden_layers": 1}, "batch": {"size": 4}}
    config = config_from_tree(
        {**tree, "augment": {"global_size": 32}, "distill": {"teacher": str(teacher), **distill}}
    )
    return config, method_of("distill").build(config, biovfm_config(config)).train()


def test_the_teacher_sees_its_own_normalisation_and_the_student_its_grid(teacher: Path) -> None:
    """The losses by hand, from the teacher's folder as transformers loads it."""
    config, objective = objective_of(teacher, cls_loss="mse", patch_loss="mse", patch_weight=2.0)
    crops = torch.randn(4, 3, 32, 32)
    loss, terms = objective({"global_crops": crops}, method_of("distill").schedule(config, 1e-3).at(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.augment.mean, config.augment.std))
    with torch.no_grad():
        theirs = AutoModel.from_pretrained(teacher)((crops * std + mean - 0.5) / 0.25).last_hidden_state
        student = objective.students["model"]
        ours = student.encoder(crops).last_hidden_state
        maps = torch.nn.functional.interpolate(ours[:, 1:].mT.unflatten(2, (2, 2)), (4, 4), mode="bilinear")
        patches = student.patch_head(maps.flatten(2).mT)
    assert_close(terms["cls_loss"], (student.cls_head(ours[:, 0]) - theirs[:, 0]).square().mean().detach())
    assert_close(terms["patch_loss"], (patches - theirs[:, 2:]).square().mean())
    assert_close(loss.detach(), terms["cls_loss"] + 2 * terms["patch_loss"])
    loss.backward()
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())
    assert all(one.grad is not None for name, one in objective.named_parameters() if not name.startswith("teacher."))


def test_a_student_starts_from_weights_with_a_mask_token(teacher: Path) -> None:
    """As exports of DINO runs and transformers' DINOv3 folders have one; here nothing is hidden."""
    stored = load_file(teacher / "model.safetensors")
    tree = {
        "method": "distill",
        "model": {"init_from": str(teacher)},
        "batch": {"size": 4},
        "augment": {"global_size": 32},
    }
    config = with_architecture(config_from_tree({**tree, "distill": {"teacher": str(teacher)}}))
    encoder = method_of("distill").build(config, biovfm_config(config)).students["model"].encoder
    assert "embeddings.mask_token" in stored and encoder.embeddings.mask_token is None
    assert all(torch.equal(tensor, stored[name]) for name, tensor in encoder.state_dict().items())


def test_without_a_weight_the_patches_have_no_head(teacher: Path) -> None:
    config, objective = objective_of(teacher, patch_weight=0)
    _, terms = objective({"global_crops": torch.randn(2, 3, 32, 32)}, method_of("distill").schedule(config, 1.0).at(0))
    assert set(terms) == {"cls_loss"} and objective.students["model"].patch_head is None


def test_a_dinov2_folder_teaches_at_the_nearest_size_that_its_patches_divide(tmp_path: Path) -> None:
    config = Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, patch_size=14, image_size=42)
    Dinov2Model(config).save_pretrained(tmp_path)
    _, objective = objective_of(tmp_path)
    loss, _ = objective({"global_crops": torch.randn(2, 3, 32, 32)}, None)
    assert loss.isfinite() and [objective.teacher.side(side) for side in (32, 96, 224, 5)] == [28, 98, 224, 14]


# draws at random in every step: which images skip a branch, and how rotary coordinates are scaled
DRAWING = {"drop_path_rate": 0.3, "position_embedding_type": "rope", "rope_rescale_coords": 2.0}
NARROW = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "layerscale_value": 1.0, **DRAWING}


def test_students_share_the_teachers_pass_and_learn_as_if_alone(
    teacher: Path, image_folder: Path, tmp_path: Path
) -> None:
    main = [f"model.{name}={value}" for name, value in DRAWING.items()]
    run(
        image_folder,
        tmp_path / "both",
        teacher,
        *main,
        f"distill.students={json.dumps({'narrow': {'fields': NARROW}})}",
    )
    run(image_folder, tmp_path / "alone", teacher, *(f"model.{name}={value}" for name, value in NARROW.items()))
    run(image_folder, tmp_path / "main", teacher, *main)
    for one, other in (("model_narrow", "alone"), ("model", "main")):
        theirs = load_file(tmp_path / other / "model" / "model.safetensors")
        ours = load_file(tmp_path / "both" / one / "model.safetensors")
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {"cls_loss", "cls_loss_narrow", "patch_loss_narrow"} <= records(tmp_path / "both")[-1].keys()
    assert AutoModel.from_pretrained(tmp_path / "both" / "model_narrow").config.hidden_size == 16


def test_a_student_with_weights_of_its_own_goes_on_without_them(
    teacher: Path, image_folder: Path, tmp_path: Path
) -> None:
    """Its architecture is that of its weights, which no setting states."""
    shutil.copytree(teacher, tmp_path / "first")
    words = [f"distill.students={{small: {{init_from: {tmp_path / 'first'}}}}}"]
    run(image_folder, tmp_path / "run", teacher, *words)
    whole = newest_model(tmp_path / "run" / "checkpoints")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_00000004")
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.rmtree(tmp_path / "first")
    run(image_folder, tmp_path / "run", teacher, *words)
    again = newest_model(tmp_path / "run" / "checkpoints")
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
    assert [read_origin(tmp_path / "run" / name).start for name in ("model_small", "model")] == ["first", None]
    for source, message in ((tmp_path / "run", "is a run; name one of its models"), (tmp_path / "first", "no such")):
        words = [f"distill.students={{small: {{init_from: {source}}}}}", f"distill.teacher={teacher}"]
        with pytest.raises(UserError, match=rf"distill\.students\.small\.init_from {source}:? {message}"):
            pretrain("distill_smoke", dry_run=True, overrides=[*SMALL, *words])


def test_a_convnet_of_timm_learns_too_and_is_a_folder_that_timm_and_transformers_load(
    teacher: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["distill.students={conv: {timm: test_convnext}}"]
    run(image_folder, tmp_path / "run", teacher, *words)
    whole = newest_model(tmp_path / "run" / "checkpoints")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_00000004")
    shutil.rmtree(tmp_path / "run" / "model")
    run(image_folder, tmp_path / "run", teacher, *words)
    again = newest_model(tmp_path / "run" / "checkpoints")
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
    folder = tmp_path / "run" / "model_conv"
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    assert torch.equal(loaded.state_dict()["stem.0.weight"], again["students.conv.encoder.stem.0.weight"])
    pixels = torch.randn(1, 3, 32, 32)
    assert_close(AutoModel.from_pretrained(folder)(pixels).last_hidden_state, loaded.forward_features(pixels))
    assert "test_convnext of timm" in (folder / "README.md").read_text()
    stated = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    assert not stated.get("license"), "timm's licence is that of its own weights"
    text = card(CardOptions(folder)).path.read_text()
    assert r"test\_convnext of timm, a network" in text and "vision transformer" not in text
    assert "| Image size | 32 pixels |" in text and "distilled from the model teacher, kept frozen" in text
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code and "random weights" in text
    Image.new("RGB", (40, 48)).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec(code[1].replace('"model_conv"', f'"{folder}"'), found)
    assert_close(
        found["vector"],
        loaded.forward_features(found["processor"](Image.open("image.png"), return_tensors="pt")["pixel_values"]).mean(
            (2, 3)
        ),
    )
    estimate = describe(load_config("distill_smoke", parse_overrides([*SMALL, f"distill.teacher={teacher}", *words])),
                        method_of("distill"))  # fmt: skip
    assert "GFLOP an image" in estimate
    with pytest.raises(UserError, match="timm has no 'no_such_net'"):
        pretrain("distill_smoke", dry_run=True, overrides=[*SMALL, "distill.students={a: {timm: no_such_net}}"])
    with pytest.raises(UserError, match="give letters, digits and hyphens, and not model"):
        load_config("distill_smoke", {"distill.students": {"model": {}}})


def test_any_encoder_teaches_that_is_evaluated(image_folder: Path, tmp_path: Path) -> None:
    """Of a family that no conversion knows, by the front door: CLIP, two folders of ConvNeXts, a timm network."""
    vision = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPVisionConfig(**vision, image_size=32, patch_size=8)
    CLIPVisionModel(config).save_pretrained(tmp_path / "clip")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(tmp_path / "clip")
    network = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0)
    timm.models.save_for_hf(network, str(tmp_path / "timm"), model_args={"depth": 1}, safe_serialization=True)
    convnet, arguments = timm.create_model("test_convnext", num_classes=3), {"num_classes": 3}
    timm.models.save_for_hf(convnet, str(tmp_path / "convnet"), model_args=arguments, safe_serialization=True)
    strided = DINOv3ConvNextConfig(hidden_sizes=[4, 8, 12, 16], depths=[1, 1, 1, 1])  # 32 pixels a patch
    DINOv3ConvNextModel(strided).save_pretrained(tmp_path / "strided")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(tmp_path / "strided")
    for source in ("clip", "strided", "convnet", f"timm:{tmp_path / 'timm'}"):
        source = source if ":" in source else tmp_path / source
        _, objective = objective_of(source)
        loss, _ = objective({"global_crops": torch.randn(2, 3, 32, 32)}, None)
        assert loss.isfinite() and objective.teacher.flops(32) > 0
    assert objective.teacher.fixed == 224, "a network of timm that takes no other size"
    with pytest.raises(UserError, match=r"distill\.teacher .*no-such-encoder"):
        objective_of("no-such-encoder")


def test_code_of_the_teachers_own_runs_at_the_revision_that_was_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "own"
    folder.mkdir()
    auto_map = {"AutoConfig": "own_model.OwnConfig", "AutoModel": "own_model.OwnModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own-patches", "auto_map": auto_map}))
    (folder / "own_model.py").write_text(OWN_MODEL)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    torch.save({"embed.weight": torch.randn(8, 3, 8, 8), "embed.bias": torch.randn(8)}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"of its own.*then give distill\.trust_remote_code=[0-9a-f]{16}$") as refusal:
        objective_of(folder)
    _, objective = objective_of(folder, trust_remote_code=str(refusal.value)[-16:])
    loss, _ = objective({"global_crops": torch.randn(2, 3, 32, 32)}, None)
    assert loss.isfinite()


def test_a_run_reads_its_teacher_only_to_measure_and_to_build_it(
    teacher: Path, image_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(loading, "read_encoder", lambda source: read.append(source) or read_encoder(source))
    run(image_folder, tmp_path / "run", teacher)
    assert len(read) == 2, "its operations are counted on the module that teaches"


def test_a_teacher_that_was_changed_is_refused(
    teacher: Path, image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(image_folder, tmp_path / "run", teacher)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_00000004")
    shutil.rmtree(tmp_path / "run" / "model")
    kept = {file: file.read_bytes() for file in teacher.iterdir() if file.is_file()}
    weights = load_file(teacher / "model.safetensors")
    weights["layers.0.mlp.fc1.weight"][-1, -1] += 1
    config, processor = (json.loads(kept[teacher / f"{name}config.json"]) for name in ("", "preprocessor_"))
    for name, content in (
        ("model.safetensors", save(weights)),
        ("config.json", json.dumps({**config, "num_attention_heads": 4}).encode()),
        ("preprocessor_config.json", json.dumps({**processor, "image_std": [0.25, 0.25, 0.2]}).encode()),
    ):
        (teacher / name).write_bytes(content)
        with pytest.raises(UserError, match=r"distill\.teacher is not as it was when the run began"):
            run(image_folder, tmp_path / "run", teacher)
        (teacher / name).write_bytes(kept[teacher / name])
    folder = tmp_path / "run" / "checkpoints" / "step_00000002"
    tensors = {**load_file(folder / "model.safetensors"), "teacher_mark": torch.tensor(12345)}
    save_file(tensors, folder / "model.safetensors")  # as an earlier version wrote it
    state = json.loads((folder / "state.json").read_text())
    state["files"]["model.safetensors"] = _checksum(folder / "model.safetensors")
    (folder / "state.json").write_text(json.dumps(state))
    run(image_folder, tmp_path / "run", teacher)
    assert "noted too little of distill.teacher" in caplog.text
    assert int(newest_model(tmp_path / "run" / "checkpoints")["teacher_mark"]) > 2**62
    (teacher / "model.safetensors").write_bytes(save(weights))
    run(image_folder, tmp_path / "next", teacher, f"model.init_from={tmp_path / 'run'}")


def test_estimates_count_the_teacher(teacher: Path) -> None:
    config = load_config("distill_smoke", parse_overrides([*SMALL, f"distill.teacher={teacher}"]))
    method, model_config = method_of("distill"), biovfm_config(config)
    forward = Architecture.of(BioVFMConfig.from_pretrained(teacher)).forward_flops(32)
    objective = method.build(config, model_config)
    assert method.frozen_flops(config, objective) == forward
    student = Method.flops_per_image(method, config, model_config)
    assert image_flops(method, config, model_config, objective) == student + forward
    told = dict(re.findall(r"^# (held in memory|trained) +([\d.]+)M", describe(config, method), re.MULTILINE))
    parameters = sum(tensor.numel() for tensor in load_file(teacher / "model.safetensors").values())
    mask_token = 48
    assert float(told["held in memory"]) - float(told["trained"]) == pytest.approx(
        (parameters - mask_token) / 1e6, abs=0.011
    )


def test_a_dinov3_teacher_binds_its_student(tmp_path: Path) -> None:
    config = DINOv3ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_register_tokens=4
    )
    DINOv3ViTModel(config).save_pretrained(tmp_path)
    config, objective = objective_of(tmp_path, cls_loss="similarity", patch_loss="similarity")
    loss, _ = objective({"global_crops": torch.randn(2, 3, 32, 32)}, None)
    assert loss.isfinite() and DINOV3_LICENCE in lineages(config)["model"].provenance.licences


def test_the_student_takes_along_what_binds_the_teacher(teacher: Path, image_folder: Path, tmp_path: Path) -> None:
    marks = {"private_sources": ["ward"], "licences": []}
    (teacher / "provenance.json").write_text(json.dumps(marks))
    model = run(image_folder, tmp_path / "run", teacher)
    assert read_provenance(model) == read_provenance(teacher) and read_provenance(model).is_private
    assert read_origin(model) == Origin(teachers=("teacher",))


def test_a_teacher_that_is_missing_unreadable_or_of_other_channels_is_told(
    teacher: Path, image_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"distill\.teacher is missing; name a model folder, Hub id, weight file"):
        pretrain("distill_smoke", data=image_folder, out=tmp_path / "run", overrides=SMALL)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"distill\.teacher .*empty"):
        pretrain("distill_smoke", dry_run=True, overrides={"distill.teacher": str(tmp_path / "empty")})
    with pytest.raises(UserError, match=r"model\.num_channels is 1; images are read with 3"):
        pretrain("distill_smoke", dry_run=True, overrides={"distill.teacher": str(teacher), "model.num_channels": 1})
    with pytest.raises(UserError, match=r"batch\.size must be 2 or more"):
        load_config("distill_smoke", {"distill.cls_loss": "similarity", "batch.size": 1})
