"""Two gloo processes with half a batch each do what one process does with the joint batch.

Run as a script, this file is one of the two processes: `test_processes.py RANK FOLDER`.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from biovfm_hf import BioVFMConfig, BioVFMModel
from tests.preloaded import python
from training.objectives.dino.config import DINOConfig, GramConfig
from training.objectives.dino.losses import koleo_loss, sinkhorn_knopp, update_center
from training.objectives.dino.objective import DINOObjective
from training.objectives.dino.parameters import dino_parameter_groups
from training.objectives.distill.config import DistillConfig
from training.objectives.distill.objective import DistillObjective, Student
from training.objectives.distill.teacher import Teacher, cls_and_map
from training.optimizer import adamw, apply_schedule, clip_per_submodule
from training.schedule import StepValues

IMAGES, LOCAL_CROPS = 4, 3
STEPS = [StepValues(lr=1e-3, last_layer_lr=1e-3, weight_decay=0.1, momentum=0.9, teacher_temp=0.06)] * 2


def joint_batch(masked_images: tuple[int, ...]) -> dict[str, Tensor]:
    """The batch of 4 images; the crops in `masked_images` (of 8) hide 3 + index of their 16 patches."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(2 * IMAGES, 16, dtype=torch.bool)
    for index in masked_images:
        masks[index, : 3 + index] = True
    return {
        "global_crops": torch.randn(2 * IMAGES, 3, 32, 32, generator=generator),
        "local_crops": torch.randn(LOCAL_CROPS * IMAGES, 3, 16, 16, generator=generator),
        "masks": masks,
    }


def half(batch: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The images 2 * rank and 2 * rank + 1 of a batch, in the order of a batch."""
    return {
        name: value.unflatten(0, (-1, IMAGES))[:, 2 * rank : 2 * rank + 2].flatten(0, 1)
        for name, value in batch.items()
    }


def build(centering: str) -> DINOObjective:
    torch.manual_seed(0)
    config = BioVFMConfig(
        image_size=32,
        patch_size=8,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        use_mask_token=True,
        layerscale_value=1.0,
    )
    heads = DINOConfig(
        prototypes=32,
        hidden=16,
        bottleneck=8,
        centering=centering,
        koleo_weight=0.0,  # KoLeo stays within a process
    )
    return DINOObjective(BioVFMModel(config), heads).train()


def train(
    wrapped: nn.Module, objective: DINOObjective, batch: dict[str, Tensor], steps: list[StepValues] = STEPS
) -> dict[str, Any]:
    """Its steps: gradients of the first, losses, and the state after all."""
    optimizer = adamw(dino_parameter_groups(objective.student, 0.9, 0.2))
    result: dict[str, Any] = {"loss": []}
    for values in steps:
        apply_schedule(optimizer, values)
        optimizer.zero_grad()
        loss, _ = wrapped(batch, values)
        loss.backward()
        if "gradients" not in result:
            result["gradients"] = {name: p.grad.clone() for name, p in objective.student.named_parameters()}
        clip_per_submodule(objective.student, 3.0)
        optimizer.step()
        objective.update_teacher(0.9)
        result["loss"].append(loss.detach())
    result["state"] = {name: value.clone() for name, value in objective.state_dict().items()}
    return result


def scores() -> Tensor:
    return torch.randn(10, 7, generator=torch.Generator().manual_seed(3))


CASES = {
    "centering": ("centering", (0, 3, 5)),
    "sinkhorn-knopp": ("sinkhorn_knopp", (0, 3, 5)),
    "centering, one rank without masks": ("centering", (0, 1, 4)),
    "sinkhorn-knopp, one rank without masks": ("sinkhorn_knopp", (2, 3)),
}


GRAM = [StepValues(1e-3, 1e-3, 0.1, momentum=0.9, teacher_temp=0.06, local_weight=0.5, gram_weight=2.0)]


def anchored() -> DINOObjective:
    """A step of the Gram and high-resolution stages: another encoder's similarities, on larger crops."""
    objective = build("sinkhorn_knopp")
    torch.manual_seed(1)
    anchor = BioVFMModel(objective.teacher.backbone.config)
    objective.anchor(anchor, GramConfig(weight=2.0))
    return objective.train()


def anchored_batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    crops = torch.randn(2 * IMAGES, 3, 48, 48, generator=generator)
    return {**joint_batch((0, 3, 5)), "anchor_crops": crops}


def distilled() -> DistillObjective:
    torch.manual_seed(0)
    config = BioVFMConfig.from_dict({**build("centering").student.backbone.config.to_dict(), "use_mask_token": False})
    student = Student(BioVFMModel(config), 24, 24, patches=True)
    teacher = Teacher(BioVFMModel(config), cls_and_map, 8, None, torch.tensor([[1.0, 0.0]] * 3))
    return DistillObjective({"model": student}, teacher, DistillConfig()).train()


def distil(wrapped: nn.Module, objective: DistillObjective, batch: dict[str, Tensor]) -> dict[str, Any]:
    loss, _ = wrapped(batch, STEPS[0])
    loss.backward()
    named = objective.students.named_parameters()
    return {"loss": loss.detach(), "gradients": {name: one.grad.clone() for name, one in named}}


def features() -> Tensor:
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(4))


