"""The shipped DINO recipes against DINOv2's own files, key by key; docs/pretraining.md lists what differs."""

from pathlib import Path
from typing import Any

import pytest

from biovfm_hf import BioVFMConfig
from biovfm_hf.flops import Architecture, Crops, PrototypeHeads, step_flops
from biovfm_hf.front_door import counted_objectives, recipe_flops
from training.config_file import load_config, shipped_configs
from training.settings.architecture import biovfm_config
from training.settings.typed import flat, plain

PAGE = Path(__file__).parents[2] / "docs" / "pretraining.md"
# dinov2/configs/ssl_default_config.yaml with train/vitl16_short.yaml, by our names; steps are 1,250 an epoch
SHORT: dict[str, Any] = {
    "steps": 125_000,
    "batch.size": 2048,
    "batch.per_process": 64,
    "model.drop_path_rate": 0.3,
    "model.layerscale_value": 1e-5,
    "model.interpolate_offset": 0.1,
    "model.interpolate_antialias": False,
    "model.num_register_tokens": 0,
    "model.qkv_bias": True,
    "model.patch_size": 16,
    "model.ffn_type": "mlp",
    "optim.base_lr": 0.004,
    "optim.lr_rule": "sqrt_1024",
    "optim.min_lr": 1e-6,
    "optim.warmup_steps": 12_500,
    "optim.weight_decay": 0.04,
    "optim.weight_decay_end": 0.4,
    "optim.layerwise_decay": 0.9,
    "optim.patch_embed_lr_mult": 0.2,
    "optim.clip_grad": 3.0,
    "optim.betas": [0.9, 0.999],
    "optim.freeze_last_layer_steps": 1_250,
    "teacher.momentum": 0.992,
    "teacher.momentum_end": 1.0,
    "teacher.temperature": 0.07,
    "teacher.warmup_temperature": 0.04,
    "teacher.temperature_warmup_steps": 37_500,
    "dino.prototypes": 65_536,
    "dino.hidden": 2048,
    "dino.bottleneck": 256,
    "dino.layers": 3,
    "dino.ibot_separate_head": False,
    "dino.centering": "centering",
    "dino.student_temp": 0.1,
    "dino.center_momentum": 0.9,
    "dino.dino_weight": 1.0,
    "dino.ibot_weight": 1.0,
    "dino.koleo_weight": 0.1,
    "mask.probability": 0.5,
    "mask.ratio": [0.1, 0.5],
    "augment.global_count": 2,
    "augment.global_size": 224,
    "augment.global_scale": [0.32, 1.0],
    "augment.local_count": 8,
    "augment.local_size": 96,
    "augment.local_scale": [0.05, 0.32],
    "augment.aspect": [3 / 4, 4 / 3],
    "augment.horizontal_flip": 0.5,
    "augment.vertical_flip": 0.0,
    "augment.jitter_p": 0.8,
    "augment.brightness": 0.4,
    "augment.contrast": 0.4,
    "augment.saturation": 0.2,
    "augment.hue": 0.1,
    "augment.gamma": [1.0, 1.0],
    "augment.grayscale_p": 0.2,
    "augment.blur_p": [1.0, 0.1, 0.5],
    "augment.blur_sigma": [0.1, 2.0],
    "augment.blur_kernel": 9,
    "augment.solarize_p": [0.0, 0.2, 0.0],
    "augment.solarize_threshold": 128,
    "augment.mean": [0.485, 0.456, 0.406],
    "augment.std": [0.229, 0.224, 0.225],
    "run.precision": "fp16",
    "run.compile": False,
    "run.activation_checkpointing": False,
    "run.checkpoint_every": 3_750,
    "run.keep_checkpoints": 3,
    "run.export_every": 12_500,
}
# train/vitl14.yaml and vitg14.yaml, where they differ from the above
LONG: dict[str, Any] = {
    **SHORT,
    "steps": 625_000,
    "batch.size": 3072,
    "batch.per_process": 32,
    "model.drop_path_rate": 0.4,
    "model.patch_size": 14,
    "model.ffn_type": "swiglu",
    "optim.base_lr": 2e-4,
    "optim.warmup_steps": 100_000,
    "optim.weight_decay_end": 0.2,
    "optim.layerwise_decay": 1.0,
    "teacher.momentum": 0.994,
    "dino.centering": "sinkhorn_knopp",
    "dino.prototypes": 131_072,
    "dino.bottleneck": 384,
    "dino.ibot_separate_head": True,
    "dino.ibot_prototypes": 131_072,
    "dino.ibot_hidden": 2048,
    "dino.ibot_bottleneck": 256,
    "dino.ibot_layers": 3,
    "augment.local_size": 98,
}
RECIPES = {
    **{f"dino_vit_{size}": SHORT for size in ("tiny", "small", "base", "large")},
    "dino_vit_huge": LONG,
    "dino_vit_giant": {**LONG, "batch.per_process": 12},
}
WHY = {
    "augment.blur_p": "as its weights were trained: its code blurs with probability 1 - p "
    "(preset `dinov2-nominal` has the paper's values)",
    "run.precision": "bf16 on a GPU that has it, because KoLeo overflows in fp16",
    "run.compile": "the same numbers, faster",
    "run.activation_checkpointing": "the same numbers, so that it fits on fewer GPUs",
    "run.checkpoint_every": "a kill loses at most a third as much work",
}


