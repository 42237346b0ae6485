"""Sets up device, precision and trackers through accelerate, and refuses devices that are not available.

It also speeds up steps on a CPU.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from biovfm_hf.errors import UserError
from biovfm_hf.memory import keep_freed_memory
from biovfm_hf.modeling_biovfm import BioVFMAttention

from ..settings.config import TrainConfig

_GPU_SETTINGS = (
    "MIXED_PRECISION",
    "USE_FSDP",
    "USE_DEEPSPEED",
)  # accelerate launch passes them as ACCELERATE_...


def check_devices(config: TrainConfig) -> None:
    """Refuse a run that asks for missing GPUs.

    Raises:
        UserError: there is no GPU, there are fewer than processes on this machine, or one lacks bf16.
    """
    if config.run.device == "cpu":
        return
    if not torch.cuda.is_available():
        if config.run.device == "cuda":
            raise UserError("run.device is cuda but torch sees no GPU here; use --run.device cpu, or check the driver")
        if _launched_for_gpus():
            raise UserError(
                "accelerate was launched for GPUs but torch sees none here; check the driver and that torch is built "
                "for CUDA, or train on the CPU with --run.device cpu"
            )
        return
    processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if processes > gpus:
        raise UserError(f"{processes} processes on this machine, which has {gpus} GPU(s); launch one process for each")
    if config.run.precision == "bf16" and not torch.cuda.is_bf16_supported():
        raise UserError(f"{torch.cuda.get_device_name()} has no bf16; use --run.precision fp32")


def _launched_for_gpus() -> bool:
    """Whether `accelerate launch` was given settings for GPUs, such as those in training/launch."""
    settings = {name: os.environ.get(f"ACCELERATE_{name}", "no").lower() for name in _GPU_SETTINGS}
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1", "yes")
    return not on_cpu and any(value not in ("no", "false") for value in settings.values())


def make_accelerator(config: TrainConfig, out: Path) -> Any:
    """The `Accelerator` for this run: device, precision, processes, trackers."""
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.utils import GradientAccumulationPlugin

    cpu = config.run.device == "cpu" or not torch.cuda.is_available()
    natively = not cpu and torch.cuda.is_bf16_supported(including_emulation=False)
    automatic = "bf16" if natively else "no"
    return Accelerator(
        cpu=cpu,
        mixed_precision={"fp32": "no", "bf16": "bf16", "auto": automatic}[config.run.precision],
        log_with=config.run.trackers or None,
        project_dir=out,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # the loop divides losses by itself
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )


@contextmanager
def failing_together(accelerator: Any) -> Iterator[None]:
    """Guard work of the writing process: if it fails, all processes fail with its message, not with a lost connection.

    All processes must enter this context, and the work may fail only where it no longer needs the other processes.

    Raises:
        UserError: on the other processes.
    """
    from accelerate.utils import gather_object

    failure: Exception | None = None
    try:
        yield
    except (UserError, OSError, SafetensorError) as error:
        failure = error
    failures = [message for message in gather_object([str(failure) if failure else None]) if message is not None]
    if failure:
        raise failure
    if failures:
        raise UserError(failures[0])


def set_sharded_precision(accelerator: Any) -> None:
    """Under FSDP2, compute on bfloat16 copies of the weights, without casting inputs and outputs.

    Accelerate's own policy also casts the batch (MAE's target pixels and its masking noise, which then has ties), the
    losses (to bfloat16's 8 bits) and the sums of gradients, which DINOv2 takes in float32 for its heads.
    """
    if accelerator.is_fsdp2 and accelerator.mixed_precision == "bf16":
        from torch.distributed.fsdp import MixedPrecisionPolicy

        accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )


def speed_up_cpu(objective: nn.Module, bf16: bool) -> None:
    """Make the steps of `objective` on a CPU faster; results change only by rounding.

    The process keeps the memory of freed activations, because returning it and zeroing it again took a tenth of a
    step. Attention in bfloat16 is computed as matrix products, because torch's fused version takes 2 to 7 times as
    long backwards; in float32 the fused one is faster.
    """
    keep_freed_memory()
    for module in objective.modules():
        if bf16 and isinstance(module, BioVFMAttention):
            module.config._attn_implementation = "eager"
