"""The configuration of a pretraining run, in typed sections; config_file.py reads and checks it.

Defaults are the published recipes: DINOv2's `vitl16_short` (facebookresearch/dinov2) and MAE's 800-epoch run
(facebookresearch/mae). Counts that may follow the length of the run, such as warm-ups, take either a whole number of
steps or a share of all steps between 0 and 1.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from biovfm_hf.errors import UserError

from ..data.augment import AugmentConfig
from ..objectives.dino.objective import DINOConfig
from .typed import nearest

StepsOrShare = int | float  # a whole number of steps, or a share of all steps


@dataclass(frozen=True)
class ModelConfig:
    """The encoder.

    Attributes:
        size: a size of `BioVFMConfig.from_size`.
        init_from: what training starts from: a model folder or Hub id (heads or decoder are fresh where it has
            none), ours or any that `biovfm convert` reads; a weight file as DINOv2 or MAE write it (heads and decoder
            come along where it has them); or the folder of an earlier run, with its heads and teacher. Position
            embeddings are resized.
        fields: any other field of `BioVFMConfig`; in YAML they stand beside `size`.
    """

    size: str = "vit-large"
    init_from: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataConfig:
    """The images.

    Attributes:
        path: dataset folder, Hub id or folder of images; usually given as --data.
        config: dataset configuration, for instance `us`, `0.2m`, `full`; null takes the only or default one.
        split: dataset split.
        revision: Hub revision.
        column: name of the image column.
        modality: keep only these values of the `modality` column.
        source: keep only these values of the `source` column.
        weight_by: draw by the groups of this column (`modality` or `source`) instead of uniformly over images.
        weights: group -> weight; groups left out count 1, so an empty map means equal shares.
        streaming: read Parquet row groups as they are needed instead of building a local Arrow copy.
        stream_lanes: streams that are read side by side (see `stream.py`). Every row group is fetched once a pass when
            this is at least 8 x processes x workers; more lanes take more memory.
        cache_mib: memory for decoded images (streaming: for row groups), over all workers of a process.
        max_side: larger images are reduced to this many pixels on the longer side when they are decoded; 0 keeps them.
        workers: loader processes per training process; -1 chooses.
    """

    path: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    column: str = "image"
    modality: list[str] = field(default_factory=list)
    source: list[str] = field(default_factory=list)
    weight_by: Literal["modality", "source"] | None = None
    weights: dict[str, float] = field(default_factory=dict)
    streaming: bool = False
    stream_lanes: int = 64
    cache_mib: int = 512
    max_side: int = 512
    workers: int = -1

    @property
    def wanted(self) -> dict[str, list[str]]:
        """Column -> the values that it is filtered by; empty where every image is taken."""
        filters = {"modality": self.modality, "source": self.source}
        return {column: values for column, values in filters.items() if values}


@dataclass(frozen=True)
class BatchConfig:
    """How many images a step sees.

    Attributes:
        size: images per optimiser step, over all processes and accumulation.
        per_process: most images in a forward pass of one process; null divides `size` evenly. Where that leaves
            images over, gradients are accumulated: batch statistics (Sinkhorn-Knopp, centre, KoLeo) are then those
            of the part, not of the whole batch.
    """

    size: int = 2048
    per_process: int | None = None


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedules.

    Attributes:
        base_lr: learning rate before scaling by the batch.
        lr_rule: `sqrt_1024` (DINOv2), `linear_256` (MAE) or `none`.
        min_lr: where the cosine ends.
        warmup_steps: linear warm-up from 0.
        weight_decay: at the start.
        weight_decay_end: at the end (DINOv2's cosine; MAE keeps the start's).
        layerwise_decay: learning-rate factor from block to block, counted from the top (DINO).
        patch_embed_lr_mult: further factor of the patch projection (DINO).
        clip_grad: norm that backbone and heads are clipped to, each on its own; null does not clip.
        betas: AdamW's.
        freeze_last_layer_steps: steps without learning in the heads' last layer (DINO).
    """

    base_lr: float = 0.004
    lr_rule: Literal["sqrt_1024", "linear_256", "none"] = "sqrt_1024"
    min_lr: float = 1e-6
    warmup_steps: StepsOrShare = 0.1
    weight_decay: float = 0.04
    weight_decay_end: float = 0.4
    layerwise_decay: float = 0.9
    patch_embed_lr_mult: float = 0.2
    clip_grad: float | None = 3.0
    betas: tuple[float, float] = (0.9, 0.999)
    freeze_last_layer_steps: StepsOrShare = 0.01


