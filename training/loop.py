"""The training loop, the same for every objective: data, steps, logs, checkpoints, export.

Every random number is a function of the seed and the step (or the image's position). So a killed run continues bit
for bit on a CPU, from only the tensors and the step number of a checkpoint.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from biovfm_hf.errors import UserError
from biovfm_hf.writing.files import is_disk_full

from .data.augment_batch import apply_drawn_looks
from .data.batches import CropBatches, choose_workers, loader, normalise
from .data.images import Images
from .estimate import peak_flops
from .objectives.method import Method
from .optimizer import apply_schedule, clip_per_submodule
from .run.checkpoint import model_tensors, newest_name, save_checkpoint, what_is_kept
from .run.device import failing_together
from .run.export import export_models, push_in_background
from .run.folder import append_metrics, write_crop_sheet
from .run.profile import profiled
from .run.watch import measure
from .schedule import StepValues
from .settings.config import TrainConfig
from .setup import Run, say, start

logger = logging.getLogger(__name__)

_WARNINGS = 10  # unreadable images reported one by one


def train(config: TrainConfig, method: Method[Any, Any], out: Path, images: Images) -> None:
    """Run, or continue, the pretraining that `config` describes, on `images`, in the run folder `out`.

    Raises:
        UserError: anything that the user can correct; nothing was trained, or the message names the last good
            checkpoint.
    """
    run = start(config, method, out, images)
    stop = _StopSignal()
    try:
        if run.step < run.config.steps:
            _train_steps(run, stop)
        elif (out / "model").is_dir():
            say(run, f"{out} is finished: {run.step:,} steps; the model is in {out / 'model'}{_not_pushed(run)}")
        else:
            _finish(run)  # killed between the last checkpoint and the export
    except torch.OutOfMemoryError as error:
        raise UserError(_out_of_memory(run)) from error
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and not is_disk_full(error):
            raise
        kept = what_is_kept(out / "checkpoints")
        raise UserError(f"cannot write to {out}: {error}; {kept}; make room and run the same command again") from error
    finally:
        stop.restore()
        for push in run.pushes:
            push.join()
        run.accelerator.end_training()
        if run.lock:
            run.lock.close()


def _train_steps(run: Run, stop: "_StopSignal") -> None:
    config = run.config
    batches = _open_batches(run)
    progress = tqdm(
        total=config.steps * config.batch.size,
        initial=run.step * config.batch.size,
        unit="img",
        unit_scale=True,
        desc=f"{config.title} pretraining",
        disable=not (run.main and sys.stderr.isatty()),  # a log gets whole lines, see `_log_line`
        mininterval=0.5,
    )
    recorded = profiled(run.out, config.run.profile if run.main else 0)
    with closing(batches), progress, logging_redirect_tqdm(), recorded as record_step:
        if run.step == 0:
            _watch_start(run)
        clock, since = time.perf_counter(), run.step
        while run.step < config.steps:
            values = run.schedule.at(run.step)
            terms = one_step(run, batches, values)
            run.step += 1
            record_step()
            progress.update(config.batch.size)
            if _due(run, config.run.log_every) or _due(run, config.watch.every):
                now = time.perf_counter()
                rate = (run.step - since) * config.batch.size / (now - clock)
                _log(run, terms, values, rate, progress)
                clock, since = time.perf_counter(), run.step
            _after_step(run, stop.asked_anywhere(run))


def _due(run: Run, every: int) -> bool:
    return every > 0 and (run.step % every == 0 or run.step == run.config.steps)


def _open_batches(run: Run) -> Generator[dict[str, Any], None, None]:
    """This process's batches, from the run's current step; also draws the sample sheet."""
    config = run.config
    dataset = CropBatches(run.images, run.order, config, run.share, run.method.batch_extra(config))
    with failing_together(run.accelerator):
        if run.main and (run.step == 0 or not (run.out / "crops.png").is_file()):
            write_crop_sheet(run.out / "crops.png", dataset)
    workers = choose_workers(config.data, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    dataset.set_cache(config.data.cache_mib // max(workers, 1))
    numbers = range(run.step * run.accumulation, config.steps * run.accumulation)
    return loader(dataset, numbers, workers, pin=run.accelerator.device.type == "cuda")


def one_step(run: Run, batches: Iterator[dict[str, Any]], values: StepValues) -> dict[str, Tensor]:
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
    _reshard(run.wrapped)
    run.method.after_step(run.objective, values)
    return {**sums, "grad_norm": total, **{f"grad_norm_{name}": norm for name, norm in norms.items()}}


def _note_skipped(run: Run, skipped: list[tuple[int, int, str]]) -> None:
    """Count unreadable images, and report each once, up to a limit."""
    run.skipped += len(skipped)
    for index, other, reason in skipped:
        if index not in run.unreadable and len(run.unreadable) < _WARNINGS:
            last = "; more are only counted" if len(run.unreadable) == _WARNINGS - 1 else ""
            logger.warning("skipped: %s; image %d takes the place of %d%s", reason, other, index, last)
        run.unreadable.add(index)


def _skipped_everywhere(run: Run) -> int:
    """How often unreadable images were skipped in the whole run, over all processes. All processes must call this."""
    return run.skipped_before + sum(gather_object([run.skipped]))


def _to_device(run: Run, batch: dict[str, Any]) -> dict[str, Tensor]:
    """Move a batch, note its skipped images, and turn 8-bit crops into normalised floats."""
    _note_skipped(run, batch.pop("skipped"))
    device, augment = run.accelerator.device, run.config.augment
    moved = {
        name: tensor if name.endswith("_looks") else tensor.to(device, non_blocking=True)
        for name, tensor in batch.items()
    }
    batch = apply_drawn_looks(moved, augment)
    for name in ("global_crops", "local_crops", "anchor_crops"):
        if name in batch:
            batch[name] = normalise(batch[name], augment.mean, augment.std)
    return batch


def _step_seed(run: Run, part: int) -> int:
    """The seed of the model's own random numbers (stochastic depth, MAE's noise) in one pass of one process."""
    halves = np.random.SeedSequence((run.config.seed, run.step, part, run.share.rank)).generate_state(2)
    return int(halves[0]) << 31 | int(halves[1]) >> 1


def _reshard(wrapped: nn.Module) -> None:
    """Under FSDP2, free gathered parameters, or an in-place update of them would be silently lost."""
    for module in wrapped.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _after_step(run: Run, stop: bool) -> None:
    config = run.config
    final = run.step == config.steps
    if _due(run, config.run.checkpoint_every) or stop:
        _checkpoint(run)
    if final:
        _finish(run)
    elif _due(run, config.run.export_every):
        _export(run, run.out / "exports" / f"step_{run.step:08d}")
    if stop and not final:
        raise UserError(f"stopped after step {run.step:,} as asked; run the same command again to continue")


def _finish(run: Run) -> None:
    _export(run, run.out)
    count = _skipped_everywhere(run)
    skipped = f"; unreadable images were skipped {count} time(s)" if count else ""
    images = run.step * run.config.batch.size
    say(run, f"done: {images:,} images seen{skipped}; the model is in {run.out / 'model'}")


def _checkpoint(run: Run) -> None:
    state = {
        "step": run.step,
        "images_seen": run.step * run.config.batch.size,
        "seed": run.config.seed,
        "processes": run.share.processes,
        "images_a_pass": run.share.images,
        "images": len(run.images),
        "skipped": _skipped_everywhere(run),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "frozen": run.method.frozen_mark(run.objective),
    }
    keep = run.config.run.keep_checkpoints
    with failing_together(run.accelerator):
        save_checkpoint(run.out / "checkpoints", run.objective, run.optimizer, state, keep, run.main)


def _log(run: Run, terms: dict[str, Tensor], values: StepValues, rate: float, progress: tqdm) -> None:
    record: dict[str, Any] = {"step": run.step, "images": run.step * run.config.batch.size}
    record |= _mean_over_processes(terms)
    record |= {name: value for name, value in vars(values).items() if value is not None}
    record["images_per_second"] = round(rate, 3)
    record |= _efficiency(run, rate)
    if _due(run, run.config.watch.every):
        record |= _measure(run)
    if run.main:
        append_metrics(run.out, record)
        if progress.disable:
            print(_log_line(run.step, run.config, record), file=sys.stderr, flush=True)
        progress.set_postfix(loss=f"{record['loss']:.4f}", lr=f"{values.lr:.2e}", step=run.step)
        _raise_alarm(run, record)
    _track(run, record)


def _log_line(step: int, config: TrainConfig, record: dict[str, Any]) -> str:
    """A step's loss, rate and remaining time in one whole line, for logs."""
    rate = record["images_per_second"]
    left = timedelta(seconds=round((config.steps - step) * config.batch.size / max(rate, 1e-9)))
    return (
        f"step {step:,}/{config.steps:,}  loss {record['loss']:.4f}  lr {record['lr']:.2e}  "
        f"{rate:,.1f} images/s  left {left}"
    )


