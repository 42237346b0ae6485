"""A run's configuration from YAML files and the command line, checked; and back to YAML."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from biovfm_hf.errors import UserError

from .data.augment import PRESETS
from .settings.config import TrainConfig
from .settings.typed import build, nearest, plain

# What MAE's recipe changes (PRETRAIN.md of facebookresearch/mae, main_pretrain.py)
_MAE_DEFAULTS: dict[str, Any] = {
    "steps": 249_600,
    "augment": {"preset": "mae"},
    "batch": {"size": 4096},
    "optim": {
        "base_lr": 1.5e-4,
        "lr_rule": "linear_256",
        "min_lr": 0.0,
        "warmup_steps": 0.05,
        "weight_decay": 0.05,
        "weight_decay_end": 0.05,
        "clip_grad": None,
        "betas": [0.9, 0.95],
    },
}
# What a number, or each of a pair, must lie between. None, where a key takes it, is never outside.
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("steps", "batch.size", "batch.per_process", "data.stream_lanes"), (1, math.inf)),
    **dict.fromkeys(("run.log_every", "run.checkpoint_every", "run.keep_checkpoints"), (1, math.inf)),
    **dict.fromkeys(("run.export_every", "watch.every", "data.cache_mib", "data.max_side", "seed"), (0, math.inf)),
    **dict.fromkeys(("watch.images", "watch.neighbours"), (1, math.inf)),
    **dict.fromkeys(("dino.prototypes", "dino.hidden", "dino.bottleneck", "dino.layers"), (1, math.inf)),
    **dict.fromkeys(("dino.ibot_prototypes", "dino.ibot_hidden", "dino.ibot_bottleneck"), (1, math.inf)),
    **dict.fromkeys(("dino.dino_weight", "dino.ibot_weight", "dino.koleo_weight"), (0, math.inf)),
    **dict.fromkeys(("optim.base_lr", "optim.min_lr", "optim.weight_decay", "optim.weight_decay_end"), (0, math.inf)),
    **dict.fromkeys(("optim.layerwise_decay", "dino.center_momentum"), (0, 1)),
    "optim.betas": (0, 0.99999),
    **dict.fromkeys(("teacher.momentum", "teacher.momentum_end", "mask.probability", "mask.ratio"), (0, 1)),
    **dict.fromkeys(("teacher.temperature", "teacher.warmup_temperature"), (1e-3, math.inf)),
    **dict.fromkeys(("dino.student_temp", "watch.temperature"), (1e-3, math.inf)),
    "optim.clip_grad": (1e-6, math.inf),
    "epochs": (1e-9, math.inf),
    "data.workers": (-1, math.inf),
}
_GLOBAL_CROPS = {"dino": 2, "mae": 1}
_SECTIONS = ("model", "data", "augment", "batch", "optim", "teacher", "dino", "mask", "run", "watch")
_CONFIG_FOLDER = Path(__file__).parent / "configs"


def load_config(method: str, path: str | Path, overrides: Mapping[str, Any]) -> TrainConfig:
    """Read a YAML file, apply overrides (`{"optim.base_lr": 0.001}`) and check every key and type.

    `path` may also be the bare name of a shipped config, such as `dino_smoke`.

    Raises:
        UserError: no such file, no valid YAML, a config of the other method, an unknown key or a wrong type.
    """
    tree = _read_yaml(_find_config(path))
    if tree.setdefault("method", method) != method:
        raise UserError(f"{path} is a config for method {tree['method']}; run training/pretrain_{tree['method']}.py")
    for key, value in overrides.items():
        _set(tree, key, value)
    return config_from_tree(tree)


def config_from_tree(tree: Mapping[str, Any]) -> TrainConfig:
    """A checked configuration from nested plain values, on top of the method's defaults.

    Raises:
        UserError: an unknown key or a wrong type.
    """
    if tree.get("method") == "mae":
        tree = _merge(_MAE_DEFAULTS, tree)
    tree = dict(tree)
    model = dict(tree.get("model") or {})
    known = {name: model.pop(name) for name in ("size", "init_from") if name in model}
    fields = model.pop("fields", {}) | model
    tree["model"] = {**known, "fields": {name: _as_number(value) for name, value in fields.items()}}
    augment = dict(tree.get("augment") or {})
    preset = augment.get("preset", "dinov2")
    if preset not in PRESETS:
        raise UserError(f"unknown augment.preset {preset!r}; {nearest(str(preset), list(PRESETS))}")
    tree["augment"] = _merge(PRESETS[preset], augment)
    return check(build(TrainConfig, {name: value for name, value in tree.items() if value is not None}))


def _as_number(value: Any) -> Any:
    """YAML reads 1e-5 as text; where the type of a key is known that is seen to, for fields of the model it is not."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def check(config: TrainConfig) -> TrainConfig:
    """The configuration itself, if its numbers make sense together.

    Raises:
        UserError: names the key, its value and what it must be.
    """
    for key, (low, high) in _RANGES.items():
        values = _get(config, key)
        for value in values if isinstance(values, tuple) else (values,):
            if value is not None and not (low <= value <= high and math.isfinite(value)):
                limits = f"at least {low}" if high == math.inf else f"from {low} to {high}"
                limits = "finite" if value == math.inf else limits
                raise UserError(f"config key {key} is {_get(config, key)}; it must be {limits}")
    if config.method == "dino" and config.batch.size < 2:
        raise UserError(
            "batch.size is 1; the DINO objective compares images, so it needs at least 2 (better: 64 and more)"
        )
    crops, wanted = (config.augment.global_count, config.augment.local_count), _GLOBAL_CROPS[config.method]
    if crops[0] != wanted or (config.method == "mae" and crops[1]):
        local = " and no local ones (augment.preset mae has them so)" if config.method == "mae" else ""
        raise UserError(
            f"augment.global_count is {crops[0]}, augment.local_count {crops[1]}; the {config.method} objective takes "
            f"{wanted} global crop(s) of an image{local}"
        )
    if config.mask.ratio[0] > config.mask.ratio[1]:
        raise UserError(f"config key mask.ratio is {list(config.mask.ratio)}; the smaller number comes first")
    if config.data.weights and not config.data.weight_by:
        raise UserError("data.weights is given without data.weight_by; say which column its names are of")
    if config.watch.task and not config.watch.every:
        raise UserError("watch.task is given, but watch.every is 0, so it would never be probed; add watch.every=500")
    return _check_schedules(config)


