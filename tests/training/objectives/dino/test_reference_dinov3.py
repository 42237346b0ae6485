"""Gram anchoring and DINOv3's step against its authors' numbers, in the files of BIOVFM_REFERENCE_DIR."""

import json
import os
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
from training.objectives.dino.config import DINOConfig, GramConfig
from training.objectives.dino.gram import gram_loss, resize_patches
from training.objectives.dino.losses import sinkhorn_knopp
from training.objectives.dino.objective import DINOObjective
from training.objectives.dino.schedule import DINOSchedule
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
    assert all(files(family) for family in ("gram_cases", "step", "dist_cases", "schedules"))


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


STEPS = [file for file in files("step") if read(file)[0]["config"]["dino"]["global_ignore_diagonal"]]


def backbone(tensors: dict[str, Tensor], made: dict[str, Any], arch: str) -> tuple[BioVFMModel, dict[str, Tensor]]:
    """The encoder, and its own tensors by our names."""
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
            num_hidden_layers=2,
            num_attention_heads=2,
            patch_size=made["patch_size"],
            image_size=32,
            ffn_type="swiglu" if gated else "mlp",
            mlp_ratio=(1.5 * hidden if gated else hidden) / width,
            num_register_tokens=0 if registers is None else registers.shape[1],
            mask_key_bias=made["mask_k_bias"],
            layer_norm_eps=1e-5 if made["norm_layer"] == "layernormbf16" else 1e-6,
            rope_dtype="bfloat16" if arch.endswith("bf") else "float32",
            rope_base=made["pos_embed_rope_base"] or 100.0,
            rope_min_period=made["pos_embed_rope_min_period"],
            rope_max_period=made["pos_embed_rope_max_period"],
            rope_normalize_coords=made["pos_embed_rope_normalize_coords"],
            untie_cls_and_patch_norms=made["untie_cls_and_patch_norms"],
            untie_global_and_local_cls_norm=made["untie_global_and_local_cls_norm"],
            use_mask_token=True,
        )
    )
    ours, unfilled, unread = rename_to_ours(model.state_dict(), theirs, DINOV3)
    assert not unfilled and not unread
    return model, ours


