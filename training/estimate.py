"""What a run will take, before it is started: the resolved configuration, parameters, memory and compute."""

import os
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .config_file import to_yaml
from .data.augment import check_augment
from .method import Method
from .schedule import scaled_learning_rate
from .settings.config import TrainConfig, biovfm_config

_UTILISATION = 0.4  # share of the peak that a well-fed ViT reaches
_KEPT = {"bf16": 40, "fp32": 70}  # bytes per token, block and feature that autograd keeps, as counted on a ViT-S
_FSDP = 8  # GPUs that training/launch/fsdp2_8gpu.yaml spreads the states over
# Peak dense bf16 rates in FLOP/s, from the makers' data sheets
PEAK_FLOPS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "L40S": 362e12, "V100": 125e12}


def peak_flops(device_name: str) -> float | None:
    """The peak bf16 rate of a GPU by its name, or None when it is not in the table."""
    return next((rate for name, rate in PEAK_FLOPS.items() if name in device_name), None)


def tokens_per_image(config: TrainConfig, model_config: Any) -> tuple[float, float]:
    """Tokens of one image that pass the trained encoder, and the teacher."""
    extra = 1 + model_config.num_register_tokens
    augment, patch = config.augment, model_config.patch_size
    large, small = (augment.global_size // patch) ** 2, (augment.local_size // patch) ** 2
    if config.method == "mae":
        return int(large * (1 - model_config.mask_ratio)) + extra, 0
    teacher = augment.global_count * (large + extra)
    return teacher + augment.local_count * (small + extra), teacher


def flops_per_image(config: TrainConfig, model_config: Any, objective: Any) -> float:
    """Floating-point operations of one image's forward and backward passes.

    Two per weight and token forward, four backward, and 4 N D per token and block for attention; stochastic depth is
    taken off the blocks, what the last block leaves out is not. Heads are counted per class token and masked patch.
    """
    student, teacher = tokens_per_image(config, model_config)
    blocks, width = model_config.num_hidden_layers, model_config.hidden_size
    large = (config.augment.global_size // model_config.patch_size) ** 2
    weights = _count(_encoder(objective).layers)
    per_token = 2 * weights + 4 * blocks * width * (large if config.method == "dino" else large / 4)
    kept = 1 - float(model_config.drop_path_rate)
    total = 3 * per_token * kept * student + per_token * teacher
    if config.method == "mae":
        decoder = _count(objective.model.decoder)
        attention = 4 * model_config.decoder_num_hidden_layers * model_config.decoder_hidden_size * large
        return total + 3 * (2 * decoder + attention) * (large + 1)
    head = _count(objective.student.dino_head)
    masked = masked_patches(config, large)
    rows = config.augment.global_count + config.augment.local_count + masked
    return total + 2 * head * (3 * rows + config.augment.global_count + masked)


def memory_gib(config: TrainConfig, model_config: Any, objective: Any, images: int) -> tuple[float, float]:
    """GiB of one process for states (fp32 weights, gradients, Adam, teacher; copies of the weights in bf16 where
    that is computed in), and for a pass of `images` images.

    The latter are what autograd keeps, `_KEPT` bytes x D per token and block (with activation checkpointing each
    block's fp32 input, and all of one block), and for DINO the teacher's scores and targets.
    """
    trained = trained_parameters(objective)
    total = _count(objective)
    full = config.run.precision == "fp32" or config.run.device == "cpu"
    blocks, width = model_config.num_hidden_layers, model_config.hidden_size
    student, _ = tokens_per_image(config, model_config)
    kept = 1 - float(model_config.drop_path_rate)
    pass_bytes = student * width * kept * _block_bytes(blocks, full, config.run.activation_checkpointing)
    large = (config.augment.global_size // model_config.patch_size) ** 2
    if config.method == "mae":
        depth, width = model_config.decoder_num_hidden_layers, model_config.decoder_hidden_size
        pass_bytes += (large + 1) * width * _block_bytes(depth, full, config.run.activation_checkpointing)
    else:
        prototypes = config.dino.ibot_prototypes if config.dino.ibot_separate_head else config.dino.prototypes
        scores = config.augment.global_count * config.dino.prototypes + masked_patches(config, large) * prototypes
        pass_bytes += scores * (8 if full else 6)
    return ((16 if full else 18) * trained + 4 * (total - trained)) / 2**30, images * pass_bytes / 2**30


def _block_bytes(blocks: int, full: bool, checkpointing: bool) -> int:
    kept = _KEPT["fp32" if full else "bf16"]
    return 4 * blocks + kept if checkpointing else kept * blocks


def masked_patches(config: TrainConfig, patches: int) -> float:
    """Patches of one image that iBOT hides, on average, where a global crop has `patches`."""
    return config.augment.global_count * config.mask.probability * sum(config.mask.ratio) / 2 * patches


def describe(config: TrainConfig, method: Method) -> str:
    """The resolved configuration as YAML, followed by the estimates as comments.

    Raises:
        UserError: the configuration cannot work.
    """
    model_config = biovfm_config(config)
    check_augment(config.augment, model_config.patch_size)
    with torch.device("meta"):
        objective = method.build(replace(config, model=replace(config.model, init_from=None)), model_config)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    images = images_per_pass(config, processes)
    states, activations = memory_gib(config, model_config, objective, images)
    per_image = flops_per_image(config, model_config, objective)
    seen = config.steps * config.batch.size
    peak = scaled_learning_rate(config.optim.base_lr, config.batch.size, config.optim.lr_rule)
    hours = per_image * seen / (PEAK_FLOPS["H100"] * _UTILISATION) / 3600
    encoder = _count(_encoder(objective))
    trained = trained_parameters(objective)
    total = _count(objective)
    lines = [
        f"encoder           {encoder / 1e6:,.2f}M parameters",
        f"trained           {trained / 1e6:,.2f}M parameters (with heads or decoder)",
        f"held in memory    {total / 1e6:,.2f}M parameters (with the teacher)",
        f"learning rate     {config.optim.base_lr:g} scaled by {config.optim.lr_rule} to {peak:.4g}",
        f"images seen       {seen:,} ({config.steps:,} steps of {config.batch.size:,})",
        f"states            about {states:.1f} GiB on every GPU, {states / _FSDP:.1f} with FSDP over {_FSDP} GPUs",
        f"activations       about {activations:.1f} GiB on every GPU for {images} images a pass",
        f"passes a step     {_passes(config, {1, 8, 32, processes})}",
        f"compute           {per_image / 1e9:,.1f} GFLOP an image, {per_image * seen:.3g} FLOP in all",
        f"time              {_in_words(hours)} of one H100 at {_UTILISATION:.0%} of its bf16 peak",
    ]
    if config.epochs is not None:
        lines.append(
            f"epochs            {config.epochs:g}, in steps once the data is known; these figures are for steps"
        )
    return to_yaml(config) + "\n" + "\n".join(f"# {line}" for line in lines)


def images_per_pass(config: TrainConfig, processes: int) -> int:
    """Images that one of `processes` sees in a forward pass: `batch.per_process`, or its share of a small batch."""
    return min(config.batch.per_process or config.batch.size, config.batch.size // processes)


def _in_words(hours: float) -> str:
    if hours > 2:
        return f"about {hours:,.0f} hours"
    return f"about {60 * hours:.0f} minutes" if hours > 1 / 30 else "less than 2 minutes"


def _passes(config: TrainConfig, counts: set[int]) -> str:
    """How many forward passes make a step on several numbers of processes."""
    size = config.batch.size
    together = {count: images_per_pass(config, count) * count for count in sorted(counts) if count <= size}
    even = {count: size // images for count, images in together.items() if size % images == 0}
    return ", ".join(f"{passes} on {count} GPU{'s' if count > 1 else ''}" for count, passes in even.items())


def _encoder(objective: Any) -> Any:
    return objective.student.backbone if hasattr(objective, "student") else objective.model.biovfm


def trained_parameters(objective: nn.Module) -> int:
    """How many parameters the optimiser changes, those of heads or decoder among them."""
    return sum(parameter.numel() for parameter in objective.parameters() if parameter.requires_grad)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