def _track(run: Run, record: dict[str, Any]) -> None:
    if run.config.run.trackers:
        run.accelerator.log({name: value for name, value in record.items() if name != "step"}, step=record["step"])


def _mean_over_processes(terms: dict[str, Tensor]) -> dict[str, float]:
    """Each scalar's mean over the processes that have it (one may lack a masked patch, for instance)."""
    here = dict(zip(terms, torch.stack([value.float() for value in terms.values()]).tolist(), strict=True))
    everywhere = gather_object([here])
    names = sorted({name for part in everywhere for name in part})
    by_name = {name: [part[name] for part in everywhere if name in part] for name in names}
    return {name: sum(values) / len(values) for name, values in by_name.items()}


def _efficiency(run: Run, rate: float) -> dict[str, float]:
    """Memory (on a GPU the peak so far, on a CPU this process's current use), and the share of the GPU's peak rate
    that the model's operations reach, if known.
    """
    if run.accelerator.device.type != "cuda":
        return {"memory_gib": round(psutil.Process().memory_info().rss / 2**30, 3)}
    record = {"memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3)}
    peak = peak_flops(torch.cuda.get_device_name()) if run.accelerator.mixed_precision == "bf16" else None
    if peak:
        record["mfu"] = round(rate / run.share.processes * run.flops_per_image / peak, 4)
    return record


def _measure(run: Run) -> dict[str, float]:
    """RankMe and kNN accuracy of the current encoder; empty on processes that do not write."""
    encoder = run.method.exported(run.objective)["model"]
    tensors = model_tensors(encoder)
    if run.watch is None or not run.main:
        return {}
    return measure(run.watch, run.config, encoder, tensors, run.method.features, run.accelerator.device)


def _watch_start(run: Run) -> None:
    """Measure random features, or those that training starts from: the baseline for progress."""
    if run.watch is None:
        return
    record = {"step": 0, "images": 0, **_measure(run)}
    if run.main:
        append_metrics(run.out, record)
        run.history.add(record)
    _track(run, record)


def _raise_alarm(run: Run, record: dict[str, Any]) -> None:
    """Warn of a collapse and of patch tokens that get worse, once of each."""
    run.history.add(record)
    config = run.config
    settled = max(config.step_count(config.optim.warmup_steps), 50)
    for message in run.history.warnings(settled, bool(config.model.init_from), run.method.collapse):
        logger.warning("%s", message)


def _export(run: Run, target: Path) -> None:
    modules = run.method.exported(run.objective)
    with failing_together(run.accelerator):
        export_models(target, modules, run.config, run.step, run.flops_per_image, run.lineages, run.main)
    repository = run.config.run.push_to_hub
    if repository and run.main:
        run.pushes.append(push_in_background(target / "model", repository, run.step, list(run.pushes)))


def _not_pushed(run: Run) -> str:
    """How to push a model that was finished before; pushing it again could replace a card written since."""
    repository = run.config.run.push_to_hub
    return f"; it is not pushed again: hf upload {repository} {run.out / 'model'} does that" if repository else ""


def _not_finite(run: Run, loss: Tensor) -> str:
    checkpoints = run.out / "checkpoints"
    onward = f" (--model.init_from {run.out} starts from the checkpoint)" if newest_name(checkpoints) else ""
    return (
        f"step {run.step + 1}: the gradient is not finite (loss {float(loss):.4g}); stopped before it reached the "
        f"weights; {what_is_kept(checkpoints)}; try --run.precision fp32, or, with another --out, a lower "
        f"optim.base_lr or a longer optim.warmup_steps{onward}"
    )


def _out_of_memory(run: Run) -> str:
    return (
        f"step {run.step + 1}: the GPU has too little memory for {run.share.images} images a pass; halve "
        "batch.per_process (a step then takes more passes), or add --run.activation_checkpointing true"
    )


class _StopSignal:
    """Notes SIGTERM and the first Ctrl-C, so that the current step is finished and saved."""

    def __init__(self) -> None:
        self.asked = False
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, number: int, _: object) -> None:
        if self.asked and number == signal.SIGINT:  # a second SIGTERM is normal: scheduler and launcher each send one
            raise KeyboardInterrupt
        self.asked = True

    def asked_anywhere(self, run: Run) -> bool:
        """Whether any process was asked, so that all stop after the same step."""
        if run.share.processes == 1:
            return self.asked
        asked = torch.tensor(float(self.asked), device=run.accelerator.device)
        return bool(run.accelerator.reduce(asked, reduction="sum") > 0)

    def restore(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
