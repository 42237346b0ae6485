"""The training loop, the same for every objective: data, steps, logs, checkpoints, export.

Every random number is a function of the seed and the step (or the image's position), so a run that is killed and
started again continues bit for bit on a CPU, from nothing but the tensors and the step number of a checkpoint.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from biovfm_hf.errors import UserError
from biovfm_hf.modeling_biovfm import BioVFMLayer, BioVFMPreTrainedModel

from .augment import check_augment
from .checkpoint import load_newest, newest_name, remove_leftovers, save_checkpoint
from .config import TrainConfig, model_fields, with_steps
from .data import CropBatches, Images, Share, choose_workers, loader, open_images, sample_order
from .export import export_models, push_in_background
from .optimizer import adamw, apply_schedule, clip_per_submodule
from .run_folder import append_metrics, prepare_run_folder, trim_metrics, write_crop_sheet
from .schedule import DINOSchedule, MAESchedule, StepValues, scaled_learning_rate

logger = logging.getLogger(__name__)

BatchExtra = Callable[[int, np.random.Generator], dict[str, Tensor]]


@dataclass(frozen=True)
class Method:
    """What sets an objective apart, as functions.

    Attributes:
        name: `dino` or `mae`.
        build: (config, model config) -> objective; `forward(batch, values)` returns loss and named scalars.
            Weights come from `config.model.init_from` where that is given.
        parameter_groups: (objective, config) -> AdamW groups.
        trained: objective -> the module whose children are clipped each on its own.
        schedule: (config, peak learning rate) -> the schedules.
        batch_extra: config -> what a worker adds to each batch, or None.
        exported: objective -> folder name -> model inside it.
    """

    name: str
    build: Callable[[TrainConfig, Any], nn.Module]
    parameter_groups: Callable[[nn.Module, TrainConfig], list[dict]]
    trained: Callable[[nn.Module], nn.Module]
    schedule: Callable[[TrainConfig, float], DINOSchedule | MAESchedule]
    batch_extra: Callable[[TrainConfig], BatchExtra | None]
    exported: Callable[[nn.Module], dict[str, nn.Module]]


@dataclass
class Run:
    """Everything that belongs to one run while it is running."""

    config: TrainConfig
    method: Method
    accelerator: Any
    out: Path
    objective: nn.Module  # the bare module; `wrapped` is what is called
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: DINOSchedule | MAESchedule
    images: Images
    share: Share
    accumulation: int
    step: int = 0
    skipped: int = 0
    pushes: list[Any] = field(default_factory=list)

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self.accelerator.is_main_process


def train(config: TrainConfig, method: Method, out: Path) -> None:
    """Run, or continue, the pretraining that `config` describes, in the run folder `out`.

    Raises:
        UserError: anything that the user can put right; nothing has been trained then, or the last good checkpoint
            is named.
    """
    run = start(config, method, out)
    if run.step >= run.config.steps and (out / "model").is_dir():
        _say(run, f"{out} is finished: {run.step:,} steps; the model is in {out / 'model'}")
        return
    stop = _StopSignal()
    try:
        _train_steps(run, stop)
    finally:
        stop.restore()
        for push in run.pushes:
            push.join()
        run.accelerator.end_training()


def start(config: TrainConfig, method: Method, out: Path) -> Run:
    """Check everything, build the objective, and restore the newest checkpoint if there is one.

    Raises:
        UserError: see `train`.
    """
    model_config = model_fields(config)
    check_augment(config.augment, model_config.patch_size)
    images = open_images(config.data)
    config = with_steps(config, len(images))
    accelerator = make_accelerator(config, out)
    share, accumulation = split_batch(config, accelerator.num_processes, accelerator.process_index)
    if accelerator.is_main_process:
        prepare_run_folder(out, config)
        remove_leftovers(out / "checkpoints")
    accelerator.wait_for_everyone()
    torch.manual_seed(config.seed)
    objective = method.build(config, model_config).train()
    optimizer = adamw(method.parameter_groups(objective, config), config.optim.betas)
    wrapped, optimizer = prepare(accelerator, objective, optimizer, config)
    peak = scaled_learning_rate(config.optim.base_lr, config.batch.size, config.optim.lr_rule)
    schedule = method.schedule(config, peak)
    run = Run(config, method, accelerator, out, objective, wrapped, optimizer, schedule, images, share, accumulation)
    _say(run, _opening_words(run, peak))
    _restore(run)
    return run


def make_accelerator(config: TrainConfig, out: Path) -> Any:
    """The `Accelerator` for this run: device, precision, processes, trackers.

    Raises:
        UserError: a GPU is asked for and there is none, or bf16 where the device lacks it.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    if config.run.device == "cuda" and not torch.cuda.is_available():
        raise UserError("run.device is cuda but torch sees no GPU here; use --run.device cpu, or check the driver")
    cpu = config.run.device == "cpu" or not torch.cuda.is_available()
    precision = {"fp32": "no", "bf16": "bf16", "auto": None}[config.run.precision]
    if precision is None and not cpu and torch.cuda.is_bf16_supported():
        precision = "bf16"
    return Accelerator(
        cpu=cpu,
        mixed_precision=precision,
        log_with=config.run.trackers or None,
        project_dir=out,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
    )


