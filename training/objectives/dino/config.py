"""DINOv2's recipe: its own sections of a run's configuration; the defaults are its `vitl16_short`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from biovfm_hf.cards.objective import Logged
from biovfm_hf.cards.origin import Origin
from biovfm_hf.errors import UserError
from biovfm_hf.ranges import Range

from ...settings.config import TrainConfig
from ...settings.typed import Positive, Share, StepsOrShare

Width = Annotated[int, Range(1, 2**20)]


@dataclass(frozen=True)
class DINOConfig:
    """Heads, targets and weights of the objective; the defaults are DINOv2's `vitl16_short`.

    Attributes:
        prototypes: number K of the DINO head's prototypes.
        hidden: width of its MLP.
        bottleneck: width of its unit vectors and prototypes.
        layers: linear layers of its MLP.
        ibot_separate_head: a separate head for patches; otherwise patches go through the DINO head.
        ibot_prototypes: prototypes of that head.
        ibot_hidden: width of its MLP.
        ibot_bottleneck: width of its unit vectors and prototypes.
        ibot_layers: linear layers of its MLP.
        weight_norm: prototypes have separate parameters for direction and length; DINOv3's have not.
        centering: how the teacher's scores become targets: `centering` or `sinkhorn_knopp`.
        student_temp: softmax temperature of the student.
        center_momentum: momentum of the moving centre.
        dino_weight: weight of the class tokens' loss.
        local_weight: further weight of its pairs with a local crop; with Gram anchoring it changes on the same ramp
            (`gram.start`, `gram.ramp`). DINOv3 halves it while anchoring.
        same_crop_pairs: also count pairs of a global crop with the teacher's view of the same crop.
        ibot_weight: weight of the masked patches' loss.
        koleo_weight: weight of the KoLeo regulariser.
        koleo_neighbours: number of nearest images from which each image is pushed away.
        koleo_group: number of images, over consecutive processes, that are searched for them; 0 searches within a
            process. DINOv3's high-resolution stage, with few images on each GPU, uses 16.
    """

    prototypes: Positive = 65_536
    hidden: Width = 2048
    bottleneck: Width = 256
    layers: Annotated[int, Range(1, 100)] = 3
    ibot_separate_head: bool = False
    ibot_prototypes: Positive = 65_536
    ibot_hidden: Width = 2048
    ibot_bottleneck: Width = 256
    ibot_layers: Annotated[int, Range(1, 100)] = 3
    weight_norm: bool = True
    centering: Literal["centering", "sinkhorn_knopp"] = "centering"
    student_temp: Annotated[float, Range(1e-3)] = 0.1
    center_momentum: Share = 0.9
    dino_weight: Annotated[float, Range(0)] = 1.0
    local_weight: Annotated[float, Range(0)] = 1.0
    same_crop_pairs: bool = False
    ibot_weight: Annotated[float, Range(0)] = 1.0
    koleo_weight: Annotated[float, Range(0)] = 0.1
    koleo_neighbours: Positive = 1
    koleo_group: Annotated[int, Range(0)] = 0


@dataclass(frozen=True)
class TeacherConfig:
    """The teacher: an average of the student, or a frozen network of an earlier run.

    Attributes:
        frozen: folder of a DINO run, or weight file of DINOv2 or DINOv3 with heads, used as an unchanging teacher, as
            in DINOv3's distillation. Its number of prototypes and its patch size must be those of this run. No patches
            are masked for the student. The student's average is exported, but has no part in the loss.
        leads: student and average start from the teacher of the run in `model.init_from`, with its heads, as in
            DINOv3's high-resolution stage; otherwise each continues from its own weights.
        momentum: momentum of the average at the start.
        momentum_end: the same at the end; it follows a cosine.
        temperature: temperature of the teacher's softmax after its warm-up.
        warmup_temperature: the same at the start.
        temperature_warmup_steps: steps of its linear rise.
    """

    frozen: str | None = None
    leads: bool = False
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
        ratio: range of the share of hidden patches in a masked crop.
    """

    probability: Share = 0.5
    ratio: Annotated[tuple[float, float], Range(0, 1, ordered=True)] = (0.1, 0.5)


