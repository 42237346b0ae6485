"""Distillation's recipe: one frozen teacher and one or more students, which all see the same images."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from biovfm_hf.cards.origin import Origin
from biovfm_hf.conversion.place import check_place
from biovfm_hf.errors import UserError
from biovfm_hf.front_door import check_encoder
from biovfm_hf.ranges import Range
from biovfm_hf.sizes import Family

from ...settings.augment import AugmentConfig, preset
from ...settings.config import BatchConfig, ModelConfig, OptimConfig, TrainConfig
from ...settings.typed import Positive
from ...settings.weights import check_source, is_run

MAIN = "model"  # the student of the model section
Compared = Literal["cosine", "mse", "similarity"]
_BATCH = BatchConfig(size=1024)
_OPTIM = OptimConfig(
    base_lr=1e-3,
    lr_rule="sqrt_1024",
    warmup_steps=0.05,
    weight_decay=0.04,
    weight_decay_end=0.04,
    clip_grad=1.0,
)


def are_weights(teacher: str) -> bool:
    """Whether a teacher's name is that of a file, folder or repository, and not one of `biovfm_hf.load_encoder`."""
    return Path(teacher).expanduser().exists() or re.fullmatch(r"[\w.-]+/[\w.-]+", teacher) is not None


@dataclass(frozen=True)
class StudentConfig:
    """A student besides that of the `model` section.

    Attributes:
        size: as in the `model` section.
        family: as in the `model` section.
        init_from: as in the `model` section.
        fields: as in the `model` section, fields of `BioVFMConfig`.
        timm: a network of timm instead of all these, such as `resnet18` or `convnext_tiny`, with fresh weights.
    """

    size: str = "vit-tiny"
    family: Family | None = None
    init_from: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    timm: str | None = None


@dataclass(frozen=True)
class DistillConfig:
    """The teacher, and how the student's features are compared with its own (`losses.py` has the formulas).

    Attributes:
        teacher: model folder, Hub id or weight file that `biovfm convert` reads, or any name that
            `biovfm_hf.load_encoder` takes: `rad-dino`, `timm:NAME`, `open_clip:hf-hub:REPO`, ...
        trust_remote_code: revision of the teacher's own code, if it has any and you have read it: the commit of its
            repository, or the digest of a folder's code. The error message without it states the digest.
        students: name -> a further student, exported as `model_NAME`; all share the teacher's pass over the crops.
        cls_loss: loss of class tokens: `cosine` or `mse` to the teacher's, or `similarity` within the batch.
        patch_loss: loss of patch tokens: `cosine` or `mse` to the teacher's, or `similarity` within their image.
        cls_weight: weight of the class tokens' loss.
        patch_weight: weight of the patch tokens' loss; 0 leaves out their head.
        temperature: temperature of the softmax over similarities.
    """

    teacher: str | None = None
    trust_remote_code: str | None = None
    students: dict[str, StudentConfig] = field(default_factory=dict)
    cls_loss: Compared = "cosine"
    patch_loss: Compared = "cosine"
    cls_weight: Annotated[float, Range(1e-6)] = 1.0
    patch_weight: Annotated[float, Range(0)] = 1.0
    temperature: Annotated[float, Range(1e-3)] = 0.07


@dataclass(frozen=True)
class DistillTrainConfig(TrainConfig):
    """Distillation by features: released encoders lack the heads that a distillation of scores needs."""

    title: ClassVar[str] = "distillation"
    summary: ClassVar[str] = "distillation: class and patch tokens learn to predict those of a larger, frozen encoder"
    counted_by_size: ClassVar[bool] = False

    method: str = "distill"
    steps: Positive = 100_000
    augment: AugmentConfig = field(default_factory=lambda: preset("mae"))
    batch: BatchConfig = _BATCH
    optim: OptimConfig = _OPTIM
    distill: DistillConfig = DistillConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.distill.students:
            if not re.fullmatch(r"[A-Za-z0-9-]+", name) or name == MAIN:
                raise UserError(f"distill.students {name!r}: give letters, digits and hyphens, and not {MAIN}")
        if self.distill.cls_loss == "similarity" and self.batch.size < 2:
            raise UserError("distill.cls_loss similarity compares the images of a batch; batch.size must be 2 or more")

    @property
    def origins(self) -> dict[str, Origin]:
        """Each student has its own initial weights, unless an earlier run supplies all of them."""
        teachers = (self.distill.teacher,) if self.distill.teacher else ()
        first = self.model.init_from
        starts = {MAIN: first}
        for name, one in self.distill.students.items():
            starts[f"{MAIN}_{name}"] = first if first and is_run(first) else one.init_from
        return {name: Origin(start, teachers) for name, start in starts.items()}

    @property
    def sources(self) -> dict[str, str | None]:
        """As for every objective, and those of further students; the teacher may be an encoder of any family."""
        students = {f"distill.students.{name}.init_from": one.init_from for name, one in self.distill.students.items()}
        return {**super().sources, **students}

    @property
    def encoders(self) -> dict[str, Self]:
        """As for every objective, and each further student that is no network of timm."""
        ours = {name: one for name, one in self.distill.students.items() if not one.timm}
        return {**super().encoders, **{f"distill.students.{name}": self.alone(one) for name, one in ours.items()}}

    def check_complete(self) -> None:
        """Refuse a run without a teacher.

        Raises:
            UserError: it says how to name one.
        """
        if self.distill.teacher is None:
            raise UserError(
                "distill.teacher is missing; name a model folder, Hub id, weight file or encoder: distill.teacher=M"
            )

    def check_weights(self) -> None:
        """As for every objective, with the teacher's. A run has several models, so it starts no student."""
        super().check_weights()
        for name, one in self.distill.students.items():
            if one.init_from and is_run(one.init_from):
                key, run = f"distill.students.{name}.init_from", one.init_from
                raise UserError(f"{key} {run} is a run; name one of its models, such as {run}/model")
        if teacher := self.distill.teacher:
            check_source("distill.teacher", teacher, check_place if are_weights(teacher) else check_encoder)

    def alone(self, student: StudentConfig) -> Self:
        """The run with a further student in place of the model section's."""
        return replace(self, model=ModelConfig(student.size, student.family, student.init_from, dict(student.fields)))

    def renamed(self, name: Callable[[str | None], str | None]) -> Self:
        """As for every objective, and the teacher."""
        students = {key: replace(one, init_from=name(one.init_from)) for key, one in self.distill.students.items()}
        distill = replace(self.distill, teacher=name(self.distill.teacher), students=students)
        return replace(super().renamed(name), distill=distill)

    def without_weights(self) -> Self:
        """As for every objective, and without the weights of further students."""
        students = {key: replace(one, init_from=None) for key, one in self.distill.students.items()}
        return replace(super().without_weights(), distill=replace(self.distill, students=students))


CONFIG = DistillTrainConfig
