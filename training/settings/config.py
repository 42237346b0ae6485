"""The configuration of a pretraining run, in typed sections that check themselves; config_file.py reads it.

This module has the settings that all objectives share; an objective adds its sections, and its recipe as defaults, in
its `config.py`. Counts that may depend on the length of the run, such as warm-ups, are either a whole number of steps
or a share of all steps between 0 and 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from biovfm_hf import sizes
from biovfm_hf.cards.objective import Logged, Objective
from biovfm_hf.cards.origin import Origin
from biovfm_hf.errors import UserError
from biovfm_hf.ranges import Range

from .augment import AugmentConfig
from .reported import LOGGED, MAIN_SETTINGS
from .typed import Positive, Share, StepsOrShare, check_ranges
from .weights import check_source, is_run


@dataclass(frozen=True)
class ModelConfig:
    """The encoder.

    Attributes:
        size: a size of `BioVFMConfig.from_size`; with `init_from` the weights decide the architecture.
        family: architecture: `dinov2`, `dinov3` or `mae`; null is the objective's own.
        init_from: initial weights: a model folder or Hub id, ours or any that `biovfm convert` reads (missing heads or
            decoder are fresh); a weight file of DINOv2 or MAE (with its heads and decoder, if any); or the folder of
            an earlier run, with its heads and teacher. Position embeddings are resized. A file that says `REQUIRED`
            needs it for a run, not for a dry run.
        fields: any other field of `BioVFMConfig`; in YAML they are written beside `size`.
    """

    size: str = "vit-large"
    family: sizes.Family | None = None
    init_from: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)


# keys of the model section beside the fields of `BioVFMConfig`
OWN_KEYS = ("size", "family", "init_from")
DIMENSIONS = ("hidden_size", "num_hidden_layers")


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
        selection: use only the images whose ids a text file lists, one per line (`biovfm curate` writes one). For a
            folder of images, or a dataset that is not streamed.
        weight_by: draw by the groups of this column (`modality`, `anatomy`, `source`), not uniformly over images.
        weights: group -> weight; other groups have weight 1, so an empty map means equal shares.
        streaming: read Parquet row groups as they are needed instead of building a local Arrow copy.
        stream_lanes: streams that are read in parallel (see `stream.py`). Every row group is fetched once per pass if
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
    selection: str | None = None
    weight_by: Literal["modality", "anatomy", "source"] | None = None
    weights: Annotated[dict[str, float], Range(0)] = field(default_factory=dict)
    streaming: bool = False
    stream_lanes: Positive = 64
    cache_mib: Annotated[int, Range(0)] = 512
    max_side: Annotated[int, Range(0)] = 512
    workers: Annotated[int, Range(-1, 1024)] = -1

    @property
    def filters(self) -> dict[str, list[str]]:
        """Column -> the values to keep; empty if every image is used."""
        filters = {"modality": self.modality, "source": self.source}
        return {column: values for column, values in filters.items() if values}


@dataclass(frozen=True)
class BatchConfig:
    """How many images a step sees.

    Attributes:
        size: images per optimiser step, over all processes and accumulation.
        per_process: most images in a forward pass of one process, which a smaller `size` does not reach; null divides
            `size` evenly. If a step needs several
            passes, gradients are accumulated, and batch statistics (Sinkhorn-Knopp, centre, KoLeo) are over each
            pass's images, not over the whole batch.
    """

    size: Positive = 2048
    per_process: Annotated[int | None, Range(1)] = None


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedules.

    Attributes:
        base_lr: learning rate before scaling by the batch.
        lr_rule: `sqrt_1024` (DINOv2), `linear_256` (MAE) or `none`.
        min_lr: learning rate at the end of the cosine.
        warmup_steps: length of the warm-up from 0.
        warmup: shape of the warm-up, `linear` or `cosine`.
        decay: after the warm-up: `cosine` to `min_lr`, or `none`, a constant rate.
        weight_decay: weight decay at the start.
        weight_decay_end: weight decay at the end (DINOv2: cosine; MAE: constant).
        layerwise_decay: learning-rate factor from block to block, counted from the top (DINO).
        patch_embed_lr_mult: further factor of the patch projection (DINO).
        clip_grad: gradient norm to which backbone and heads are clipped separately; null does not clip.
        betas: AdamW's betas.
        freeze_last_layer_steps: steps without learning in the heads' last layer (DINO).
    """

    base_lr: Annotated[float, Range(0)] = 0.004
    lr_rule: Literal["sqrt_1024", "linear_256", "none"] = "sqrt_1024"
    min_lr: Annotated[float, Range(0)] = 1e-6
    warmup_steps: StepsOrShare = 0.1
    warmup: Literal["linear", "cosine"] = "linear"
    decay: Literal["cosine", "none"] = "cosine"
    weight_decay: Annotated[float, Range(0)] = 0.04
    weight_decay_end: Annotated[float, Range(0)] = 0.4
    layerwise_decay: Share = 0.9
    patch_embed_lr_mult: Annotated[float, Range(0)] = 0.2
    clip_grad: Annotated[float | None, Range(1e-6)] = 3.0
    betas: Annotated[tuple[float, float], Range(0, 0.99999)] = (0.9, 0.999)
    freeze_last_layer_steps: StepsOrShare = 0.01


