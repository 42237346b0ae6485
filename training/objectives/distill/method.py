"""Distillation's `Method`: how the loop builds, trains, measures and exports it."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from biovfm_hf import BioVFMConfig
from biovfm_hf.errors import UserError, require
from biovfm_hf.flops import Architecture, step_flops
from biovfm_hf.reading.documents import read_yaml

from ...run.checkpoint import newest_name
from ...settings.architecture import biovfm_config
from ..initial import build_encoder, with_architecture, with_run
from ..method import Method, crops, largest_side, mean_over_sizes
from .config import MAIN, DistillTrainConfig, StudentConfig
from .objective import DistillObjective, Student
from .teacher import Teacher, assumed_teacher, load_teacher


class DistillMethod(Method[DistillTrainConfig, DistillObjective]):
    """Students that are exported, and a frozen teacher; everything else comes from the base class."""

    def resolved(self, config: DistillTrainConfig, out: Path | None = None) -> DistillTrainConfig:
        """The configuration with the architectures that further students take from their initial weights."""
        begun = out is not None and newest_name(out / "checkpoints") is not None
        noted = read_yaml(out / "config.yaml").get("distill", {}).get("students", {}) if out and begun else {}
        students = {
            name: _resolved(config, name, own, noted.get(name)) if own.init_from and not own.timm else own
            for name, own in config.distill.students.items()
        }
        return replace(config, distill=replace(config.distill, students=students))

    def build(self, config: DistillTrainConfig, model_config: BioVFMConfig) -> DistillObjective:
        """Students, projections and teacher. An earlier run gives all of them; its teacher must be of the same kind.

        Each student starts as it would alone: the generator is reset for it.
        """
        teacher = _teacher(config)
        width, patches = _width(config, teacher), bool(config.distill.patch_weight)
        torch.manual_seed(config.seed)
        students = {MAIN: Student(build_encoder(config, model_config), model_config.hidden_size, width, patches)}
        for name, own in config.distill.students.items():
            torch.manual_seed(config.seed)
            encoder, features = _build_student(config, own)
            students[name] = Student(encoder, features, width, patches)
        objective = with_run(DistillObjective(students, teacher, config.distill), config)
        objective.sign()
        return objective

    def exported(self, objective: DistillObjective) -> dict[str, nn.Module]:
        """The students' encoders, without the projections."""
        encoders: dict[str, Any] = {name: student.encoder for name, student in objective.students.items()}
        return {f"model_{name}": one for name, one in encoders.items() if name != MAIN} | {MAIN: encoders[MAIN]}

    def trained(self, objective: DistillObjective) -> nn.Module:
        """The students, each of which is clipped separately, so that none depends on another."""
        return objective.students

    def flops_per_image(self, config: DistillTrainConfig, model_config: BioVFMConfig) -> float:
        """The students' forward and backward passes."""
        students = sum(_student_flops(config, one) for one in config.distill.students.values())
        return super().flops_per_image(config, model_config) + students

    def frozen_flops(self, config: DistillTrainConfig, objective: DistillObjective) -> float:
        """The teacher's one forward pass."""
        return mean_over_sizes(config, lambda sizes: objective.teacher.flops(sizes.global_size))

    def other_bytes(
        self, config: DistillTrainConfig, model_config: BioVFMConfig, block_bytes: Callable[[int], int], full: bool
    ) -> float:
        """The bytes that further students keep."""
        total = 0.0
        for one in config.distill.students.values():
            if one.timm:
                total += _timm_numbers(one.timm, largest_side(config)) * (4 if full else 2)
                continue
            own = biovfm_config(config.alone(one))
            tokens = Architecture.of(own).tokens(largest_side(config))
            total += tokens * own.hidden_size * block_bytes(own.num_hidden_layers)
        return total


def _teacher(config: DistillTrainConfig) -> Teacher:
    if config.distill.teacher is None and torch.get_default_device().type == "meta":
        return assumed_teacher(config)
    return load_teacher(config)


def _width(config: DistillTrainConfig, teacher: Teacher) -> int:
    stated = getattr(getattr(teacher.module, "config", None), "hidden_size", None)
    return stated if isinstance(stated, int) else teacher.width(largest_side(config))


def _resolved(
    config: DistillTrainConfig, name: str, student: StudentConfig, noted: dict[str, Any] | None
) -> StudentConfig:
    """A student with the architecture that its run `noted`, or else that of its initial weights.

    Raises:
        UserError: the weights cannot be read.
    """
    if noted:
        fields = {**noted["fields"], **student.fields}
        return replace(student, size=noted["size"], family=noted["family"], fields=fields)
    try:
        model = with_architecture(config.alone(student)).model
    except UserError as error:
        key = f"distill.students.{name}.init_from"
        raise UserError(str(error).replace("model.init_from", key, 1)) from error
    return replace(student, size=model.size, family=model.family, fields=model.fields)


def _build_student(config: DistillTrainConfig, student: StudentConfig) -> tuple[nn.Module, int]:
    """The encoder of a further student, and the width of its features."""
    if student.timm:
        network: Any = _timm_network(student.timm)
        return network, int(network.num_features)
    own = config.alone(student)
    model_config = biovfm_config(own)
    return build_encoder(own, model_config), model_config.hidden_size


def _timm_network(name: str) -> nn.Module:
    timm = require("timm", "encoders")
    try:
        return timm.create_model(name, num_classes=0)
    except Exception as error:  # timm passes on any error of its registry
        raise UserError(f"distill.students: timm has no {name!r} ({error}); timm.list_models() lists them") from error


def _student_flops(config: DistillTrainConfig, student: StudentConfig) -> float:
    if student.timm:
        name = student.timm
        return mean_over_sizes(config, lambda sizes: 3 * _timm_flops(name, sizes.global_size))
    model_config = biovfm_config(config.alone(student))
    architecture, drop_path = Architecture.of(model_config), model_config.drop_path_rate
    return mean_over_sizes(
        config, lambda sizes: step_flops(architecture, crops(config, sizes), drop_path=drop_path).total
    )


@cache
def _timm_flops(name: str, side: int) -> float:
    """Operations of a forward pass, as torch counts them."""
    with torch.device("meta"):
        network: Any = _timm_network(name)
        with FlopCounterMode(display=False) as counter:
            network.forward_features(torch.zeros(1, 3, side, side))
    return float(counter.get_total_flops())


@cache
def _timm_numbers(name: str, side: int) -> int:
    """Numbers in the outputs of its layers for one image; autograd keeps most of them."""
    numbers: list[int] = []

    def note(_: nn.Module, __: Any, answer: Any) -> None:
        numbers.append(answer.numel() if isinstance(answer, Tensor) else 0)

    with torch.device("meta"):
        network: Any = _timm_network(name)
        for layer in network.modules():
            if not list(layer.children()):
                layer.register_forward_hook(note)
        network.forward_features(torch.zeros(1, 3, side, side))
    return sum(numbers)


METHOD = DistillMethod()
