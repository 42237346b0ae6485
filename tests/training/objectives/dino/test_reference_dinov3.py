"""Gram anchoring and DINOv3's step against its authors' numbers, in the files of BIOVFM_REFERENCE_DIR."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.testing import assert_close

from biovfm_hf import BioVFMConfig, BioVFMModel
from biovfm_hf.conversion.names import DINOV3, rename_to_ours
from training.objectives.dino import losses
from training.objectives.dino.config import DINOConfig, GramConfig
from training.objectives.dino.gram import gram_loss, resize_patches
from training.objectives.dino.losses import koleo_loss, sinkhorn_knopp
from training.objectives.dino.objective import DINONetwork, DINOObjective
from training.objectives.dino.parameters import dino_parameter_groups
from training.objectives.dino.schedule import DINOSchedule
from training.optimizer import adamw, apply_schedule, clip_per_submodule
from training.schedule import StepValues

FOLDER = Path(os.environ.get("BIOVFM_REFERENCE_DIR") or Path(__file__).parents[3] / "reference")
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
NEGATIVES = {"none": "keep", "remove_neg": "both", "remove_only_teacher_neg": "teacher"}


def files(family: str) -> list[Path]:
    return sorted(FOLDER.glob(f"dinov3_{family}*"))


def read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(file, "pt") as stored:
        return json.loads(stored.metadata()["json"]), {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118


def test_there_are_reference_files() -> None:
    assert all(files(family) for family in ("gram_cases", "step", "distill", "dist_cases", "schedules"))


@pytest.mark.parametrize("file", files("gram_cases"), ids=lambda file: file.stem)
def test_gram_loss_and_gradient(file: Path) -> None:
    meta, tensors = read(file)
    for name, case in meta["cases"].items():
        config = GramConfig(
            normalize=case["apply_norm"], per_image=case["img_level"], negatives=NEGATIVES[case["negatives"]]
        )
        student = tensors["student"].clone().requires_grad_()
        loss = gram_loss(student, tensors["teacher"], config)
        loss.backward()
        assert_close(loss, tensors[f"{name}.loss"], **CLOSE, msg=lambda text, at=name: f"{at}: {text}")
        assert_close(student.grad, tensors[f"{name}.grad"], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("file", files("gram_cases"), ids=lambda file: file.stem)
def test_the_gram_teachers_patches_are_resized(file: Path) -> None:
    _, tensors = read(file)
    names = [name for name in tensors if name.startswith("resize.") and name != "resize.teacher_6x6"]
    assert names
    for name in names:
        mode, antialias, size = name.removeprefix("resize.").split("_")
        to = tuple(int(side) for side in size.split("x"))
        config = GramConfig(resize=mode, antialias=antialias == "aa1")
        assert_close(resize_patches(tensors["resize.teacher_6x6"], (6, 6), to, config), tensors[name], **CLOSE)


def head_counts(meta: dict[str, Any]) -> dict[int, int]:
    """Width of an encoder -> its attention heads, as the file's note on its architectures tells them."""
    pattern = r"embed(?:_dim=| )(\d+), depth[= ]\d+, (?:num_)?heads[= ](\d+)"
    return {int(width): int(heads) for width, heads in re.findall(pattern, meta["arch"])}


def backbone(tensors: dict[str, Tensor], made: dict[str, Any], heads: dict[int, int]) -> BioVFMModel:
    """The encoder, filled."""
    theirs = {k.removeprefix("backbone."): v for k, v in tensors.items() if k.startswith("backbone.")}
    gated = "blocks.0.mlp.w1.weight" in theirs
    hidden, width = (
        len(theirs[f"blocks.0.mlp.{name}.weight"]) for name in ("w1" if gated else "fc1", "w3" if gated else "fc2")
    )
    registers = theirs.get("storage_tokens")
    model = BioVFMModel(
        BioVFMConfig.from_size(
            "vit-tiny",
            family="dinov3",
            hidden_size=width,
            num_hidden_layers=sum(name.endswith("norm1.weight") for name in theirs),
            num_attention_heads=heads[width],
            patch_size=made["patch_size"],
            image_size=4 * made["patch_size"],
            ffn_type="swiglu" if gated else "mlp",
            mlp_ratio=(1.5 * hidden if gated else hidden) / width,
            qkv_bias="blocks.0.attn.qkv.bias" in theirs,
            num_register_tokens=0 if registers is None else registers.shape[1],
            mask_key_bias=made["mask_k_bias"],
            layer_norm_eps=1e-5 if made["norm_layer"] == "layernormbf16" else 1e-6,
            rope_dtype="bfloat16" if made["arch"].endswith("bf") else "float32",
            rope_base=made.get("pos_embed_rope_base", 100.0) or 100.0,
            rope_min_period=made.get("pos_embed_rope_min_period"),
            rope_max_period=made.get("pos_embed_rope_max_period"),
            rope_normalize_coords=made.get("pos_embed_rope_normalize_coords", "separate"),
            untie_cls_and_patch_norms="cls_norm.weight" in theirs,
            untie_global_and_local_cls_norm="local_cls_norm.weight" in theirs,
            use_mask_token=True,
        )
    )
    model.load_state_dict(by_our_names(model, theirs))
    return model