def koleo(rows: Tensor, group: int) -> tuple[Tensor, Tensor]:
    rows = rows.clone().requires_grad_()
    loss = koleo_loss(rows, 2, group)
    loss.backward()
    return loss.detach(), rows.grad


def worker(rank: int, folder: Path) -> None:
    """Everything that is compared, in one of the two processes; written to FOLDER/RANK.pt."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mine = scores()[:7] if rank == 0 else scores()[7:]
    center = torch.zeros(1, 7)
    update_center(center, mine)
    result: dict[str, Any] = {
        "sinkhorn": sinkhorn_knopp(mine, 0.05),
        "sinkhorn_empty": sinkhorn_knopp(scores() if rank == 0 else scores()[:0], 0.05),
        "center": center,
    }
    result["koleo"] = koleo(features().chunk(2)[rank], 8)
    objective = anchored()
    result["anchored"] = train(DistributedDataParallel(objective), objective, half(anchored_batch(), rank), GRAM)
    student = distilled()
    crops = {"global_crops": joint_batch(())["global_crops"].chunk(2)[rank]}
    result["distilled"] = distil(DistributedDataParallel(student), student, crops)
    for name, (centering, masked) in CASES.items():
        objective = build(centering)
        wrapped = DistributedDataParallel(objective)
        result[name] = train(wrapped, objective, half(joint_batch(masked), rank))
    torch.save(result, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes computed."""
    folder = tmp_path_factory.mktemp("two")
    root = Path(__file__).parents[4]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [python(), __file__]
    processes = [subprocess.Popen([*command, str(rank), str(folder)], env=environment) for rank in range(2)]
    try:
        assert [process.wait(timeout=280) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_sinkhorn_knopp_is_that_of_the_joint_batch(ranks: list[dict[str, Any]]) -> None:
    torch.testing.assert_close(torch.cat([rank["sinkhorn"] for rank in ranks]), sinkhorn_knopp(scores(), 0.05))
    torch.testing.assert_close(ranks[0]["sinkhorn_empty"], sinkhorn_knopp(scores(), 0.05))
    assert ranks[1]["sinkhorn_empty"].shape == (0, 7)


def test_centre_is_that_of_the_joint_batch(ranks: list[dict[str, Any]]) -> None:
    center = torch.zeros(1, 7)
    update_center(center, scores())
    for rank in ranks:
        torch.testing.assert_close(rank["center"], center)


@pytest.mark.parametrize("case", CASES)
def test_two_steps_are_those_of_the_joint_batch(ranks: list[dict[str, Any]], case: str) -> None:
    centering, masked = CASES[case]
    objective = build(centering)
    alone = train(objective, objective, joint_batch(masked))
    losses = [torch.stack(rank[case]["loss"]) for rank in ranks]
    torch.testing.assert_close(torch.stack(losses).mean(0), torch.stack(alone["loss"]), rtol=1e-5, atol=0)
    for name, gradient in alone["gradients"].items():
        for rank in ranks:
            assert (rank[case]["gradients"][name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-8, name
    for name, value in alone["state"].items():
        assert ranks[0][case]["state"][name].equal(ranks[1][case]["state"][name]), name
        # AdamW divides by the gradient's own size, so the rounding of an all but zero gradient shows
        torch.testing.assert_close(ranks[0][case]["state"][name], value, rtol=1e-4, atol=1e-4, msg=name)


def test_an_anchored_step_is_that_of_the_joint_batch(ranks: list[dict[str, Any]]) -> None:
    objective = anchored()
    alone = train(objective, objective, anchored_batch(), GRAM)
    losses = [torch.stack(rank["anchored"]["loss"]) for rank in ranks]
    torch.testing.assert_close(torch.stack(losses).mean(0), torch.stack(alone["loss"]), rtol=1e-5, atol=0)
    for name, gradient in alone["gradients"].items():
        for rank in ranks:
            assert (rank["anchored"]["gradients"][name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-8, name


def test_a_distillation_is_that_of_the_joint_batch(ranks: list[dict[str, Any]]) -> None:
    objective = distilled()
    alone = distil(objective, objective, {"global_crops": joint_batch(())["global_crops"]})
    together = torch.stack([rank["distilled"]["loss"] for rank in ranks]).mean()
    torch.testing.assert_close(together, alone["loss"], rtol=1e-5, atol=0)
    for name, gradient in alone["gradients"].items():
        for rank in ranks:
            assert (rank["distilled"]["gradients"][name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-8, name


def test_koleo_among_two_processes_is_that_of_the_joint_batch(ranks: list[dict[str, Any]]) -> None:
    loss, gradient = koleo(features(), 0)
    torch.testing.assert_close(torch.stack([rank["koleo"][0] for rank in ranks]).mean(), loss)
    torch.testing.assert_close(torch.cat([rank["koleo"][1] for rank in ranks]) / 2, gradient)


if __name__ == "__main__":
    worker(int(sys.argv[1]), Path(sys.argv[2]))
