"""Loads and checks a run's configuration from a YAML file and overrides."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from biovfm_hf.architecture import Architecture
from biovfm_hf.errors import UserError
from biovfm_hf.nearest import did_you_mean
from biovfm_hf.reading.documents import as_number, parse_yaml, read_yaml

from . import objectives
from .settings.architecture import check_sizes
from .settings.augment import PRESETS, AugmentConfig, preset
from .settings.config import DIMENSIONS, OWN_KEYS, TrainConfig
from .settings.typed import UnknownKey, build, check_section, flat, plain

_CONFIG_FOLDER = Path(__file__).parent / "configs"
REQUIRED = "REQUIRED"


def load_config(
    path: str | Path, overrides: Mapping[str, Any] | None = None, method: str = "", begins: bool = False
) -> TrainConfig:
    """Read a YAML file, apply overrides (`{"optim.base_lr": 0.001}`) and check every key, type and range.

    Args:
        path: the file, or the bare name of a shipped config, such as `dino_smoke`.
        overrides: key to value.
        method: the objective that it must have; by default any.
        begins: whether a run begins, which needs the weights that the file requires (`init_from: REQUIRED`).

    Raises:
        UserError: no such file, invalid YAML, a config of another objective, an unknown key, a wrong value, or no
            weights.
    """
    try:
        return _load(path, overrides or {}, method, begins)
    except UnknownKey as error:
        if other := _of_other_section(error.key, method or str(read_yaml(find_config(path)).get("method"))):
            raise UserError(f"unknown config key {error.key}; did you mean {other}?") from error
        raise


def _load(path: str | Path, overrides: Mapping[str, Any], method: str, begins: bool) -> TrainConfig:
    tree = _overridden(path, overrides, method)
    model = tree.get("model") or {}
    if model.get("init_from") == REQUIRED:
        if begins:
            raise UserError(
                f"{path} continues from weights; add model.init_from=FOLDER (model folder, weight file or run)"
            )
        tree["model"] = {**model, "init_from": None}
    config = config_from_tree(tree)
    for section, one in config.encoders.items():
        check_sizes(one, section)
    if begins:
        config.check_complete()
    return config


def overridden_config(path: str | Path, overrides: Mapping[str, Any]) -> str:
    """The text of a config file that holds the config `path` with its overrides, checked for a run that begins.

    Raises:
        UserError: as `load_config` raises it.
    """
    changed = {_underscored(key): value for key, value in overrides.items()}
    load_config(path, changed, begins=True)
    return yaml.safe_dump(_overridden(path, changed), sort_keys=False, allow_unicode=True)


def resolved_settings(path: str | Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of the config `path` with its overrides, checked, as plain values.

    Raises:
        UserError: as `load_config` raises it.
    """
    return plain(load_config(path, {_underscored(key): value for key, value in overrides.items()}))


def _overridden(path: str | Path, overrides: Mapping[str, Any], method: str = "") -> dict[str, Any]:
    """The content of a config file with overrides in it."""
    tree = read_yaml(find_config(path))
    if method and tree.setdefault("method", method) != method:
        raise UserError(
            f"{path} is a config of the objective {tree['method']}, not {method}; `biovfm pretrain {path}` takes any, "
            f"as does `accelerate launch -m biovfm_hf.cli pretrain {path}` for several processes"
        )
    if overrides.get("model.init_from"):  # width and depth in the file are for a model that begins afresh
        tree["model"] = {name: value for name, value in (tree.get("model") or {}).items() if name not in DIMENSIONS}
    for key, value in overrides.items():
        _set(tree, key, value)
    return tree


def config_from_tree(tree: Mapping[str, Any]) -> TrainConfig:
    """A checked configuration from nested plain values, on top of its objective's defaults.

    Raises:
        UserError: no such objective, an unknown key or a wrong value.
    """
    if "method" not in tree:
        raise UserError(f"config key method is missing; give the objective, one of {', '.join(objectives.names())}")
    kind = objectives.config_of(str(tree["method"]))
    tree = _without_idle_sections({name: value for name, value in tree.items() if value is not None}, kind)
    tree["model"] = _model_section(tree.get("model") or {})
    tree["augment"] = _augment_section(tree.get("augment") or {}, kind)
    return build(kind, tree)


def _augment_section(given: Mapping[str, Any], kind: type[TrainConfig]) -> AugmentConfig:
    """The augmentation: what is given, on top of the preset that it names or else of the objective's own defaults."""
    check_section(given, "augment")
    base = kind().augment
    if "preset" in given:
        name = str(given["preset"])
        if name not in PRESETS:
            raise UserError(f"unknown augment.preset {given['preset']!r}{did_you_mean(name, list(PRESETS))}")
        base = preset(name)
    return build(AugmentConfig, _merge(plain(base), given), "augment")


