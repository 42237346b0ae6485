"""One training problem per file, solved by the original DINOv2: our losses, gradients and updates must be its own."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from biovfm_hf import BioVFMConfig, BioVFMModel
from training.objectives.dino.config import DINOConfig
from training.objectives.dino.objective import DINOObjective
from training.objectives.dino.parameters import dino_parameter_groups
from training.optimizer import adamw, apply_schedule, clip_per_submodule
from training.schedule import StepValues

FOLDER = Path(os.environ.get("BIOVFM_REFERENCE_DIR", Path(__file__).parents[3] / "reference"))
RENAMED = (
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("pos_embed", "embeddings.position_embeddings"),
    ("cls_token", "embeddings.cls_token"),
    ("mask_token", "embeddings.mask_token"),
    ("register_tokens", "embeddings.register_tokens"),
    (".attn.", ".attention."),
    (".ls1.", ".layer_scale1."),
    (".ls2.", ".layer_scale2."),
    ("blocks.", "layers."),
)


@pytest.fixture(scope="module", params=sorted(FOLDER.glob("dinov2_*.safetensors")), ids=lambda path: path.stem)
def problem(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Tensors by name, and the JSON metadata `config`, `schedule`, `steps`."""
    with safe_open(request.param, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = {name: json.loads(text) for name, text in file.metadata().items() if text[:1] in "{["}
    return {"tensors": tensors, **metadata}


@pytest.fixture(scope="module")
def solved(problem: dict[str, Any]) -> dict[str, Any]:
    """Two of our training steps on the problem: reports, totals, norms, first gradients and the final objective."""
    objective = build(problem)
    schedule = problem["schedule"]
    optimizer = adamw(
        dino_parameter_groups(objective.student, schedule["layerwise_decay"], schedule["patch_embed_lr_mult"]),
        betas=tuple(schedule["betas"]),
    )
    batch = {name: problem["tensors"].get(f"input.{name}") for name in ("global_crops", "local_crops", "masks")}
    solved: dict[str, Any] = {"objective": objective, "steps": []}
    for values in step_values(schedule):
        apply_schedule(optimizer, values)
        optimizer.zero_grad()
        loss, terms = objective(batch, values)
        loss.backward()
        if not solved["steps"]:
            solved["grad"] = {name: p.grad.clone() for name, p in objective.student.named_parameters()}
        norms = clip_per_submodule(objective.student, schedule["clip_grad"])
        optimizer.step()
        objective.update_teacher(values.momentum)
        solved["steps"].append({"total": loss.detach(), "grad_norm": norms, **terms})
    return solved


def build(problem: dict[str, Any]) -> DINOObjective:
    """Our objective with the sizes of the problem and its state before the first step."""
    sizes, schedule, tensors = problem["config"], problem["schedule"], problem["tensors"]
    backbone = BioVFMModel(
        BioVFMConfig(
            image_size=sizes["global_size"],
            patch_size=sizes["patch"],
            hidden_size=sizes["dim"],
            num_hidden_layers=sizes["depth"],
            num_attention_heads=sizes["heads"],
            ffn_type="swiglu" if "swiglu" in sizes["ffn"] else "mlp",
            layerscale_value=sizes["init_values"],
            num_register_tokens=sizes["registers"],
            use_mask_token=True,
            interpolate_offset=0.1,
        )
    )
    config = DINOConfig(
        centering=sizes["centering"],
        prototypes=sizes["prototypes"],
        bottleneck=sizes["bottleneck"],
        hidden=sizes["hidden"],
        layers=sum(name.startswith("student.dino_head.mlp") and "weight" in name for name in tensors),
        dino_weight=schedule["dino_weight"],
        ibot_separate_head=sizes["ibot_separate_head"],
        ibot_prototypes=sizes.get("ibot_prototypes", sizes["prototypes"]),
        ibot_bottleneck=tensors.get("student.ibot_head.mlp.4.weight", torch.empty(sizes["bottleneck"])).shape[0],
        ibot_hidden=tensors.get("student.ibot_head.mlp.0.weight", torch.empty(sizes["hidden"])).shape[0],
        ibot_weight=schedule["ibot_weight"],
        koleo_weight=schedule["koleo_weight"],
    )
    objective = DINOObjective(backbone, config).train()
    for role in ("student", "teacher"):
        getattr(objective, role).load_state_dict(state(tensors, f"{role}."))
    return objective


def state(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, by our names."""
    return {ours(name.removeprefix(prefix)): value for name, value in tensors.items() if name.startswith(prefix)}


def ours(name: str) -> str:
    for old, new in RENAMED if name.startswith("backbone.") else ():
        name = name.replace(old, new)
    return name


def step_values(schedule: dict[str, Any]) -> Iterator[StepValues]:
    names = ("lr", "last_layer_lr", "weight_decay", "momentum", "teacher_temp")
    for values in zip(*(schedule[name] for name in names), strict=True):
        yield StepValues(**dict(zip(names, values, strict=True)))


def test_reference_folder_has_problems() -> None:
    assert list(FOLDER.glob("dinov2_*.safetensors")), f"no dinov2_*.safetensors in {FOLDER}"


def test_losses_equal_dinov2(problem: dict[str, Any], solved: dict[str, Any]) -> None:
    for ours_, theirs in zip(solved["steps"], problem["steps"], strict=True):
        for name in theirs.keys() - {"grad_norm"}:
            assert ours_[name].item() == pytest.approx(theirs[name], rel=1e-5), name


def test_gradient_norms_equal_dinov2(problem: dict[str, Any], solved: dict[str, Any]) -> None:
    for ours_, theirs in zip(solved["steps"], problem["steps"], strict=True):
        assert {name: norm.item() for name, norm in ours_["grad_norm"].items()} == pytest.approx(
            theirs["grad_norm"], rel=1e-4
        )


def test_gradients_equal_dinov2(problem: dict[str, Any], solved: dict[str, Any]) -> None:
    theirs = state(problem["tensors"], "grad.")
    assert theirs.keys() == solved["grad"].keys()
    for name, gradient in theirs.items():
        assert (solved["grad"][name] - gradient).norm() <= 1e-4 * gradient.norm(), name


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_states_after_two_steps_equal_dinov2(problem: dict[str, Any], solved: dict[str, Any], role: str) -> None:
    ours_ = getattr(solved["objective"], role).state_dict()
    theirs = state(problem["tensors"], f"{role}_after.")
    assert theirs.keys() == ours_.keys()
    for name, value in theirs.items():
        assert (ours_[name] - value).abs().max() <= 1e-4, name
