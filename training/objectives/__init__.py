"""The registry of objectives: every folder here with a `config.py` and a `method.py` is one.

`config.py` names its class of `TrainConfig` CONFIG: sections, defaults, title, crops, smallest batch, a summary and
its paper for cards, without torch. `method.py` names its `Method` METHOD: how it is built, trained, measured, counted
and exported.
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
    """Remove an objective again."""
    _packages.pop(name)


def names() -> list[str]:
    """The names of all objectives."""
    return sorted(_packages)


def config_of(name: str) -> type[TrainConfig]:
    """The class of an objective's runs, its facts among them.

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