def _without_idle_sections(tree: dict[str, Any], kind: type[TrainConfig]) -> dict[str, Any]:
    """The tree without sections of other objectives at their defaults, which earlier versions wrote."""
    own = {item.name for item in fields(kind)}
    if own.issuperset(tree):
        return tree
    for other in objectives.usable(objectives.config_of).values():
        for name, default in plain(other()).items():
            given = tree.get(name)
            if name not in own and isinstance(given, Mapping) and _merge(default, given) == default:
                tree = {key: value for key, value in tree.items() if key != name}
    return tree


def _model_section(model: Mapping[str, Any]) -> dict[str, Any]:
    """The model section with the fields of `BioVFMConfig`, which YAML lists beside its own keys, under `fields`."""
    check_section(model, "model")
    known = {name: model[name] for name in OWN_KEYS if name in model}
    others = {name: value for name, value in model.items() if name not in (*known, "fields")}
    check_section(model.get("fields", {}), "model.fields")
    given = {**others, **model.get("fields", {})}
    return {**known, "fields": {name: as_number(value) for name, value in given.items()}}


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`["steps=10", "--optim.base_lr", "1e-3", "--run.compile=true"]` as a dictionary of typed values.

    Raises:
        UserError: a word that is neither.
    """
    overrides: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        key, equals, text = word.removeprefix("--").partition("=")
        if not equals:
            if not word.startswith("--") or not rest:
                raise UserError(f"cannot read {word!r}; change config keys as key=value or --key value")
            text = rest.pop(0)
        overrides[_underscored(key)] = parse_yaml(text, f"the value of {word!r}") if text else None
    return overrides


def _underscored(key: str) -> str:
    """`run.log-every` as `run.log_every`; names below a key come from the data, such as `X-Ray`, and stay."""
    parts = key.split(".")
    return ".".join([part.replace("-", "_") for part in parts[:2]] + parts[2:])


def with_steps(config: TrainConfig, images: int) -> TrainConfig:
    """`epochs`, if given, converted to steps for a dataset of `images` images."""
    if config.epochs is None:
        return config
    return replace(config, steps=max(1, round(config.epochs * images / config.batch.size)), epochs=None)


def shipped_configs(method: str = "") -> list[str]:
    """Names of the configs that come with the package, of one objective or of all."""
    return sorted(
        path.stem
        for path in _CONFIG_FOLDER.glob(f"{method}*.yaml")
        if not method or read_yaml(path).get("method") == method  # the name may begin with another objective's
    )


def find_config(path: str | Path) -> Path:
    """The file of a config: a path, or the bare name of a shipped one.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    shipped = _CONFIG_FOLDER / f"{path.name}.yaml"
    if path.is_file():
        return path
    if shipped.is_file() and path.parent == Path():
        return shipped
    raise UserError(f"no config file {path}{did_you_mean(path.stem, shipped_configs())}")


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    if not sections and name in _sections(str(tree.get("method"))):
        raise UserError(f"{name} is a section of the config; change one of its keys, as {name}.KEY=VALUE")
    if sections and sections[0] in _single_keys(str(tree.get("method"))):
        raise UnknownKey(key, f"; {sections[0]} is one value and no section")
    for section in sections:
        if not isinstance(tree.get(section), dict):
            tree[section] = {}
        tree = tree[section]
    tree[name] = value


def _sections(method: str) -> list[str]:
    return [name for name, value in _defaults(method).items() if is_dataclass(value)]


def _single_keys(method: str) -> list[str]:
    return [name for name, value in _defaults(method).items() if not is_dataclass(value)]


def _defaults(method: str) -> dict[str, Any]:
    """The settings of an objective's defaults, or none if there is no such objective."""
    config = objectives.config_of(method)() if method in objectives.names() else None
    return {item.name: getattr(config, item.name) for item in fields(config)} if config else {}


def _of_other_section(key: str, method: str) -> str | None:
    """The key of an objective that `key` means if its section is wrong: `batch.size` for `data.batch_size`."""
    architecture = [f"model.{item.name}" for item in fields(Architecture)]
    known = [*flat({name: plain(value) for name, value in _defaults(method).items()}), *architecture]
    name = key.rpartition(".")[2]
    joined = [other for other in known if name == other.replace(".", "_")]
    return next((other for other in joined + [other for other in known if name == other.rpartition(".")[2]]), None)


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        both = bool(value) and isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