def heads(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their plain last layer as ours, which keeps length and direction apart."""
    ours = {}
    for name, tensor in tensors.items():
        if name.endswith("last_layer.weight"):
            ours[name.replace("weight", "weight_v")] = tensor
            ours[name.replace("weight", "weight_g")] = tensor.norm(dim=1, keepdim=True)
        elif not name.startswith("backbone."):
            ours[name] = tensor
    return ours


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def build(meta: dict[str, Any], tensors: dict[str, Tensor]) -> DINOObjective:
    made, dino, ibot, gram = (meta["config"][name] for name in ("student", "dino", "ibot", "gram"))
    model, _ = backbone(part(tensors, "student."), made, made["arch"])
    config = DINOConfig(
        centering="sinkhorn_knopp",
        prototypes=dino["head_n_prototypes"],
        hidden=dino["head_hidden_dim"],
        bottleneck=dino["head_bottleneck_dim"],
        ibot_separate_head=True,
        ibot_prototypes=ibot["head_n_prototypes"],
        ibot_hidden=ibot["head_hidden_dim"],
        ibot_bottleneck=ibot["head_bottleneck_dim"],
        koleo_weight=dino["koleo_loss_weight"],
        local_weight=float(tensors["loss.dino_local_loss_weight"]),
    )
    objective = DINOObjective(model, config)
    for role in ("student", "teacher"):
        theirs = part(tensors, f"{role}.")
        _, ours = backbone(theirs, made, made["arch"])
        state = {**{f"backbone.{name}": tensor for name, tensor in ours.items()}, **heads(theirs)}
        getattr(objective, role).load_state_dict(state)
    theirs = part(tensors, "gram_teacher.")
    anchor, ours = backbone(theirs, made, made["arch"])
    anchor.load_state_dict(ours)
    form = (
        "remove_only_teacher_neg"
        if gram["remove_only_teacher_neg"]
        else "remove_neg"
        if gram["remove_neg"]
        else "none"
    )
    settings = GramConfig(
        weight=1.0,
        tokens=gram["tokens_used"],
        normalize=gram["normalized"],
        per_image=gram["img_level"],
        negatives=NEGATIVES[form],
        resize=gram["global_teacher_resize_method"],
        antialias=gram["global_teacher_resize_antialias"],
    )
    objective.anchor(anchor, settings)
    return objective.train()


def assert_close_to_scale(ours: Tensor, theirs: Tensor, name: str) -> None:
    """Within 1e-4 of the tensor's largest gradient."""
    scale = 1e-4 * float(theirs.abs().max()) + 1e-7
    assert_close(ours, theirs, rtol=1e-4, atol=scale, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("file", STEPS, ids=lambda file: file.stem)
def test_losses_and_gradients_of_a_step(file: Path) -> None:
    meta, tensors = read(file)
    objective = build(meta, tensors)
    names = {"global_crops": "global_crops", "local_crops": "local_crops", "anchor_crops": "gram_teacher_crops"}
    batch: dict[str, Any] = {ours: tensors[f"data.collated_{theirs}"] for ours, theirs in names.items()}
    batch["masks"] = tensors["data.collated_masks"].bool()
    weight = float(tensors["loss.gram_loss_weight"])
    values = StepValues(1e-3, 1e-3, 0.04, teacher_temp=meta["teacher_temp"], gram_weight=weight)
    total, report = objective(batch, values)
    total.backward()
    pairs = 2 * (1 + meta["config"]["crops"]["local_crops_number"])
    assert_close(report["dino_global_crops_loss"] * pairs / 2, tensors["loss.dino_global_crops_loss"], **CLOSE)
    assert_close(report["dino_local_crops_loss"] * pairs / (pairs - 2), tensors["loss.dino_local_crops_loss"], **CLOSE)
    assert_close(2 * report["ibot_loss"], tensors["loss.ibot_loss"], **CLOSE)
    assert_close(
        report["koleo_loss"] / meta["config"]["dino"]["koleo_loss_weight"], tensors["loss.koleo_loss"], **CLOSE
    )
    assert_close(report["gram_loss"], tensors["loss.gram_loss"], **CLOSE)
    assert_close(total.detach(), tensors["loss.total"], **CLOSE)
    theirs = part(tensors, "grad.")
    theirs = part(theirs, "student.") or theirs
    _, wanted = backbone(theirs, meta["config"]["student"], meta["config"]["student"]["arch"])
    compared = 0
    for name, parameter in objective.student.named_parameters():
        gradient = wanted.get(name.removeprefix("backbone."), theirs.get(name))
        if gradient is None:  # the last layers, below
            continue
        compared += 1
        assert_close_to_scale(parameter.grad, gradient.view_as(parameter), name)
    for head in ("dino_head", "ibot_head"):
        layer = getattr(objective.student, head).last_layer
        along = layer.weight_g.grad * torch.nn.functional.normalize(layer.weight_v.detach())
        gradient = theirs[f"{head}.last_layer.weight"]
        assert_close_to_scale(layer.weight_v.grad + along, gradient, head)
        compared += 1
    assert compared >= len(theirs), "every gradient of the file"


@pytest.mark.parametrize("file", files("dist_cases"), ids=lambda file: file.stem)
def test_sinkhorn_knopp_of_the_joint_batch(file: Path) -> None:
    _, tensors = read(file)
    for name in ("cls", "patch"):
        assert_close(sinkhorn_knopp(tensors[f"sk.{name}_logits"], 0.06), tensors[f"sk.{name}"], **CLOSE)


def anchored_recipes() -> list[dict[str, Any]]:
    recipes = [recipe for file in files("schedules") for recipe in json.loads(file.read_text())["recipes"].values()]
    return [recipe for recipe in recipes if recipe.get("gram_teacher_refresh_after_iteration")]


def test_gram_weight_and_refresh_follow_the_published_stage() -> None:
    (recipe,) = anchored_recipes()
    schedule = DINOSchedule(
        steps=recipe["total_iterations"], gram_weight=2.0, gram_start=1_000_000, gram_ramp_steps=1000,
        gram_refresh_every=10_000,
    )  # fmt: skip
    values = schedule.arrays(np.array(recipe["steps"]))
    np.testing.assert_allclose(values["gram_weight"], recipe["gram_weight"], atol=1e-9)
    steps = np.arange(recipe["total_iterations"])
    refreshed = np.flatnonzero(schedule.arrays(steps)["gram_refresh"]).tolist()
    assert refreshed == recipe["gram_teacher_refresh_after_iteration"]


def test_constant_recipes_of_dinov2s_scheduler() -> None:
    recipes = [recipe for file in files("schedules") for recipe in json.loads(file.read_text())["recipes"].values()]
    recipes = [recipe for recipe in recipes if recipe["scheduler"].startswith("v1")]
    assert recipes
    for recipe in recipes:
        peak = max(recipe["lr"])
        epoch, steps = recipe["epoch_length"], np.array(recipe["steps"])
        schedule = DINOSchedule(steps=recipe["total_iterations"], lr=0.001 * 4 * 2**0.5, freeze_last_layer_steps=epoch)
        assert peak == pytest.approx(schedule.lr)
        for name, values in schedule.arrays(steps).items():
            if name in recipe:
                np.testing.assert_allclose(values, recipe[name], rtol=1e-6, atol=1e-9, err_msg=name)