def split_batch(config: TrainConfig, processes: int, rank: int) -> tuple[Share, int]:
    """Which images this process reads in each forward pass, and how many passes make a step.

    Raises:
        UserError: the batch does not divide evenly.
    """
    per_process = config.batch.per_process or max(config.batch.size // processes, 1)
    together = per_process * processes
    if config.batch.size % together:
        near = max(round(config.batch.size / together), 1) * together
        raise UserError(
            f"batch.size {config.batch.size} is not a multiple of {processes} process(es) x "
            f"{per_process} images (batch.per_process); use batch.size={near}"
        )
    if config.method == "dino" and per_process < 2:
        raise UserError(
            f"each process would see {per_process} image at a time; the DINO objective compares images, so raise "
            "batch.size or use fewer processes"
        )
    return Share(per_process, processes, rank), config.batch.size // together


def prepare(
    accelerator: Any, objective: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig
) -> tuple[nn.Module, Any]:
    """Checkpoint and compile the blocks as asked, then wrap for the device and the processes."""
    for module in objective.modules():
        trained = any(parameter.requires_grad for parameter in module.parameters())
        if config.run.activation_checkpointing and trained and isinstance(module, BioVFMPreTrainedModel):
            module.gradient_checkpointing_enable({"use_reentrant": False})
        if config.run.compile and isinstance(module, BioVFMLayer):
            module.compile()
    return accelerator.prepare(objective, optimizer)


def _train_steps(run: Run, stop: "_StopSignal") -> None:
    config = run.config
    dataset = CropBatches(
        run.images, sample_order(run.images, config), config, run.share, run.method.batch_extra(config)
    )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    workers = choose_workers(config.data, here)
    dataset.set_cache(config.data.cache_mib // max(workers, 1))
    if run.main and not (run.out / "crops.png").is_file():
        write_crop_sheet(run.out / "crops.png", dataset)
    numbers = range(run.step * run.accumulation, config.steps * run.accumulation)
    batches = loader(dataset, numbers, workers, pin=run.accelerator.device.type == "cuda")
    progress = tqdm(
        total=config.steps * config.batch.size,
        initial=run.step * config.batch.size,
        unit="img",
        unit_scale=True,
        desc=f"{run.method.name} pretraining",
        disable=not run.main,
        mininterval=0.5,
    )
    with progress:
        clock = time.perf_counter()
        since = run.step
        while run.step < config.steps:
            values = run.schedule.at(run.step)
            terms = _one_step(run, batches, values)
            run.step += 1
            progress.update(config.batch.size)
            if run.step % config.run.log_every == 0 or run.step == config.steps:
                now = time.perf_counter()
                rate = (run.step - since) * config.batch.size / (now - clock)
                clock, since = now, run.step
                _log(run, terms, values, rate, progress)
            _after_step(run, stop)


def _one_step(run: Run, batches: Iterator[dict[str, Tensor]], values: StepValues) -> dict[str, Tensor]:
    """Forward and backward passes, clipping, the optimiser's step and the teacher's. Returns this step's scalars."""
    apply_schedule(run.optimizer, values)
    run.optimizer.zero_grad()
    sums: dict[str, Tensor] = {}
    for part in range(run.accumulation):
        batch = _to_device(run, next(batches))
        torch.manual_seed(_step_seed(run, part))
        last = part == run.accumulation - 1
        with run.accelerator.no_sync(run.wrapped) if not last else nullcontext():
            loss, terms = run.wrapped(batch, values)
            run.accelerator.backward(loss / run.accumulation)
        for name, value in {"loss": loss.detach(), **terms}.items():
            sums[name] = sums.get(name, 0) + value.float() / run.accumulation
    norms = clip_per_submodule(run.method.trained(run.objective), run.config.optim.clip_grad)
    total = torch.stack(list(norms.values())).square().sum().sqrt()
    if not torch.isfinite(total):
        raise UserError(_not_finite(run, sums["loss"]))
    run.optimizer.step()
    if values.momentum is not None:
        _reshard(run.wrapped)
        run.objective.update_teacher(values.momentum)  # type: ignore[operator]
    return {**sums, "grad_norm": total, **{f"grad_norm_{name}": norm for name, norm in norms.items()}}


def _to_device(run: Run, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Move a batch, note its skipped images, and turn 8-bit crops into normalised floats."""
    skipped = batch.pop("skipped")
    if len(skipped):
        run.skipped += len(skipped)
        for index, other in skipped.tolist()[:3]:
            logger.warning("image %d cannot be read; image %d takes its place (%d so far)", index, other, run.skipped)
    device, augment = run.accelerator.device, run.config.augment
    batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    for name in ("global_crops", "local_crops"):
        if name in batch:
            batch[name] = normalise(batch[name], augment.mean, augment.std)
    return batch


def normalise(crops: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(B, 3, S, S) uint8 to float32, (x / 255 - mean) / std per channel."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=crops.device).view(1, -1, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=crops.device).view(1, -1, 1, 1)
    return torch.addcmul(shift, crops.float(), scale)


def _step_seed(run: Run, part: int) -> int:
    """A seed for what the model itself draws (stochastic depth, MAE's noise) in one forward pass of one process."""
    words = np.random.SeedSequence((run.config.seed, run.step, part, run.share.rank)).generate_state(2)
    return int(words[0]) << 31 | int(words[1]) >> 1


def _reshard(wrapped: nn.Module) -> None:
    """Under FSDP2, give up gathered parameters, or an in-place update of them would be lost without a word."""
    from torch.distributed.fsdp import FSDPModule

    for module in wrapped.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _after_step(run: Run, stop: "_StopSignal") -> None:
    config = run.config
    final = run.step == config.steps
    if run.step % config.run.checkpoint_every == 0 or final or stop.asked:
        _checkpoint(run)
    if final:
        _export(run, run.out)
        _say(run, _closing_words(run))
    elif config.run.export_every and run.step % config.run.export_every == 0:
        _export(run, run.out / "exports" / f"step_{run.step:08d}")
    if stop.asked and not final:
        raise UserError(f"stopped after step {run.step:,} as asked; run the same command again to continue")


def _checkpoint(run: Run) -> None:
    state = {
        "step": run.step,
        "images_seen": run.step * run.config.batch.size,
        "seed": run.config.seed,
        "processes": run.share.processes,
        "images": len(run.images),
        "skipped": run.skipped,
        "torch": torch.__version__,
    }
    keep = run.config.run.keep_checkpoints
    save_checkpoint(run.out / "checkpoints", run.objective, run.optimizer, state, keep, run.main)


def _restore(run: Run) -> None:
    state = load_newest(run.out / "checkpoints", run.objective, run.optimizer)
    if state is None:
        if run.main:
            trim_metrics(run.out, 0)
        return
    run.step, run.skipped = state["step"], state["skipped"]
    if run.main:
        trim_metrics(run.out, run.step)
    _say(run, f"continuing after step {run.step:,} of {run.config.steps:,}")
    if state["images"] != len(run.images):
        raise UserError(
            f"the run began with {state['images']:,} images, the data now has {len(run.images):,}; use another --out, "
            "with model.init_from to start from these weights"
        )
    if state["processes"] != run.share.processes:
        logger.warning(
            "the run had %d process(es), now %d: it continues soundly with the same images per step, but rounding and "
            "stochastic depth differ, so the weights will not be bitwise those of an uninterrupted run",
            state["processes"],
            run.share.processes,
        )


def _log(run: Run, terms: dict[str, Tensor], values: StepValues, rate: float, progress: tqdm) -> None:
    names = sorted(terms)
    means = run.accelerator.reduce(torch.stack([terms[name].float() for name in names]), reduction="mean").tolist()
    record: dict[str, Any] = {"step": run.step, "images": run.step * run.config.batch.size}
    record |= dict(zip(names, means, strict=True))
    record |= {name: value for name, value in vars(values).items() if value is not None}
    record["images_per_second"] = round(rate, 3)
    if run.accelerator.device.type == "cuda":
        record["memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
    if run.main:
        append_metrics(run.out, record)
        progress.set_postfix(loss=f"{record['loss']:.4f}", lr=f"{values.lr:.2e}", step=run.step)
    if run.config.run.trackers:
        run.accelerator.log({name: value for name, value in record.items() if name != "step"}, step=run.step)


def _export(run: Run, target: Path) -> None:
    modules = run.method.exported(run.objective)
    export_models(target, modules, run.config, run.step, run.main)
    repository = run.config.run.push_to_hub
    if repository and run.main:
        run.pushes.append(push_in_background(target / "model", repository, run.step))


def _opening_words(run: Run, peak: float) -> str:
    config = run.config
    trained = sum(p.numel() for p in run.objective.parameters() if p.requires_grad)
    accumulated = f" x {run.accumulation} accumulated" if run.accumulation > 1 else ""
    return (
        f"{config.model.size}, {trained / 1e6:.1f}M trained parameters; {len(run.images):,} images; "
        f"{config.steps:,} steps of {config.batch.size} ({run.share.processes} process(es) x {run.share.images}"
        f"{accumulated}) = {config.steps * config.batch.size:,} images seen, "
        f"{config.steps * config.batch.size / len(run.images):.1f} passes; learning rate {config.optim.base_lr:g} "
        f"scaled by {config.optim.lr_rule} to {peak:.3g}; on {run.accelerator.device}, "
        f"{run.accelerator.mixed_precision if run.accelerator.mixed_precision != 'no' else 'fp32'}"
    )


def _closing_words(run: Run) -> str:
    skipped = f"; {run.skipped} unreadable images were skipped" if run.skipped else ""
    return f"done: {run.step * run.config.batch.size:,} images seen{skipped}; the model is in {run.out / 'model'}"


def _not_finite(run: Run, loss: Tensor) -> str:
    last = newest_name(run.out / "checkpoints")
    kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
    return (
        f"step {run.step + 1}: the gradient is not finite (loss {float(loss):.4g}); stopped before it reached the "
        f"weights; {kept}; try a lower optim.base_lr, a longer optim.warmup_steps, or --run.precision fp32"
    )


def _say(run: Run, text: str) -> None:
    if run.main:
        print(text, file=sys.stderr, flush=True)


class _StopSignal:
    """Remembers SIGTERM and the first Ctrl-C, so that the step in progress is finished and saved."""

    def __init__(self) -> None:
        self.asked = False
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, number: int, _: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def restore(self) -> None:
        """Put the handlers from before back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