@dataclass(frozen=True)
class GramConfig:
    """Gram anchoring (DINOv3): keeps similarities of patches close to a frozen teacher's. Off if `weight` is 0.

    This teacher's crops are `augment.anchor_size` pixels wide; by default they are the student's own crops.

    Attributes:
        weight: weight of the loss.
        teacher: model folder, Hub id, weight file or run folder with the frozen teacher's encoder; null uses a copy of
            the run's own teacher from the start of the loss.
        start: steps before the loss starts.
        ramp: steps over which its weight rises from 0 along a half cosine.
        refresh_every: steps after which a copy of the run's own teacher replaces the frozen one; 0 never replaces it.
        refreshes: largest number of replacements.
        tokens: patches to compare: all, or those that iBOT masks, or the others (the latter two not with `per_image`).
        normalize: compare cosines, not products.
        per_image: compare the patches within each image, else within a process's batch.
        negatives: similarities below 0: `keep` them, set them to 0 on `both` sides, or only for the frozen `teacher`.
        resize: interpolation of its patches to the student's grid.
        antialias: antialias that interpolation.
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
        """Refuse a choice of patches that `per_image` cannot compare.

        Raises:
            UserError: names the keys.
        """
        if self.per_image and self.tokens != "all":
            raise UserError(f"gram.tokens {self.tokens} differ in number between images; add gram.per_image=false")


_GAP = Logged(note="How far the cross-entropy is below uniform guessing, in nats; at 0 the student learns nothing.")
_LOGGED = {
    "teacher_entropy": Logged(
        note="Mean entropy of the teacher's targets. Near 0, every image gets a hard, perhaps the same, "
        "prototype; near the logarithm of the number of prototypes, targets carry no information."
    ),
    "koleo_loss": Logged(note="Spread of the class tokens on the sphere; rises when they crowd together."),
    **dict.fromkeys(("dino_local_crops_gap", "dino_global_crops_gap", "ibot_gap"), _GAP),
}
_MAIN_SETTINGS = {
    "dino.prototypes": "Prototypes",
    "teacher.momentum": "Teacher's momentum",
    "teacher.temperature": "Teacher's temperature",
}


@dataclass(frozen=True)
class DINOTrainConfig(TrainConfig):
    """A DINOv2 run (arXiv 2304.07193; facebookresearch/dinov2)."""

    title: ClassVar[str] = "DINOv2"
    summary: ClassVar[str] = "self-distillation of crops: a student learns from its own moving average"
    source: ClassVar[str] = "DINOv2 (arXiv 2304.07193)"
    model_fields: ClassVar[dict[str, Any]] = {"use_mask_token": True}
    crops: ClassVar[int] = 2
    local_crops: ClassVar[bool] = True
    smallest_batch: ClassVar[int] = 2
    logged: ClassVar[dict[str, Logged]] = _LOGGED
    main_settings: ClassVar[dict[str, str]] = _MAIN_SETTINGS

    method: str = "dino"
    teacher: TeacherConfig = TeacherConfig()
    dino: DINOConfig = DINOConfig()
    mask: MaskConfig = MaskConfig()
    gram: GramConfig = GramConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(sizes.anchor_size for sizes in self.augment.sizes) and not self.gram.weight:
            raise UserError("augment.anchor_size is given, but gram.weight is 0, so these crops would not be used")
        if self.dino.koleo_neighbours >= (self.dino.koleo_group or self.batch.size):
            raise UserError(
                f"dino.koleo_neighbours {self.dino.koleo_neighbours} must be fewer than the images that are "
                "searched (dino.koleo_group, or those of a process)"
            )
        if self.teacher.frozen and self.gram.weight:
            raise UserError("teacher.frozen and gram.weight are both given; anchor a run of its own, then distil")

    @property
    def origins(self) -> dict[str, Origin]:
        """As for every objective, with a frozen teacher and the Gram teacher."""
        frozen, anchor = self.teacher.frozen, self.gram.teacher if self.gram.weight else None
        return {"model": Origin(self.model.init_from, (frozen,) if frozen else (), (anchor,) if anchor else ())}

    @property
    def sources(self) -> dict[str, str | None]:
        """As for every objective, and the teachers."""
        anchor = self.gram.teacher if self.gram.weight else None
        return {**super().sources, "teacher.frozen": self.teacher.frozen, "gram.teacher": anchor}

    @property
    def description(self) -> tuple[str, str]:
        """As for every objective; with a frozen teacher the student does not learn from its own average."""
        if self.teacher.frozen:
            return (
                "distillation of scores: a student learns those that a frozen network gives to crops",
                "DINOv3 (arXiv 2508.10104)",
            )
        return super().description

    def check_pass(self, images: int, processes: int) -> None:
        """Refuse passes in which KoLeo has no group, or too few images.

        Raises:
            UserError: names the keys.
        """
        group = self.dino.koleo_group
        if group and (group % images or images * processes % group):
            raise UserError(
                f"dino.koleo_group {group} must be a multiple of the {images} images of a process's pass, and divide "
                f"the {images * processes} of all processes; give dino.koleo_group=0, which searches within each "
                "pass, or another batch.per_process"
            )
        if self.dino.koleo_neighbours >= (group or images):
            raise UserError(
                f"dino.koleo_neighbours {self.dino.koleo_neighbours} needs more than {group or images} images to "
                "search; give dino.koleo_group, or more images per pass"
            )

    def without_weights(self) -> Self:
        """As for every objective; the Gram teacher's weights are left out too, because a checkpoint has them."""
        return replace(super().without_weights(), gram=replace(self.gram, teacher=None))

    def renamed(self, name: Callable[[str | None], str | None]) -> Self:
        """As for every objective, and the teachers."""
        gram, teacher = self.gram, self.teacher
        return replace(
            super().renamed(name),
            gram=replace(gram, teacher=name(gram.teacher)),
            teacher=replace(teacher, frozen=name(teacher.frozen)),
        )


CONFIG = DINOTrainConfig
