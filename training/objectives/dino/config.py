"""DINOv2's recipe: its own sections of a run's configuration; the defaults are its `vitl16_short`."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from ...settings.config import TrainConfig
from ...settings.typed import Positive, Range, Share, StepsOrShare


@dataclass(frozen=True)
class DINOConfig:
    """Heads, targets and weights of the objective; the defaults are DINOv2's `vitl16_short`.

    Attributes:
        prototypes: number K of the DINO head's prototypes.
        hidden: width of its MLP.
        bottleneck: width of its unit vectors and prototypes.
        layers: linear layers of its MLP.
        ibot_separate_head: a head of its own for patches; otherwise they go through the DINO head.
        ibot_prototypes: of that head.
        ibot_hidden: likewise.
        ibot_bottleneck: likewise.
        ibot_layers: likewise.
        centering: how the teacher's scores become targets: `centering` or `sinkhorn_knopp`.
        student_temp: softmax temperature of the student.
        center_momentum: of the moving centre.
        dino_weight: weight of the class tokens' loss.
        ibot_weight: weight of the masked patches' loss.
        koleo_weight: weight of the KoLeo regulariser.
    """

    prototypes: Positive = 65_536
    hidden: Positive = 2048
    bottleneck: Positive = 256
    layers: Positive = 3
    ibot_separate_head: bool = False
    ibot_prototypes: Positive = 65_536
    ibot_hidden: Positive = 2048
    ibot_bottleneck: Positive = 256
    ibot_layers: Positive = 3
    centering: Literal["centering", "sinkhorn_knopp"] = "centering"
    student_temp: Annotated[float, Range(1e-3)] = 0.1
    center_momentum: Share = 0.9
    dino_weight: Annotated[float, Range(0)] = 1.0
    ibot_weight: Annotated[float, Range(0)] = 1.0
    koleo_weight: Annotated[float, Range(0)] = 0.1


@dataclass(frozen=True)
class TeacherConfig:
    """The teacher: an average of the student.

    Attributes:
        momentum: of the average, at the start.
        momentum_end: at the end (cosine).
        temperature: of the teacher's softmax after its warm-up.
        warmup_temperature: at the start.
        temperature_warmup_steps: linear rise.
    """

    momentum: Share = 0.992
    momentum_end: Share = 1.0
    temperature: Annotated[float, Range(1e-3)] = 0.07
    warmup_temperature: Annotated[float, Range(1e-3)] = 0.04
    temperature_warmup_steps: StepsOrShare = 0.3


@dataclass(frozen=True)
class MaskConfig:
    """Which patches iBOT hides from the student.

    Attributes:
        probability: share of the global crops that are masked.
        ratio: range of the share of their patches that is hidden.
    """

    probability: Share = 0.5
    ratio: Annotated[tuple[float, float], Range(0, 1, ordered=True)] = (0.1, 0.5)


@dataclass(frozen=True)
class DINOTrainConfig(TrainConfig):
    """A DINOv2 run (arXiv 2304.07193; facebookresearch/dinov2)."""

    title: ClassVar[str] = "DINOv2"
    card_words: ClassVar[str] = "self-distillation of crops: a student learns from its own moving average"
    model_fields: ClassVar[dict[str, Any]] = {"use_mask_token": True}
    crops: ClassVar[int] = 2
    local_crops: ClassVar[bool] = True
    smallest_batch: ClassVar[int] = 2

    method: str = "dino"
    teacher: TeacherConfig = TeacherConfig()
    dino: DINOConfig = DINOConfig()
    mask: MaskConfig = MaskConfig()


CONFIG = DINOTrainConfig