def by_our_names(model: BioVFMModel, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    ours, unfilled, unread = rename_to_ours(model.state_dict(), theirs, DINOV3)
    assert not unfilled and not unread
    return ours


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def network_state(network: DINONetwork, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their encoder and heads by our names, in our shapes."""
    encoder = by_our_names(network.backbone, part(theirs, "backbone."))
    heads = {name: tensor for name, tensor in theirs.items() if not name.startswith("backbone.")}
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    return {name: tensor.view(shapes[name]) for name, tensor in (prefixed(encoder, "backbone.") | heads).items()}


def prefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def dino_config(dino: dict[str, Any], ibot: dict[str, Any], **more: Any) -> DINOConfig:
    return DINOConfig(
        centering="sinkhorn_knopp",
        weight_norm=False,
        prototypes=dino["head_n_prototypes"],
        hidden=dino["head_hidden_dim"],
        bottleneck=dino["head_bottleneck_dim"],
        layers=dino.get("head_nlayers", 3),
        ibot_separate_head=True,
        ibot_prototypes=ibot["head_n_prototypes"],
        ibot_hidden=ibot["head_hidden_dim"],
        ibot_bottleneck=ibot["head_bottleneck_dim"],
        ibot_layers=ibot.get("head_nlayers", 3),
        **more,
    )


def build(meta: dict[str, Any], tensors: dict[str, Tensor]) -> DINOObjective:
    made, dino, ibot = (meta["config"][name] for name in ("student", "dino", "ibot"))
    counts = head_counts(meta)
    config = dino_config(
        dino, ibot,
        dino_weight=dino["loss_weight"],
        ibot_weight=ibot["loss_weight"],
        koleo_weight=dino["koleo_loss_weight"],
        koleo_neighbours=dino["koleo_topk"] if dino["koleo_loss_distributed"] else 1,
        koleo_group=dino["koleo_distributed_loss_group_size"] or 0 if dino["koleo_loss_distributed"] else 0,
        same_crop_pairs=not dino["global_ignore_diagonal"],
    )  # fmt: skip
    frozen = None
    if "teacher_config" in meta:
        theirs = part(tensors, "teacher.")
        encoder = backbone(theirs, {**made, **meta["teacher_config"]["student"]}, counts)
        frozen = DINONetwork(encoder, dino_config(meta["teacher_config"]["dino"], meta["teacher_config"]["ibot"]))
        frozen.load_state_dict(network_state(frozen, theirs))
    objective = DINOObjective(backbone(part(tensors, "student."), made, counts), config, frozen)
    objective.student.load_state_dict(network_state(objective.student, part(tensors, "student.")))
    average = part(tensors, "ema." if frozen else "teacher.")
    objective.average.load_state_dict(network_state(objective.average, average))
    if meta["config"].get("gram", {}).get("use_loss"):
        objective.anchor(backbone(part(tensors, "gram_teacher."), made, counts), gram_config(meta["config"]["gram"]))
    return objective.train()


def gram_config(gram: dict[str, Any]) -> GramConfig:
    forms = [form for form in NEGATIVES if gram.get(form)]
    return GramConfig(
        weight=1.0,
        tokens=gram["tokens_used"],
        normalize=gram["normalized"],
        per_image=gram["img_level"],
        negatives=NEGATIVES[forms[-1] if forms else "none"],
        resize=gram["global_teacher_resize_method"],
        antialias=gram["global_teacher_resize_antialias"],
    )


def assert_close_to_scale(ours: Tensor, theirs: Tensor, name: str) -> None:
    """Within 1e-4 of the tensor's largest gradient."""
    scale = 1e-4 * float(theirs.abs().max()) + 1e-7
    assert_close(ours, theirs, rtol=1e-4, atol=scale, msg=lambda text: f"{name}: {text}")


@dataclass
class Solved:
    """A file's step as we compute it: its loss, terms and gradients, and the objective after it."""

    meta: dict[str, Any]
    tensors: dict[str, Tensor]
    objective: DINOObjective
    total: Tensor
    report: dict[str, Tensor]
    gradients: dict[str, Tensor]
    norms: dict[str, Tensor]


@pytest.fixture(scope="module", params=[*files("step"), *files("distill")], ids=lambda file: file.stem)
def solved(request: pytest.FixtureRequest) -> Solved:
    meta, tensors = read(request.param)
    objective = build(meta, tensors)
    names = {"global_crops": "global_crops", "local_crops": "local_crops", "anchor_crops": "gram_teacher_crops"}
    stored = {ours: f"data.collated_{theirs}" for ours, theirs in names.items()}
    batch: dict[str, Any] = {ours: tensors[theirs] for ours, theirs in stored.items() if theirs in tensors}
    batch["masks"] = tensors["data.collated_masks"].bool()
    temperature = meta.get("teacher_temp", meta.get("variant", {}).get("temp"))
    weights = {key: tensors.get(f"loss.{key}") for key in ("gram_loss_weight", "dino_local_loss_weight")}
    gram, local = (None if value is None else float(value) for value in weights.values())
    rates = meta["adamw"]
    values = StepValues(
        rates["lr"], rates["last_layer_lr"], rates["weight_decay"], meta["momentum"], temperature, local, gram
    )
    optim = meta["config"]["optim"]
    groups = dino_parameter_groups(objective.student, optim["layerwise_decay"], optim["patch_embed_lr_mult"])
    optimizer = adamw(groups, (optim["adamw_beta1"], optim["adamw_beta2"]))
    apply_schedule(optimizer, values)
    total, report = objective(batch, values)
    total.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in objective.student.named_parameters()}
    norms = clip_per_submodule(objective.student, meta["clip_grad"])
    optimizer.step()
    objective.update_teacher(meta["momentum"])
    return Solved(meta, tensors, objective, total.detach(), report, gradients, norms)


def test_losses_of_a_step(solved: Solved) -> None:
    config, report, theirs = solved.meta["config"], solved.report, part(solved.tensors, "loss.")
    pairs = (2 if config["dino"]["global_ignore_diagonal"] else 4) + 2 * config["crops"]["local_crops_number"]
    own = pairs - 2 * config["crops"]["local_crops_number"]
    assert_close(report["dino_global_crops_loss"] * pairs / own, theirs["dino_global_crops_loss"], **CLOSE)
    assert_close(report["dino_local_crops_loss"] * pairs / (pairs - own), theirs["dino_local_crops_loss"], **CLOSE)
    assert_close(2 * report["ibot_loss"], theirs["ibot_loss"], **CLOSE)
    assert_close(report["koleo_loss"] / config["dino"]["koleo_loss_weight"], theirs["koleo_loss"], **CLOSE)
    if "gram_loss" in theirs:
        assert_close(report["gram_loss"], theirs["gram_loss"], **CLOSE)
    assert_close(solved.total, theirs["total"], **CLOSE)


def test_gradients_of_a_step(solved: Solved) -> None:
    theirs = part(solved.tensors, "grad.")
    gradients = network_state(solved.objective.student, part(theirs, "student.") or theirs)
    assert gradients.keys() == solved.gradients.keys()
    for name, gradient in gradients.items():
        assert_close_to_scale(solved.gradients[name], gradient, name)
    norms = {name: float(norm) for name, norm in solved.norms.items()}
    assert norms == pytest.approx(solved.meta["grad_norms_before_clip"], rel=1e-4)


def test_student_and_average_after_a_step(solved: Solved) -> None:
    """AdamW's first step is the gradient's sign, so tensors are compared where that is certain."""
    objective, tensors = solved.objective, solved.tensors
    student, average = (
        network_state(objective.student, part(tensors, f"{role}_after.")) for role in ("student", "ema")
    )
    compared = 0
    for name, value in student.items():
        certain = solved.gradients[name].abs() > 1e-5
        compared += int(certain.sum())
        assert_close(objective.student.state_dict()[name][certain], value[certain], atol=1e-5, rtol=1e-5)
        assert_close(objective.average.state_dict()[name][certain], average[name][certain], atol=1e-5, rtol=1e-5)
    assert compared > 0.5 * sum(value.numel() for value in student.values())


@pytest.mark.parametrize("file", files("dist_cases"), ids=lambda file: file.stem)
def test_koleo_among_the_images_of_several_processes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process in turn; that rows are gathered with their gradients is seen in `test_processes.py`."""
    meta, tensors = read(file)
    processes = meta["world_size"]
    names = sorted(name.removesuffix(".loss") for name in tensors if name.startswith("koleo.") and ".loss" in name)
    assert names
    for name in names:
        neighbours, group = (int(number) for number in re.findall(r"\d+", name))
        rows = tensors["koleo.x"].clone().requires_grad_()
        unit = torch.nn.functional.normalize(rows, dim=-1, eps=1e-8)
        monkeypatch.setattr(losses, "gather_rows", lambda _, every=unit: every)
        results = []
        for rank in range(processes):
            monkeypatch.setattr(losses.dist, "get_rank", lambda rank=rank: rank)
            results.append(koleo_loss(rows.chunk(processes)[rank], neighbours, group))
        assert_close(torch.stack(results).detach(), tensors[f"{name}.loss"], **CLOSE)
        torch.stack(results).sum().backward()
        assert_close(
            rows.grad, tensors[f"{name}.grad"], atol=1e-5, rtol=1e-4, msg=lambda text, at=name: f"{at}: {text}"
        )


@pytest.mark.parametrize("file", files("dist_cases"), ids=lambda file: file.stem)
def test_sinkhorn_knopp_of_the_joint_batch(file: Path) -> None:
    _, tensors = read(file)
    for name in ("cls", "patch"):
        assert_close(sinkhorn_knopp(tensors[f"sk.{name}_logits"], 0.06), tensors[f"sk.{name}"], **CLOSE)


def rule(recipe: dict[str, Any]) -> float:
    """What DINOv3's configs multiply their learning rates by: 4 * sqrt(batch / 1024)."""
    return 4 * (recipe["global_batch"] / 1024) ** 0.5


CONSTANT = {"weight_decay_end": 0.04, "decay": "none"}  # of the 7B's stages


def schedule_of(name: str, recipe: dict[str, Any]) -> DINOSchedule:
    """The shipped recipes of facebookresearch/dinov3 as our settings have them.

    Their linear rises reach the peak a step after ours of as many steps, so ours take one more.
    """
    epoch, scale, steps = recipe["epoch_length"], rule(recipe), recipe["total_iterations"]
    settings: dict[str, dict[str, Any]] = {
        "vitl_im1k_lin834": {"lr": 0.001 * scale, "freeze_last_layer_steps": epoch},
        "vit7b16_pretrain": {
            "lr": 5e-5 * scale, "warmup_steps": 100 * epoch + 1, "momentum": 0.994, "momentum_end": 0.994,
            "teacher_temp_warmup_steps": 100 * epoch + 1, "freeze_last_layer_steps": 5 * epoch, **CONSTANT,
        },
        "vit7b16_gram_anchor": {
            "lr": 3e-5 * scale, "warmup_steps": 100 * epoch + 1, "momentum": 0.999, "momentum_end": 0.999,
            "teacher_temp_warmup_steps": 100 * epoch + 1, "freeze_last_layer_steps": 5 * epoch, "local_weight": 0.5,
            "gram_weight": 2.0, "gram_start": 1000 * epoch, "gram_ramp_steps": epoch, "gram_refresh_every": 10 * epoch,
            **CONSTANT,
        },
        "vit7b16_high_res_adapt": {
            "lr": 1.25e-5 * scale, "warmup_steps": 10 * epoch, "warmup": "cosine", "momentum": 0.999,
            "momentum_end": 0.999, "teacher_temp_warmup_steps": 0, "freeze_last_layer_steps": 0, "local_weight": 0.5,
            "gram_weight": 1.5, **CONSTANT,
        },
        "vitl16_lvd1689m_distilled": {
            "lr": 5e-5 * scale, "warmup_steps": recipe["total_iterations"] // 2, "warmup": "cosine",
            "momentum": 0.994, "teacher_temp_warmup_steps": 0, "freeze_last_layer_steps": 0, **CONSTANT,
        },
    }  # fmt: skip
    return DINOSchedule(**{"steps": steps, "min_lr": 1e-6, **settings[name]})


RECIPES = {
    f"{file.stem}: {name}": (name, recipe)
    for file in files("schedules")
    for name, recipe in json.loads(file.read_text())["recipes"].items()
}


@pytest.mark.parametrize("key", RECIPES)
def test_schedules_follow_the_published_recipes(key: str) -> None:
    name, recipe = RECIPES[key]
    schedule = schedule_of(name, recipe)
    values = schedule.arrays(np.array(recipe["steps"]))
    names = {"dino_local_weight": "local_weight"}
    always = ("lr", "weight_decay", "momentum", "teacher_temp", "last_layer_lr")
    for curve in (*always, *(name for name in ("gram_weight", "dino_local_weight") if recipe[name])):
        ours = values[names.get(curve, curve)]
        np.testing.assert_allclose(ours, recipe[curve], rtol=1e-6, atol=1e-12, err_msg=curve)
    refreshed = np.flatnonzero(schedule.arrays(np.arange(recipe["total_iterations"])).get("gram_refresh", 0)).tolist()
    assert refreshed == (recipe.get("gram_teacher_refresh_after_iteration") or [])