def ours(name: str) -> dict[str, Any]:
    """A shipped recipe by key, shares of the steps as steps, fields of the model as they are built."""
    config = load_config(name)
    values = flat(plain(config))
    for key, value in values.items():
        if key.endswith("_steps") and isinstance(value, float):
            values[key] = config.step_count(value)
    model = biovfm_config(config)
    return values | {key: getattr(model, key.removeprefix("model.")) for key in SHORT if key.startswith("model.")}


def deviations() -> dict[tuple[str, str, str], list[str]]:
    """(key, DINOv2's value, ours) -> the recipes that differ in this way."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for name, reference in RECIPES.items():
        values = ours(name)
        for key, theirs in reference.items():
            if values[key] != theirs:
                rows.setdefault((key, str(theirs), str(values[key])), []).append(name.removeprefix("dino_vit_"))
    return rows


def test_the_page_lists_every_deviation_from_dinov2_and_no_other() -> None:
    rows = [
        f"| `{key}` | {theirs} | {here} | {', '.join(names) if len(names) < len(RECIPES) else 'all'} | {WHY[key]} |"
        for (key, theirs, here), names in deviations().items()
    ]
    table = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert table == rows, "\n".join(["docs/pretraining.md must hold:", *rows])


def test_every_shipped_recipe_is_compared() -> None:
    assert set(RECIPES) == {name for name in shipped_configs("dino") if "_vit_" in name}


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_maes_recipe_is_its_own(size: str) -> None:
    """PRETRAIN.md of facebookresearch/mae."""
    config = load_config(f"mae_vit_{size}")
    assert (config.steps, config.batch.size, config.optim.base_lr) == (249_600, 4096, 1.5e-4)
    assert (config.optim.betas, config.optim.weight_decay, config.optim.clip_grad) == ((0.9, 0.95), 0.05, None)
    assert config.step_count(config.optim.warmup_steps) == 12_480 and config.optim.min_lr == 0
    model = biovfm_config(config)
    assert (model.mask_ratio, model.norm_pix_loss, model.drop_path_rate) == (0.75, True, 0)
    assert (model.decoder_hidden_size, model.decoder_num_hidden_layers, model.decoder_num_attention_heads) == (
        512,
        8,
        16,
    )


_HEAD = (2048, 3, 256, 65_536)
_SHORT = {"teacher": True, "heads": PrototypeHeads(2 * 0.5 * 0.3 * 196, _HEAD, _HEAD), "drop_path": 0.3}
COSTS = {
    ("dino", "vit-large"): _SHORT,
    ("dino", "vit-giant"): {
        "teacher": True,
        "heads": PrototypeHeads(2 * 0.5 * 0.3 * 256, (2048, 3, 384, 131_072), (2048, 3, 256, 131_072)),
        "drop_path": 0.4,
    },
    ("dino", "vit-7b"): _SHORT,  # has no config of its own
    ("mae", "vit-giant"): {"decoder": True, "visible": 0.25},  # nor has this
}


@pytest.mark.parametrize(("objective", "size"), COSTS)
def test_a_recipe_costs_what_its_papers_numbers_give(objective: str, size: str) -> None:
    model = BioVFMConfig.from_size(size, family="mae" if objective == "mae" else "dinov2")
    crops = Crops(1, 224, 0, 0) if objective == "mae" else Crops(2, 224, 8, 98 if model.patch_size == 14 else 96)
    flops = step_flops(Architecture.of(model), crops, **COSTS[objective, size]).total
    assert recipe_flops(objective, size) == pytest.approx(flops, rel=1e-12)
    assert objective in counted_objectives() and "distill" not in counted_objectives()
