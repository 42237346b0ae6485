"""The registry of objectives: every folder here is one, with a `config.py` and a `method.py`.

`config.py` has CONFIG, a class of `TrainConfig` with sections, defaults, title, crops, smallest batch, and a summary
and paper for cards; it does not import torch. `method.py` has METHOD, a `Method`: how the objective is built, trained,
watched and exported, and how its operations are counted.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biovfm_hf.errors import UserError
from biovfm_hf.nearest import did_you_mean

from ..settings.config import TrainConfig

if TYPE_CHECKING:
    from .method import Method

_packages = {path.parent.name: f"{__package__}.{path.parent.name}" for path in Path(__file__).parent.glob("*/*.py")}


def register(package: str) -> None:
    """Add an objective from elsewhere: the name of a package with the modules `config` and `method`."""
    _packages[package.rpartition(".")[2]] = package


def unregister(name: str) -> None:
    """Remove an objective that `register` added."""
    _packages.pop(name)


def names() -> list[str]:
    """The names of all objectives."""
    return sorted(_packages)


def config_of(name: str) -> type[TrainConfig]:
    """The configuration class of an objective's runs, with the objective's facts.

    Raises:
        UserError: there is no such objective, or its folder does not hold this class.
    """
    kind: type[TrainConfig] = _entry(name, "config", "CONFIG")
    return kind


def complete_configs() -> dict[str, type[TrainConfig]]:
    """The configuration class of each objective whose files are there; an unfinished one must not stop the others."""
    whole = [name for name in names() if find_spec(f"{_packages[name]}.method")]
    return {name: kind for name in whole if (kind := _find(name, "config", "CONFIG"))}


def method_of(name: str) -> "Method[Any, Any]":
    """The `Method` of an objective, which the loop calls.

    Raises:
        UserError: there is no such objective, or its folder does not hold its `Method`.
    """
    method: Method[Any, Any] = _entry(name, "method", "METHOD")
    return method


def _entry(name: str, module: str, constant: str) -> Any:
    if name not in _packages:
        raise UserError(f"there is no objective {name!r}{did_you_mean(name, names())}")
    entry = _find(name, module, constant)
    if entry is None:
        file = f"{_packages[name]}.{module}".replace(".", "/")
        raise UserError(f"the objective {name} is incomplete: {file}.py with {constant} is missing")
    return entry


def _find(name: str, module: str, constant: str) -> Any:
    place = f"{_packages[name]}.{module}"
    return getattr(import_module(place), constant, None) if find_spec(place) else None