@dataclass(frozen=True)
class RunConfig:
    """How the run is executed and what it writes.

    Attributes:
        device: `auto` (a GPU when there is one), `cuda` or `cpu`.
        precision: `auto` (bf16 on a GPU that has it, else fp32), `bf16` or `fp32`; accelerate's `mixed_precision`
            is not read.
        compile: compile each block with torch.compile.
        activation_checkpointing: recompute each block in the backward pass, which saves memory.
        log_every: steps between lines of metrics.jsonl.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: how many of the newest are kept.
        export_every: steps between exported model folders; 0 exports only at the end.
        profile: steps that torch.profiler records, after the first four, to OUT/profile; 0 records none.
        trackers: experiment trackers of accelerate, for instance `tensorboard`, `wandb`, `mlflow`, `trackio`.
        push_to_hub: repository that every export is sent to, in the background; a new one is private.
    """

    device: Literal["auto", "cuda", "cpu"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: bool = False
    activation_checkpointing: bool = False
    log_every: Positive = 10
    checkpoint_every: Positive = 1000
    keep_checkpoints: Positive = 3
    export_every: Annotated[int, Range(0)] = 0
    profile: Annotated[int, Range(0)] = 0
    trackers: list[str] = field(default_factory=list)
    push_to_hub: str | None = None


@dataclass(frozen=True)
class WatchConfig:
    """Measurements during training.

    Attributes:
        every: steps between measurements; 0 measures nothing.
        dense: measure the patch tokens too (`run/dense.py`), and warn if they lose their localisation.
        task: labelled images for the kNN probe, a folder with one folder per class; null leaves the probe out.
        masks: images and masks for a linear segmentation probe (`run/masks.py`), a folder with `images/` and `masks/`,
            or `train/` and `test/` of them; null leaves it out.
        images: most images for RankMe, and for each split of the task.
        neighbours: k of the kNN probe.
        temperature: temperature of its similarity weights.
    """

    every: Annotated[int, Range(0)] = 0
    dense: bool = False
    task: str | None = None
    masks: str | None = None
    images: Positive = 512
    neighbours: Positive = 20
    temperature: Annotated[float, Range(1e-3)] = 0.07


@dataclass(frozen=True)
class TrainConfig:
    """A whole run. `steps` optimiser steps, or `epochs` passes over the images when that is given.

    An objective's class adds its sections and these facts about itself:

    Attributes:
        title: its name in sentences.
        summary: what it does, for a model card: a noun, a colon and a main clause, as in "masked autoencoding: the
            pixels of hidden patches are predicted". The card writes "It was pretrained by" before it.
        source: its paper, for a card's citation.
        family: of `BioVFMConfig.from_size`, whose architecture it trains.
        model_fields: further fields of `BioVFMConfig` that it needs.
        drops_patches: whether its encoder sees only some patches, which rotary positions cannot do.
        crops: global crops that it takes of an image.
        local_crops: whether it takes local ones too.
        smallest_batch: images that one forward pass needs at least.
        counted_by_size: whether the model's size determines the operations of a step, which `biovfm scaling` then
            knows; not so where the user names a further network that takes part.
        logged: name -> what a report says of a value that it logs, as its name may not suggest it (a loss without
            `loss` in its name would stand among the diagnostics).
        main_settings: key -> title, of its own settings that a report shows among the main ones.
    """

    title: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str] = ""
    family: ClassVar[str] = "dinov2"
    model_fields: ClassVar[dict[str, Any]] = {}
    drops_patches: ClassVar[bool] = False
    crops: ClassVar[int] = 1
    local_crops: ClassVar[bool] = False
    smallest_batch: ClassVar[int] = 1
    counted_by_size: ClassVar[bool] = True
    logged: ClassVar[dict[str, Logged]] = {}
    main_settings: ClassVar[dict[str, str]] = {}

    method: str = ""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    steps: Positive = 125_000
    epochs: Annotated[float | None, Range(1e-9)] = None
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    batch: BatchConfig = BatchConfig()
    optim: OptimConfig = OptimConfig()
    run: RunConfig = RunConfig()
    watch: WatchConfig = WatchConfig()

    def __post_init__(self) -> None:
        """Check every number, and combinations of settings.

        Raises:
            UserError: names the key, its value and what it must be.
        """
        check_ranges(self)
        self._check_crops()
        if self.data.weights and not self.data.weight_by:
            raise UserError("data.weights is given without data.weight_by; say which column its names are of")
        for name in ("task", "masks"):
            if getattr(self.watch, name) and not self.watch.every:
                raise UserError(
                    f"watch.{name} is given, but watch.every is 0, so it would never be probed; add watch.every=500"
                )
        if self.step_count(self.optim.warmup_steps) > self.steps:
            raise UserError(
                f"optim.warmup_steps {self.optim.warmup_steps} is longer than the run of {self.steps} steps"
            )

    @property
    def origins(self) -> dict[str, Origin]:
        """Exported model folder -> the weights that it is made from; folders that are not listed are as `model`."""
        return {"model": Origin(self.model.init_from)}

    @property
    def description(self) -> tuple[str, str]:
        """What this run does, in a few words for a model card, and the paper it follows."""
        return self.summary, self.source

    def facts(self, flops_per_image: float) -> Objective:
        """The objective's facts for cards and reports, with the floating-point operations of an image."""
        logged, settings = LOGGED | self.logged, MAIN_SETTINGS | self.main_settings
        return Objective(self.title, *self.description, flops_per_image, logged, settings)

    @property
    def sources(self) -> dict[str, str | None]:
        """Key -> the weights that it names for a run that begins."""
        return {"model.init_from": self.model.init_from}

    @property
    def encoders(self) -> dict[str, Self]:
        """Section -> the run whose model section is this one, for each encoder that is trained."""
        return {"model": self}

    def check_complete(self) -> None:
        """Refuse settings that a dry run can do without, but no run.

        Raises:
            UserError: names the key.
        """

    def check_weights(self) -> None:
        """Refuse weights that are not there, as far as that is known without reading them.

        Raises:
            UserError: names the key and the weights.
        """
        for key, source in self.sources.items():
            if source and not is_run(source):
                check_source(key, source)

    def check_pass(self, images: int, processes: int) -> None:
        """Refuse a number of images per pass that the objective cannot use (besides `smallest_batch`).

        Raises:
            UserError: names the keys.
        """

    def renamed(self, name: Callable[[str | None], str | None]) -> Self:
        """The settings with every path replaced by `name(path)`."""
        return replace(
            self,
            data=replace(self.data, path=name(self.data.path), selection=name(self.data.selection)),
            model=replace(self.model, init_from=name(self.model.init_from)),
            watch=replace(self.watch, task=name(self.watch.task), masks=name(self.watch.masks)),
        )

    def without_weights(self) -> Self:
        """The settings without weights to read: for estimates, or if a checkpoint has all weights."""
        return replace(self, model=replace(self.model, init_from=None))

    def _check_crops(self) -> None:
        if self.batch.size < self.smallest_batch:
            raise UserError(
                f"batch.size is {self.batch.size}; the {self.title} objective compares images, so it needs at least "
                f"{self.smallest_batch} (better: 64 and more)"
            )
        large, small = self.augment.global_count, self.augment.local_count
        if large != self.crops or (small and not self.local_crops):
            local, remedy = "", ""
            if not self.local_crops:
                local = " and no local ones"
                remedy = f"; give augment.global_count={self.crops} and augment.local_count=0"
            raise UserError(
                f"augment.global_count is {large}, augment.local_count {small}; the {self.title} objective takes "
                f"{self.crops} global crop(s) of an image{local}{remedy}"
            )

    def step_count(self, value: int | float) -> int:
        """A whole number of steps as it is, or a share between 0 and 1 of all steps."""
        return round(value * self.steps) if isinstance(value, float) else value
