"""The distillation losses against lightly-train's numbers, in the files of BIOVFM_REFERENCE_DIR."""

import json
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor
from torch.testing import assert_close

from training.objectives.distill.losses import feature_loss, similarity_divergence

FOLDER = Path(os.environ.get("BIOVFM_REFERENCE_DIR") or Path(__file__).parents[3] / "reference")
FILES = sorted(FOLDER.glob("lightly_distill_losses*.safetensors"))


def read(file: Path) -> tuple[float, dict[str, Tensor]]:
    with safe_open(file, "pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        return float(json.loads(stored.metadata()["json"])["temperature"]), tensors


def compare(loss: Tensor, student: Tensor, expected: Tensor, gradient: Tensor) -> None:
    loss.backward()
    assert_close(loss.detach(), expected, atol=1e-5, rtol=1e-5)
    assert_close(student.grad, gradient, atol=1e-6, rtol=1e-4)


def test_there_are_reference_files() -> None:
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_class_tokens_by_their_similarity_to_teacher_features(file: Path) -> None:
    temperature, tensors = read(file)
    anchors = F.normalize(tensors["in.queue"], dim=-1).T
    teacher = F.normalize(tensors["in.teacher_global"], dim=-1) @ anchors
    for loss, gradient in (("v1.loss", "v1.grad"), ("v3.global_loss", "v3.grad_global")):
        student = tensors["in.student_global_raw"].clone().requires_grad_()
        ours = similarity_divergence(F.normalize(student, dim=-1) @ anchors, teacher, temperature)
        compare(ours, student, tensors[loss], tensors[gradient])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_patch_tokens_by_mse_and_by_similarity_within_an_image(file: Path) -> None:
    temperature, tensors = read(file)
    student = tensors["in.student_v2"].clone().requires_grad_()
    loss = feature_loss(student, tensors["in.teacher_v2"], "mse", temperature)
    compare(loss, student, tensors["v2.loss"], tensors["v2.grad"])
    student = tensors["in.student_local_raw"].clone().requires_grad_()
    loss = feature_loss(student, tensors["in.teacher_local"], "similarity", temperature)
    compare(loss, student, tensors["v3.local_loss"], tensors["v3.grad_local"])


def test_class_tokens_are_compared_with_those_of_their_batch() -> None:
    """As with a queue that holds nothing but the batch; without a gradient where both are the same."""
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 7), torch.randn(5, 7)
    unit, theirs = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    p, q = (theirs @ theirs.T / 0.1).softmax(-1), (unit @ theirs.T / 0.1).softmax(-1)
    expected = (p * (p / q).log()).sum(-1).mean()
    assert_close(feature_loss(student, teacher, "similarity", 0.1), expected)
    assert feature_loss(teacher, teacher, "similarity", 0.1).abs() < 1e-6


def test_cosine_is_of_each_token() -> None:
    teacher = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    student = torch.tensor([[[3.0, 0.0], [1.0, 0.0]]])
    assert_close(feature_loss(student, teacher, "cosine", 0.1), torch.tensor(0.5))
