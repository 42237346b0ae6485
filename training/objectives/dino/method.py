"""DINOv2's `Method`: how the loop builds, trains, measures and exports it."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from biovfm_hf import BioVFMConfig, BioVFMModel
from biovfm_hf.conversion.weights import read_tensors
from biovfm_hf.flops import Architecture, PrototypeHeads, step_flops

from ...data.batches import Drawn
from ...run.checks import images_per_pass
from ...schedule import StepValues
from ...settings.architecture import biovfm_config
from ...settings.augment import CropSizes
from ..initial import build_encoder, run_tensors, take_over
from ..marks import mark_of, settings_of
from ..method import BatchExtra, Method, crops, largest_side, mean_over_sizes, rates
from .config import DINOTrainConfig
from .frozen import frozen_config, read_anchor, read_network
from .masking import block_masks
from .objective import DINOObjective
from .parameters import dino_parameter_groups
from .schedule import DINOSchedule

_GAP = 0.02  # nats; a cross-entropy within this distance of ln K carries no information
_REMEDIES = (
    "a larger batch.size; in a run of a few thousand steps model.layerscale_value 1.0 and teacher.momentum 0.98; "
    "a higher optim.base_lr if it was scaled down to a small batch; dino.centering sinkhorn_knopp; "
    "a lower teacher.temperature; fewer dino.prototypes"
)


class DINOMethod(Method[DINOTrainConfig, DINOObjective]):
    """A student that learns from its own moving average, which is exported."""

    def build(self, config: DINOTrainConfig, model_config: BioVFMConfig) -> DINOObjective:
        """Student and teacher. A weight file of DINOv2 also gives their heads, a run folder gives everything."""
        frozen = read_network(config, model_config) if config.teacher.frozen else None
        objective = DINOObjective(build_encoder(config, model_config), config.dino, frozen)
        source = config.model.init_from
        if source and Path(source).is_file():
            _take_heads(objective, source)
        if tensors := run_tensors(config):
            take_over(objective, _of_run(tensors, objective, config.teacher.leads), str(source))
        if config.gram.weight:
            anchor = copy.deepcopy(objective.average.backbone)
            if config.gram.teacher:
                read_anchor(config.gram.teacher, anchor)
            objective.anchor(anchor, config.gram)
        return objective

    def schedule(self, config: DINOTrainConfig, peak: float) -> DINOSchedule:
        """DINOv2's schedules in the steps of this run."""
        teacher, gram = config.teacher, config.gram
        return DINOSchedule(
            **rates(config, peak),
            momentum=teacher.momentum,
            momentum_end=teacher.momentum_end,
            teacher_temp=teacher.temperature,
            warmup_teacher_temp=teacher.warmup_temperature,
            teacher_temp_warmup_steps=config.step_count(teacher.temperature_warmup_steps),
            freeze_last_layer_steps=config.step_count(config.optim.freeze_last_layer_steps),
            local_weight=config.dino.local_weight,
            gram_weight=gram.weight,
            gram_start=config.step_count(gram.start),
            gram_ramp_steps=config.step_count(gram.ramp),
            gram_refresh_every=config.step_count(gram.refresh_every),
            gram_refreshes=gram.refreshes,
            gram_own_teacher=gram.teacher is None,
        )

    def exported(self, objective: DINOObjective) -> dict[str, nn.Module]:
        """The average's encoder."""
        return {"model": objective.average.backbone}

    def trained(self, objective: DINOObjective) -> nn.Module:
        """The student, whose backbone and heads are clipped separately."""
        return objective.student

    def encoder(self, objective: DINOObjective) -> BioVFMModel:
        """The student's."""
        return objective.student.backbone

    def parameter_groups(self, objective: DINOObjective, config: DINOTrainConfig) -> list[dict]:
        """Layer-wise decay of the rates."""
        optim = config.optim
        return dino_parameter_groups(objective.student, optim.layerwise_decay, optim.patch_embed_lr_mult)

    def batch_extra(self, config: DINOTrainConfig) -> BatchExtra:
        """iBOT's masks of the global crops."""
        patch_size, mask = biovfm_config(config).patch_size, config.mask

        def draw_masks(drawn: Drawn, generator: np.random.Generator) -> dict[str, Tensor]:
            side = drawn.side // patch_size
            return block_masks(2 * len(drawn.positions), (side, side), generator, mask.probability, mask.ratio)

        return draw_masks

    def after_step(self, objective: DINOObjective, values: StepValues) -> None:
        """Move the teacher towards the student, and renew the Gram teacher when due."""
        assert values.momentum is not None
        objective.update_teacher(values.momentum)
        if values.gram_refresh:
            objective.refresh_anchor()

    def frozen_mark(self, objective: DINOObjective) -> int | None:
        """Of the settings of a frozen teacher, whose configuration is read again when a run continues."""
        if objective.followed is None:
            return None
        return mark_of({}, settings_of(objective.teacher.backbone.config))

    def collapse(self, records: Sequence[Mapping[str, Any]]) -> str | None:
        """Warn of a cross-entropy that stays at ln K, or a teacher that assigns every image to one prototype."""
        for name in ("dino_global_crops", "ibot"):
            gaps = [record.get(f"{name}_gap", math.inf) for record in records]
            gaps = [gap for gap in gaps if not math.isnan(gap)]
            if gaps and max(gaps) < _GAP:
                return (
                    f"the {name} cross-entropy has stayed at ln K for {len(records)} logged steps: the features have "
                    f"collapsed or never started. Try, in this order: {_REMEDIES}"
                )
        if max(record.get("teacher_entropy", math.inf) for record in records) < 1e-3:
            return (
                "the teacher assigns every image to one prototype (entropy 0): collapse. Try dino.centering "
                "sinkhorn_knopp, a higher teacher.temperature or a lower optim.base_lr"
            )
        return None

    def flops_per_image(self, config: DINOTrainConfig, model_config: BioVFMConfig) -> float:
        """Operations of the student on all crops, the teacher on the global ones, and both heads.

        With Gram anchoring the Gram teacher's pass counts too, from the first step on.
        """
        return mean_over_sizes(config, lambda sizes: _flops(config, model_config, sizes))

    def other_bytes(
        self, config: DINOTrainConfig, model_config: BioVFMConfig, block_bytes: Callable[[int], int], full: bool
    ) -> float:
        """The teacher's scores and targets, and the Gram matrices of student and Gram teacher."""
        masked = heads(config, model_config, largest_side(config)).masked_patches
        prototypes = config.dino.ibot_prototypes if config.dino.ibot_separate_head else config.dino.prototypes
        scores = config.augment.global_count * config.dino.prototypes + masked * prototypes
        return scores * (8 if full else 6) + _gram_bytes(config, model_config)


