"""The registry of objectives: every folder here is one, with a `config.py` and a `method.py`.

`config.py` has CONFIG, a class of `TrainConfig` with sections, defaults, title, crops, smallest batch, and a summary
and paper for cards; it does not import torch. `method.py` has METHOD, a `Method`: how the objective is built, trained,
watched and exported, and how its operations are counted.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from biovfm_hf.errors import UserError, one_line
from biovfm_hf.nearest import did_you_mean

from ..settings.config import TrainConfig

if TYPE_CHECKING:
    from .method import Method

T = TypeVar("T")
logger = logging.getLogger(__name__)
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
        UserError: there is no such objective, its folder does not hold this class, or the class has no defaults.
    """
    kind: type[TrainConfig] = _entry(name, "config", "CONFIG")
    with _faults_named(name, "config"):
        kind()
    return kind


def method_of(name: str) -> "Method[Any, Any]":
    """The `Method` of an objective, which the loop calls.

    Raises:
        UserError: there is no such objective, or its folder does not hold its `Method`.
    """
    method: Method[Any, Any] = _entry(name, "method", "METHOD")
    return method


def usable(part_of: Callable[[str], T], among: Iterable[str] | None = None) -> dict[str, T]:
    """A part of each objective, by name; one that is incomplete or broken is told and does not stop the others.

    Args:
        part_of: `config_of` or `method_of`.
        among: the objectives in question; by default all.
    """
    parts = {}
    for name in names() if among is None else among:
        try:
            parts[name] = part_of(name)
        except (UserError, ModuleNotFoundError) as error:
            _tell_once(f"{name} is left out of the objectives: {one_line(error)}")
    return parts


@cache
def _tell_once(text: str) -> None:
    logger.warning(text)


def _entry(name: str, module: str, constant: str) -> Any:
    if name not in _packages:
        raise UserError(f"there is no objective {name!r}{did_you_mean(name, names())}")
    place = f"{_packages[name]}.{module}"
    with _faults_named(name, module):
        entry = getattr(import_module(place), constant, None) if find_spec(place) else None
    if entry is None:
        raise UserError(f"the objective {name} is incomplete: {_file(name, module)} with {constant} is missing")
    return entry


@contextmanager
def _faults_named(name: str, module: str) -> Iterator[None]:
    """Say which objective's file raised; a package that is not installed is reported by the command."""
    try:
        yield
    except ModuleNotFoundError:
        raise
    except Exception as error:  # the file may hold any code
        fault = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(
            f"the objective {name} is broken: {_file(name, module)} raises {fault}; mend it, or move its folder away"
        ) from error


def _file(name: str, module: str) -> str:
    return f"{_packages[name]}.{module}".replace(".", "/") + ".py"
