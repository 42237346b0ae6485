"""DINOv2's recipe: its own sections of a run's configuration; the defaults are its `vitl16_short`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from biovfm_hf.errors import UserError

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
        local_weight: further weight of its pairs with a local crop; DINOv3 halves it while it anchors.
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
    local_weight: Annotated[float, Range(0)] = 1.0
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
class GramConfig:
    """Gram anchoring (DINOv3): similarities of patches stay those of a frozen teacher. Off unless `weight` is given.

    The crops that this teacher sees are `augment.anchor_size` pixels wide, by default the student's own crops.

    Attributes:
        weight: of the loss.
        teacher: model folder, Hub id, weight file or run folder whose encoder the frozen teacher is; null takes the
            run's own teacher as it is when the loss starts.
        start: steps before the loss starts.
        ramp: steps over which its weight rises from 0 along a half cosine.
        refresh_every: steps after which the run's own teacher takes the frozen one's place; 0 keeps it.
        refreshes: how often at most.
        tokens: patches that are compared: all, or those that iBOT hides or does not (these not with `per_image`).
        normalize: compare cosines, not products.
        per_image: compare the patches of each image with one another, else all of a process's batch.
        negatives: what becomes of similarities below 0: `keep`; 0 on `both` sides; 0 for the frozen `teacher` alone.
        resize: how its patches are brought to the student's grid.
        antialias: when they are.
    """

    weight: Annotated[float, Range(0)] = 0.0
    teacher: str | None = None
    start: StepsOrShare = 0
    ramp: StepsOrShare = 0
    refresh_every: StepsOrShare = 0
    refreshes: Annotated[int, Range(0)] = 3
    tokens: Literal["all", "masked", "unmasked"] = "all"
    normalize: bool = True
    per_image: bool = True
    negatives: Literal["keep", "both", "teacher"] = "keep"
    resize: Literal["bicubic", "bilinear"] = "bicubic"
    antialias: bool = False

    def __post_init__(self) -> None:
        """Refuse single patches that no image is left of.

        Raises:
            UserError: names the keys.
        """
        if self.per_image and self.tokens != "all":
            raise UserError(f"gram.tokens {self.tokens} are not as many in every image; add gram.per_image=false")


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
    gram: GramConfig = GramConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.augment.anchor_size and not self.gram.weight:
            raise UserError("augment.anchor_size is given, but gram.weight is 0, so nothing would look at such crops")

    @property
    def teachers(self) -> tuple[str, ...]:
        """The Gram teacher's weights."""
        return (self.gram.teacher,) if self.gram.teacher and self.gram.weight else ()

    def without_weights(self) -> Self:
        """As for every objective, and without the Gram teacher's, which a checkpoint holds."""
        return replace(super().without_weights(), gram=replace(self.gram, teacher=None))

    def renamed(self, name: Callable[[str | None], str | None]) -> Self:
        """As for every objective, and the Gram teacher."""
        return replace(super().renamed(name), gram=replace(self.gram, teacher=name(self.gram.teacher)))


CONFIG = DINOTrainConfig