def _gram_bytes(config: DINOTrainConfig, model_config: BioVFMConfig) -> float:
    """Bytes of one image's share of both Gram matrices, with the largest crops."""
    if not config.gram.weight:
        return 0.0
    crop = (largest_side(config) // model_config.patch_size) ** 2
    rows = config.augment.global_count * crop
    if config.gram.tokens != "all":
        masked = config.mask.probability * sum(config.mask.ratio) / 2
        rows = round(rows * (masked if config.gram.tokens == "masked" else 1 - masked))
    columns = crop if config.gram.per_image else rows * images_per_pass(config, 1)
    return 2 * 4 * rows * columns


def _flops(config: DINOTrainConfig, model_config: BioVFMConfig, sizes: CropSizes) -> float:
    """Operations of one image in a step of these sizes."""
    architecture, count = Architecture.of(model_config), config.augment.global_count
    own = step_flops(
        architecture,
        crops(config, sizes),
        teacher=True,
        heads=heads(config, model_config, sizes.global_size),
        drop_path=model_config.drop_path_rate,
    )
    flops = own.total
    if config.gram.weight:
        flops += count * architecture.forward_flops(sizes.anchor_size or sizes.global_size)
    if config.teacher.frozen:
        frozen = Architecture.of(frozen_config(config.teacher.frozen))
        flops += count * frozen.forward_flops(sizes.global_size) - own.teacher
    return flops


def heads(config: DINOTrainConfig, model_config: BioVFMConfig, side: int) -> PrototypeHeads:
    """The heads of a run, as the FLOP count takes them, with global crops of `side` pixels.

    The patches that iBOT masks are counted by their mean number per image.
    """
    dino, mask = config.dino, config.mask
    patches = (side // model_config.patch_size) ** 2
    masked = config.augment.global_count * mask.probability * sum(mask.ratio) / 2 * patches
    cls_head = (dino.hidden, dino.layers, dino.bottleneck, dino.prototypes)
    patch_head = (dino.ibot_hidden, dino.ibot_layers, dino.ibot_bottleneck, dino.ibot_prototypes)
    return PrototypeHeads(masked, cls_head, patch_head if dino.ibot_separate_head else cls_head)


def _take_heads(objective: DINOObjective, source: str) -> None:
    """Load the heads of a DINOv2 or DINOv3 weight file, if it has any, into student and average."""
    tensors = read_tensors(Path(source))
    heads = {name: tensor for name, tensor in tensors.items() if name.startswith(("dino_head.", "ibot_head."))}
    for network in (objective.student, objective.average) if heads else ():
        modules = {name: module for name, module in network.named_children() if name != "backbone"}
        take_over(nn.ModuleDict(modules), heads, source)


def _of_run(tensors: dict[str, Tensor], objective: DINOObjective, leads: bool) -> dict[str, Tensor]:
    """The tensors of an earlier run under the objective's names, without its Gram teacher.

    A frozen teacher keeps its own tensors. If the teacher `leads`, the student begins as the run's average.
    """
    parts = dict.fromkeys(("student", "teacher", "followed", "gram_teacher"))
    networks: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
    state = {name: tensor for name, tensor in tensors.items() if name.partition(".")[0] not in parts}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part in networks:
            networks[part][rest] = tensor
    average = networks["followed"] or networks["teacher"]
    own = {"student": average if leads else networks["student"]}
    own |= {"teacher": average} if objective.followed is None else {"followed": average}
    for part, named in own.items():
        state |= {f"{part}.{name}": tensor for name, tensor in named.items()}
    if objective.followed is not None:
        state |= {f"teacher.{name}": tensor for name, tensor in objective.teacher.state_dict().items()}
    return state


METHOD = DINOMethod()
