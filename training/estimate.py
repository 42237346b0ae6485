"""Estimates a run's cost before it starts: the resolved configuration, parameters, memory and compute."""

import math
import os
from functools import partial
from typing import Any

import psutil
import torch
from torch import nn

from biovfm_hf.errors import UserError
from biovfm_hf.flops import CARD_PEAK_FLOPS, PEAK_FLOPS

from .objectives.initial import with_architecture
from .objectives.method import Method
from .run.checks import images_per_pass
from .schedule import scaled_learning_rate
from .settings.architecture import biovfm_config
from .settings.augment import check_augment
from .settings.config import TrainConfig
from .settings.typed import flat, plain, to_yaml

_UTILISATION = 0.4  # share of the peak that a ViT reaches with fast enough data
_KEPT = {"bf16": 40, "fp32": 70}  # bytes per token, block and feature that autograd keeps, as counted on a ViT-S
# 256-pixel images that one core decodes and crops per second: colour and grey PNG, as in docs and benchmark
_LOADER_RATES = (215, 501)
_LOADER_CROPS = 10  # two global and eight local ones
_GPUS = (8, 32)
_FSDP = 8  # GPUs over which launch/fsdp2_8gpu.yaml spreads the states


def peak_flops(device_name: str) -> float | None:
    """The peak bf16 rate of a GPU by its name, or None when it is not in the table."""
    known = {**CARD_PEAK_FLOPS, **PEAK_FLOPS}  # a card first: its name contains that of the module
    return next((rate for name, rate in known.items() if name in device_name), None)


def memory_gib(
    method: Method[Any, Any], config: TrainConfig, model_config: Any, objective: nn.Module, images: int
) -> tuple[float, float]:
    """GiB of one process for states (fp32 weights, gradients, Adam, teacher; with bf16 also copies of the weights),
    and for a pass of `images` images.

    A pass needs what autograd keeps, `_KEPT` bytes x D per token and block (with activation checkpointing each
    block's fp32 input, and all of one block), and what the objective keeps besides its encoder.
    """
    trained = trained_parameters(objective)
    full = config.run.precision == "fp32" or config.run.device == "cpu"
    block_bytes = partial(_block_bytes, full=full, checkpointing=config.run.activation_checkpointing)
    width, kept = model_config.hidden_size, 1 - float(model_config.drop_path_rate)
    pass_bytes = method.tokens_per_image(config, model_config) * width * kept
    pass_bytes *= block_bytes(model_config.num_hidden_layers)
    pass_bytes += method.other_bytes(config, model_config, block_bytes, full)
    states = (16 if full else 18) * trained + 4 * (_count(objective) - trained)
    return states / 2**30, images * pass_bytes / 2**30


def _block_bytes(blocks: int, full: bool, checkpointing: bool) -> int:
    kept = _KEPT["fp32" if full else "bf16"]
    return 4 * blocks + kept if checkpointing else kept * blocks


def image_flops(method: Method[Any, Any], config: TrainConfig, model_config: Any, objective: nn.Module) -> float:
    """Operations of one image in a step, those of frozen networks among them."""
    return method.flops_per_image(config, model_config) + method.frozen_flops(config, objective)


def describe(config: TrainConfig, method: Method[Any, Any]) -> str:
    """The resolved configuration as YAML, followed by the estimates as comments.

    Raises:
        UserError: the configuration cannot work.
    """
    config = method.resolved(with_architecture(config))
    model_config = biovfm_config(config)
    check_augment(config.augment, model_config.patch_size)
    objective = _outline(method, config, model_config)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    images = images_per_pass(config, processes)
    states, activations = memory_gib(method, config, model_config, objective, images)
    per_image = image_flops(method, config, model_config, objective)
    seen = config.steps * config.batch.size
    peak = scaled_learning_rate(config.optim.base_lr, config.batch.size, config.optim.lr_rule)
    hours = per_image * seen / (PEAK_FLOPS["H100"] * _UTILISATION) / 3600
    encoder = _count(method.encoder(objective))
    trained = trained_parameters(objective)
    total = _count(objective)
    lines = [
        f"encoder           {encoder / 1e6:,.2f}M parameters",
        f"trained           {trained / 1e6:,.2f}M parameters (with heads or decoder)",
        f"held in memory    {total / 1e6:,.2f}M parameters ({(total - trained) / 1e6:,.2f}M of them are not trained)",
        f"learning rate     {config.optim.base_lr:g} scaled by {config.optim.lr_rule} to {peak:.4g}",
        f"images seen       {seen:,} ({config.steps:,} steps of {config.batch.size:,})",
        f"states            about {states:.1f} GiB on every GPU, {states / _FSDP:.1f} with FSDP over {_FSDP} GPUs",
        f"activations       about {activations:.1f} GiB on every GPU for {images} images a pass",
        f"passes a step     {_passes(config, {1, 8, 32, processes})}",
        f"compute           {per_image / 1e9:,.1f} GFLOP an image, {per_image * seen:.3g} FLOP in all",
        f"time              {_duration(hours)} of one H100 at {_UTILISATION:.0%} of its bf16 peak, "
        + ", ".join(f"{_duration(hours / count)} on {count}" for count in _GPUS),
        *_feeding(PEAK_FLOPS["H100"] * _UTILISATION / per_image, config),
        _disk(config.run.keep_checkpoints, total, trained),
    ]
    if config.epochs is not None:
        lines.append(
            f"epochs            {config.epochs:g}, in steps once the data is known; these figures are for steps"
        )
    return to_yaml(config) + "\n" + "\n".join(f"# {line}" for line in lines)