@dataclass(frozen=True)
class TeacherConfig:
    """The teacher: an average of the student (DINO).

    Attributes:
        momentum: of the average, at the start.
        momentum_end: at the end (cosine).
        temperature: of the teacher's softmax after its warm-up.
        warmup_temperature: at the start.
        temperature_warmup_steps: linear rise.
    """

    momentum: float = 0.992
    momentum_end: float = 1.0
    temperature: float = 0.07
    warmup_temperature: float = 0.04
    temperature_warmup_steps: StepsOrShare = 0.3


@dataclass(frozen=True)
class MaskConfig:
    """Which patches iBOT hides from the student (DINO).

    Attributes:
        probability: share of the global crops that are masked.
        ratio: range of the share of their patches that is hidden.
    """

    probability: float = 0.5
    ratio: tuple[float, float] = (0.1, 0.5)


@dataclass(frozen=True)
class RunConfig:
    """How the run is executed and what it writes.

    Attributes:
        device: `auto` (a GPU when there is one), `cuda` or `cpu`.
        precision: `auto` (bf16 on a GPU that has it, else fp32), `bf16` or `fp32`; accelerate's `mixed_precision`
            is not read.
        compile: compile each block with torch.compile.
        activation_checkpointing: recompute each block in the backward pass, for memory.
        log_every: steps between lines of metrics.jsonl.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: how many of the newest are kept.
        export_every: steps between exported model folders; 0 exports only at the end.
        trackers: experiment trackers of accelerate, for instance `tensorboard`, `trackio`.
        push_to_hub: repository that every export is sent to, in the background; a new one is private.
    """

    device: Literal["auto", "cuda", "cpu"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: bool = False
    activation_checkpointing: bool = False
    log_every: int = 10
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3
    export_every: int = 0
    trackers: list[str] = field(default_factory=list)
    push_to_hub: str | None = None


@dataclass(frozen=True)
class WatchConfig:
    """What is measured while training runs.

    Attributes:
        every: steps between measurements; 0 measures nothing.
        task: labelled images for the kNN probe, a folder with one folder per class; null leaves the probe out.
        images: most images that RankMe, and each split of the task, are measured on.
        neighbours: k of the kNN probe.
        temperature: of its similarity weights.
    """

    every: int = 0
    task: str | None = None
    images: int = 512
    neighbours: int = 20
    temperature: float = 0.07


@dataclass(frozen=True)
class TrainConfig:
    """A whole run. `steps` optimiser steps, or `epochs` passes over the images when that is given."""

    method: Literal["dino", "mae"]
    seed: int = 0
    steps: int = 125_000
    epochs: float | None = None
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    batch: BatchConfig = BatchConfig()
    optim: OptimConfig = OptimConfig()
    teacher: TeacherConfig = TeacherConfig()
    dino: DINOConfig = field(default_factory=DINOConfig)
    mask: MaskConfig = MaskConfig()
    run: RunConfig = RunConfig()
    watch: WatchConfig = WatchConfig()

    def step_count(self, value: StepsOrShare) -> int:
        """A whole number of steps as it is, or a share between 0 and 1 of all steps."""
        return round(value * self.steps) if isinstance(value, float) else value


def biovfm_config(config: TrainConfig) -> Any:
    """The `BioVFMConfig` of the model that is pretrained, MAE's decoder included.

    Raises:
        UserError: an unknown size or field, or values that do not fit together.
    """
    from huggingface_hub.errors import StrictDataclassError

    from biovfm_hf import BioVFMConfig

    family = {"dino": "dinov2", "mae": "mae"}[config.method]
    given: dict[str, Any] = {"image_size": config.augment.global_size}
    if config.method == "dino":
        given["use_mask_token"] = True
    given.update(config.model.fields)
    known = [item.name for item in fields(BioVFMConfig)]
    for name in given:
        if name not in known:
            raise UserError(f"unknown config key model.{name}; {nearest(name, ['size', 'init_from', *known])}")
    try:
        return BioVFMConfig.from_size(config.model.size, family=family, **given)
    except (ValueError, TypeError, StrictDataclassError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        follows = "image_size" in reason and "image_size" not in config.model.fields
        raise UserError(f"model: {reason}{' (it follows augment.global_size)' if follows else ''}") from error