def _check_schedules(config: TrainConfig) -> TrainConfig:
    for key in ("optim.warmup_steps", "optim.freeze_last_layer_steps", "teacher.temperature_warmup_steps"):
        value = _get(config, key)
        if value < 0 or (isinstance(value, float) and value > 1):
            raise UserError(f"config key {key} is {value}; give whole steps, or a share of all steps from 0.0 to 1.0")
    if config.step_count(config.optim.warmup_steps) > config.steps:
        raise UserError(
            f"optim.warmup_steps {config.optim.warmup_steps} is longer than the run of {config.steps} steps"
        )
    return config


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """`["steps=10", "--optim.base_lr", "1e-3", "--run.compile=true"]` as a dictionary of typed values.

    Raises:
        UserError: a word that is neither.
    """
    overrides: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        key, equals, text = word.removeprefix("--").partition("=")
        if not equals:
            if not word.startswith("--") or not rest:
                raise UserError(f"cannot read {word!r}; change config keys as key=value or --key value")
            text = rest.pop(0)
        try:
            overrides[_underscored(key)] = yaml.safe_load(text) if text else None
        except yaml.YAMLError as error:
            raise UserError(f"cannot read the value of {word!r} as YAML") from error
    return overrides


def _underscored(key: str) -> str:
    """`run.log-every` as `run.log_every`; what stands below a key is a name of the data's, such as `X-Ray`."""
    parts = key.split(".")
    return ".".join([part.replace("-", "_") for part in parts[:2]] + parts[2:])


def to_yaml(config: TrainConfig) -> str:
    """The resolved configuration as YAML that `load_config` reads back to an equal one."""
    tree = plain(config)
    model = tree["model"]
    tree["model"] = {**{key: model[key] for key in ("size", "init_from")}, **model["fields"]}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def with_steps(config: TrainConfig, images: int) -> TrainConfig:
    """`epochs`, where given, turned into steps for a data set of `images` images."""
    if config.epochs is None:
        return config
    return check(replace(config, steps=max(1, round(config.epochs * images / config.batch.size)), epochs=None))


def _find_config(path: str | Path) -> Path:
    path = Path(path)
    shipped = _CONFIG_FOLDER / f"{path.name}.yaml"
    if path.is_file():
        return path
    if shipped.is_file() and path.parent == Path():
        return shipped
    names = sorted(item.stem for item in _CONFIG_FOLDER.glob("*.yaml"))
    raise UserError(f"no config file {path}; {nearest(path.stem, names)}")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds no key: value lines")
    return tree


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(tree.get(section), dict):
            tree[section] = {}
        tree = tree[section]
    if not sections and name in _SECTIONS:
        raise UserError(f"{name} is a section of the config; change one of its keys, as {name}.KEY=VALUE")
    tree[name] = value


def _get(config: TrainConfig, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        both = bool(value) and isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
