"""Builds a run from its configuration: images, device, objective, optimiser, and the step to continue from."""

import logging
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from biovfm_hf.cards.objective import write_objective
from biovfm_hf.cards.provenance import Provenance
from biovfm_hf.errors import UserError
from biovfm_hf.modeling_biovfm import BioVFMLayer, BioVFMPreTrainedModel
from biovfm_hf.size_names import size_words
from biovfm_hf.writing.files import remove_leftovers

from .config_file import with_steps
from .data.batches import Order, Share, sample_order
from .data.images import Images
from .estimate import check_memory, image_flops, trained_parameters
from .objectives.initial import with_architecture
from .objectives.method import Method
from .optimizer import adamw
from .run.checkpoint import load_newest, newest_name
from .run.checks import check_batch
from .run.device import (
    check_devices,
    failing_together,
    make_accelerator,
    set_sharded_precision,
    speed_up_cpu,
)
from .run.export import open_repository
from .run.folder import hold_run_folder, prepare_run_folder, trim_metrics
from .run.provenance import Lineage, run_provenance
from .run.watch import History, Watch, open_watch, read_history
from .schedule import Schedule, scaled_learning_rate
from .settings.architecture import biovfm_config
from .settings.augment import check_augment
from .settings.config import TrainConfig
from .settings.typed import flat, plain

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """The state of a running run."""

    config: TrainConfig
    method: Method[Any, Any]
    accelerator: Any
    out: Path
    objective: nn.Module  # the bare module; `wrapped` is what is called
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    images: Images
    order: Order
    share: Share
    accumulation: int
    watch: Watch | None
    flops_per_image: float
    lock: ExitStack | None  # keeps other runs out of the folder, on the process that writes
    lineages: dict[str, Lineage]  # of the exported models, on that process
    step: int = 0
    skipped_before: int = 0  # unreadable images of the run's earlier parts, on all processes
    skipped: int = 0  # of this part, on this process
    unreadable: set[int] = field(default_factory=set)  # which images that was
    history: History = field(default_factory=History)
    pushes: list[threading.Thread] = field(default_factory=list)

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self.accelerator.is_main_process


def start(config: TrainConfig, method: Method[Any, Any], out: Path, images: Images) -> Run:
    """Check everything, build the objective, and restore the newest checkpoint if there is one.

    Raises:
        UserError: see `train`.
    """
    config = method.resolved(with_architecture(config, out), out)
    model_config = biovfm_config(config)
    check_augment(config.augment, model_config.patch_size)
    check_devices(config)
    check_memory(method, config, model_config)
    config = with_steps(config, len(images))
    order = sample_order(images, config)
    watch = open_watch(config, images)
    accelerator = make_accelerator(config, out)
    share, accumulation = split_batch(config, accelerator.num_processes, accelerator.process_index)
    lock, lineages = None, dict[str, Lineage]()
    with failing_together(accelerator):
        if accelerator.is_main_process:
            lock = hold_run_folder(out)
            lineages = prepare_run_folder(out, config)
            remove_leftovers(out)
            if config.run.push_to_hub:
                _check_public(config.run.push_to_hub, run_provenance(lineages))
                open_repository(config.run.push_to_hub)
    torch.manual_seed(config.seed)
    objective = method.build(_initial(config, out), model_config).train()
    flops_per_image = image_flops(method, config, model_config, objective)  # before its parts are sharded
    if accelerator.is_main_process:
        write_objective(out, config.facts(flops_per_image))
    optimizer = adamw(method.parameter_groups(objective, config), config.optim.betas)
    wrapped, optimizer = prepare(accelerator, objective, optimizer, config)
    peak = scaled_learning_rate(config.optim.base_lr, config.batch.size, config.optim.lr_rule)
    run = Run(
        config=config,
        method=method,
        accelerator=accelerator,
        out=out,
        objective=objective,
        wrapped=wrapped,
        optimizer=optimizer,
        schedule=method.schedule(config, peak),
        images=images,
        order=order,
        share=share,
        accumulation=accumulation,
        watch=watch,
        flops_per_image=flops_per_image,
        lock=lock,
        lineages=lineages,
    )
    say(run, opening_line(run, peak))
    if run.main and config.batch.size > len(images):
        logger.warning(
            "batch.size %d is more than the %d images: a step sees some of them more than once, and objectives that "
            "compare images (such as DINOv2) compare them with themselves",
            config.batch.size,
            len(images),
        )
    restore(run)
    open_trackers(run)
    return run


def _check_public(repository: str, provenance: Provenance) -> None:
    """Refuse to push models of private sources during training, because nobody is there to confirm it.

    Raises:
        UserError: the data, or the weights that the run starts from, are of private sources.
    """
    if provenance.is_private:
        raise UserError(
            f"cannot push to {repository}: the run learns from data of private access ({provenance}); "
            "leave out --push-to-hub, and send the finished model: biovfm push OUT/model REPO --private-sources-ok"
        )


