"""A command's options as a dataclass: a field says what it means and what it may be, and argparse is filled from it.

    @dataclass(frozen=True)
    class Options:
        folder: Path = argument("folder of images", metavar="DIR")
        images: int = option(500, "at most this many of them", least=1)

        def __post_init__(self) -> None:
            check_options(self)

From Python the dataclass is filled by keyword; on the command line `parse_options` does it, and what the dataclass
refuses there are wrong words (exit status 2).
"""

import argparse
import dataclasses
import math
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Union, Unpack, get_args, get_origin, get_type_hints

from .errors import UserError

Options = TypeVar("Options")


class Limits(TypedDict, total=False):
    """What a field's value may be, and the word that stands for it in the help text."""

    above: float
    least: float
    most: float
    choices: tuple[str, ...]
    metavar: str


def argument(help: str, **limits: Unpack[Limits]) -> Any:
    """A field that the command line takes by its place: a path or a name that must be given."""
    return dataclasses.field(metadata={"help": help, "positional": True, **limits})


def required(help: str, **limits: Unpack[Limits]) -> Any:
    """A field that the command line takes as `--name` and that must be given."""
    return dataclasses.field(metadata={"help": help, **limits})


def option(default: Any, help: str, **limits: Unpack[Limits]) -> Any:
    """A field that the command line takes as `--name`, or leaves at `default`."""
    return dataclasses.field(default=default, metadata={"help": help, **limits})


def check_options(options: Any) -> None:
    """Make paths of names, tuples of lists, and check every value against its field.

    Raises:
        UserError: a value is of another type, out of its range, or none of the choices.
    """
    kinds = get_type_hints(type(options))
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value is None and _optional(kinds[field.name]):
            continue
        kind, several = _item_type(kinds[field.name])
        given = _listed(value) if several else [value]
        checked = [_checked(field, kind, one) for one in given]
        object.__setattr__(options, field.name, tuple(checked) if several else checked[0])


def add_options(parser: argparse.ArgumentParser, kind: type) -> None:
    """Give `parser` an argument for each field of the options dataclass `kind`."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        item, several = _item_type(hints[field.name])
        limits, words = field.metadata, {"help": field.metadata["help"]}
        if limits.get("positional"):
            parser.add_argument(field.name, nargs="+" if several else None, **_typed(item, limits), **words)
            continue
        flag = "--" + field.name.replace("_", "-")
        if item is bool:
            parser.add_argument(flag, action="store_true", **words)
            continue
        required = field.default is dataclasses.MISSING
        words["help"] += _default_words(field.default)
        default = None if required else field.default
        action = "append" if several else "store"
        parser.add_argument(flag, action=action, required=required, default=None if several else default,
                            **_typed(item, limits), **words)  # fmt: skip


def parse_options(parser: argparse.ArgumentParser, kind: type[Options], argv: Sequence[str]) -> Options:
    """The options that the words of a command line make; `add_options` is called here.

    Words that the dataclass refuses end the process with status 2 and the reason.
    """
    add_options(parser, kind)
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    try:
        return kind(**given)
    except UserError as error:
        parser.error(str(error))


def _typed(item: type, limits: Any) -> dict[str, Any]:
    return {"type": item, "choices": limits.get("choices"), "metavar": limits.get("metavar")}


def _default_words(default: Any) -> str:
    return f" (default: {default})" if isinstance(default, str | int | float | Path) and default != "" else ""


def _optional(hint: Any) -> bool:
    return type(None) in get_args(hint)


def _item_type(hint: Any) -> tuple[type, bool]:
    """The type of one value, and whether a field takes several: `Path | None` -> Path, `tuple[str, ...]` -> str."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    return hint, False


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _checked(field: dataclasses.Field[Any], kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise UserError(f"{field.name}: {value!r} is no {kind.__name__}; {field.metadata['help']}")
    reason = _refusal(field.metadata, value)
    if reason:
        raise UserError(f"{field.name}: {value!r} {reason}")
    return value


def _refusal(limits: Any, value: Any) -> str:
    choices = limits.get("choices")
    if choices and value not in choices:
        return f"is none of {', '.join(choices)}"
    if isinstance(value, float) and not math.isfinite(value):
        return "is not a finite number"
    if "above" in limits and not value > limits["above"]:
        return f"must be above {limits['above']:g}"
    if "least" in limits and value < limits["least"]:
        return f"must be {limits['least']:g} or more"
    if "most" in limits and value > limits["most"]:
        return f"must be {limits['most']:g} or less"
    return ""
