"""Locates the four rooms in this installation, and names the extra that each needs."""

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

from .errors import UserError

# the extra of pyproject.toml that each room's commands need
EXTRAS = {
    "biovfm_hf": "demo",
    "dataset_builder": "data",
    "training": "train",
    "evaluation": "eval",
    "model_cards": "cards",
}


def load_room_module(name: str) -> ModuleType:
    """Import `room.module` from the checkout beside this package, or from where a wheel carries it.

    In a checkout (bare or editable) the rooms are folders beside `biovfm_hf`; a wheel carries them inside it.

    Raises:
        UserError: this installation has no such room.
    """
    room = name.split(".")[0]
    package = Path(__file__).resolve().parent
    if room == package.name:
        return importlib.import_module(name)
    if (package / room).is_dir():
        return importlib.import_module(f"{package.name}.{name}")
    if (package.parent / room / "__init__.py").is_file():
        if str(package.parent) not in sys.path:
            sys.path.insert(0, str(package.parent))
        return importlib.import_module(name)
    raise UserError(f"this installation carries no {room}/; run from a checkout: pip install -e '.[demo]'")


@cache
def import_modules(package: str) -> None:
    """Import every module of a package, so that all their registrations take effect."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


@contextmanager
def packages_named(module: str) -> Iterator[None]:
    """Explain how to get a package that the room of `module` lacks.

    Raises:
        UserError: replaces a ModuleNotFoundError if the package could be installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package, room = (error.name or "").split(".")[0], module.split(".")[0]
        if not package or package in {*sys.stdlib_module_names, *EXTRAS}:
            raise  # our own bug
        remedy = f"pip install 'biovfm-hf[{EXTRAS[room]}]'"
        raise UserError(f"{package} is not installed; get it with: {remedy}") from error