def _initial(config: TrainConfig, out: Path) -> TrainConfig:
    """The configuration to build from: a continued run has its own weights and does not need its initial ones."""
    begun = newest_name(out / "checkpoints") is not None
    return config.without_weights() if begun else config


def open_trackers(run: Run) -> None:
    """Start accelerate's trackers under the name of the run folder; a continued run stays one run in trackio."""
    config = run.config
    if config.run.trackers:
        settings = {key: str(value) for key, value in flat(plain(config)).items()}
        named = {"name": run.out.resolve().name, "resume": "allow" if run.step else "never"}
        run.accelerator.init_trackers("biovfm", config=settings, init_kwargs={"trackio": named})


def split_batch(config: TrainConfig, processes: int, rank: int) -> tuple[Share, int]:
    """Which images this process reads in each forward pass, and how many passes make a step.

    Raises:
        UserError: the batch is too small for the processes, or cannot be divided evenly.
    """
    per_process = check_batch(config, processes)
    return Share(per_process, processes, rank), config.batch.size // (per_process * processes)


def prepare(
    accelerator: Any, objective: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig
) -> tuple[nn.Module, Any]:
    """Checkpoint and compile the blocks if configured, then wrap for the device and the processes."""
    if accelerator.device.type == "cpu":
        speed_up_cpu(objective, accelerator.mixed_precision == "bf16")
    for module in objective.modules():
        trained = any(parameter.requires_grad for parameter in module.parameters())
        if config.run.activation_checkpointing and trained and isinstance(module, BioVFMPreTrainedModel):
            # transformers renames it, and warns of the old name
            new = hasattr(module, "activation_checkpointing_enable")
            getattr(module, f"{'activation' if new else 'gradient'}_checkpointing_enable")({"use_reentrant": False})
        if config.run.compile and isinstance(module, BioVFMLayer):
            module.compile()
    set_sharded_precision(accelerator)
    return accelerator.prepare(objective, optimizer)


def restore(run: Run) -> None:
    """Load the newest checkpoint, if there is one, and warn of a changed set-up.

    Raises:
        UserError: no checkpoint can be read, or the data is not the same.
    """
    state = load_newest(run.out / "checkpoints", run.objective, run.optimizer)
    if state is None:
        if run.main:
            trim_metrics(run.out, -1)
        return
    run.step, run.skipped_before = state["step"], state["skipped"]
    if run.main:
        trim_metrics(run.out, run.step)
        run.history = read_history(run.out / "metrics.jsonl")
    say(run, f"continuing after step {run.step:,} of {run.config.steps:,}")
    if state["images"] != len(run.images):
        raise UserError(
            f"the run began with {state['images']:,} images, the data now has {len(run.images):,}; use another --out, "
            "with model.init_from to start from these weights"
        )
    mark = run.method.frozen_mark(run.objective)
    if state.get("frozen", mark) != mark:
        raise UserError(
            "teacher.frozen has another configuration than when the run began; put that back, or use another --out"
        )
    here = {
        "processes": run.share.processes,
        "images_a_pass": run.share.images,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    changed = [f"{name} {state[name]} -> {value}" for name, value in here.items() if state.get(name, value) != value]
    if changed and run.main:
        logger.warning(
            "the set-up has changed (%s): the run continues with the same images in each step, but sums are rounded "
            "in another order, and statistics of a batch are those of another part of it, so the weights will not be "
            "bitwise those of an uninterrupted run",
            ", ".join(changed),
        )


def opening_line(run: Run, peak: float) -> str:
    """The run in one line."""
    config = run.config
    size, trained = size_words(biovfm_config(config).to_dict()), trained_parameters(run.objective)
    accumulated = f" x {run.accumulation} accumulated" if run.accumulation > 1 else ""
    return (
        f"{size}, {trained / 1e6:.1f}M trained parameters; {len(run.images):,} images; "
        f"{config.steps:,} steps of {config.batch.size} ({run.share.processes} process(es) x {run.share.images}"
        f"{accumulated}) = {config.steps * config.batch.size:,} images seen, "
        f"{config.steps * config.batch.size / len(run.images):.1f} passes; learning rate {config.optim.base_lr:g} "
        f"scaled by {config.optim.lr_rule} to {peak:.3g}; on {run.accelerator.device}, "
        f"{run.accelerator.mixed_precision if run.accelerator.mixed_precision != 'no' else 'fp32'}"
    )


def say(run: Run, text: str) -> None:
    """Print a message for the user, on one process only."""
    if run.main:
        tqdm.write(text, file=sys.stderr)  # above the progress bar if there is one