def _feeding(rate: float, config: TrainConfig) -> list[str]:
    """Images that GPUs consume at `rate` images/s each, and the loader cores needed."""
    most, fewest = (math.ceil(rate / per_core) for per_core in _LOADER_RATES)
    rates = ", ".join(f"{rate * count:,.0f} on {count}" for count in _GPUS)
    crops = config.augment.global_count + config.augment.local_count
    bound = "about" if crops == _LOADER_CROPS else "at most" if crops < _LOADER_CROPS else "at least"
    measured = f"measured with {_LOADER_CROPS} crops of a 256-pixel PNG"
    taken = "" if crops == _LOADER_CROPS else f"; this config takes {crops}"
    return [
        f"images consumed   about {rate:,.0f} images/s on each H100, {rates}",
        f"loader cores      {bound} {fewest:,} to {most:,} for each H100 ({measured}{taken})",
    ]


def _disk(checkpoints: int, total: int, trained: int) -> str:
    """Disk space of checkpoints: each holds all `total` parameters and Adam's two moments of the `trained` ones."""
    one = (4 * total + 8 * trained) / 2**30
    return (
        f"checkpoints       about {one:.1f} GiB each, {(checkpoints + 1) * one:.1f} GiB of disk for the {checkpoints} "
        "kept and the one that is written"
    )


def check_memory(method: Method[Any, Any], config: TrainConfig, model_config: Any) -> None:
    """Refuse a model whose weights and optimiser alone exceed this machine's memory, before anything is allocated.

    Raises:
        UserError: states how much memory is needed, and what reduces it.
    """
    on_gpu = config.run.device != "cpu" and torch.cuda.is_available()
    shared = int(os.environ.get("WORLD_SIZE", "1")) if os.environ.get("ACCELERATE_USE_FSDP") == "true" else 1
    room = torch.cuda.get_device_properties(0).total_memory if on_gpu else psutil.virtual_memory().total
    needed = memory_gib(method, config, model_config, _outline(method, config, model_config), 0)[0] / shared
    if needed > room / 2**30:
        fewer = "".join(f"fewer {key}, " for key in flat(plain(config)) if key.endswith(".prototypes"))
        raise UserError(
            f"weights, gradients and Adam's moments take {needed:,.1f} GiB, this "
            f"{'GPU' if on_gpu else 'machine'} has {room / 2**30:,.1f}; choose a smaller model.size, {fewer}"
            "or spread them with launch/fsdp2_8gpu.yaml"
        )


def _outline(method: Method[Any, Any], config: TrainConfig, model_config: Any) -> nn.Module:
    """The objective without its tensors' values, which takes no memory."""
    with torch.device("meta"):
        return method.build(config.without_weights(), model_config)


def _duration(hours: float) -> str:
    if hours > 2:
        return f"about {hours:,.0f} hours"
    return f"about {60 * hours:.0f} minutes" if hours > 1 / 30 else "less than 2 minutes"


def _passes(config: TrainConfig, counts: set[int]) -> str:
    """How many forward passes make a step on several numbers of processes."""
    size = config.batch.size
    together = {count: images_per_pass(config, count) * count for count in sorted(counts) if count <= size}
    even = {count: size // images for count, images in together.items() if size % images == 0}
    return ", ".join(f"{passes} on {count} GPU{'s' if count > 1 else ''}" for count, passes in even.items())


def trained_parameters(objective: nn.Module) -> int:
    """How many parameters the optimiser changes, including heads or decoder."""
    return sum(parameter.numel() for parameter in objective.parameters() if parameter.requires_grad)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
