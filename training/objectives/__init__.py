"""The registry of objectives: every folder here with a `config.py` and a `method.py` is one.

`config.py` has CONFIG, a class of `TrainConfig` with sections, defaults, title, crops, smallest batch, and a summary
and paper for cards; it does not import torch. `method.py` has METHOD, a `Method`: how the objective is built, trained,
watched and exported, and how its operations are counted.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biovfm_hf.errors import UserError
from biovfm_hf.nearest import did_you_mean

from ..settings.config import TrainConfig

if TYPE_CHECKING:
    from .method import Method

_packages = {
    path.parent.name: f"{__package__}.{path.parent.name}" for path in Path(__file__).parent.glob("*/method.py")
}


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
        UserError: there is no such objective.
    """
    return _module(name, "config").CONFIG


def method_of(name: str) -> "Method[Any, Any]":
    """The `Method` of an objective, which the loop calls.

    Raises:
        UserError: there is no such objective.
    """
    return _module(name, "method").METHOD


def _module(name: str, part: str) -> Any:
    if name not in _packages:
        raise UserError(f"there is no objective {name!r}{did_you_mean(name, names())}")
    return import_module(f"{_packages[name]}.{part}")
