"""Command options as dataclasses: each field states its meaning and range, and argparse is built from the fields.

    @dataclass(frozen=True)
    class Options:
        folder: Path = argument("folder of images", metavar="DIR")
        images: int = option(500, "at most this many of them", least=1)

        def __post_init__(self) -> None:
            check_options(self)

From Python the dataclass is filled by keyword, on the command line by `parse_options`; values that it refuses there
end in exit status 2.
"""

import argparse
import dataclasses
import math
import re
import types
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypedDict, TypeVar, Union, Unpack, get_args, get_origin, get_type_hints

from .errors import OptionError, UserError
from .nearest import did_you_mean, nearest

Options = TypeVar("Options")


class FieldLimits(TypedDict, total=False):
    """The allowed values of a field, and its placeholder in the help text."""

    above: float
    least: float
    most: float
    choices: Collection[Any]
    metavar: str
    read: Callable[[Any], Any]  # converts a command line's word or a Python value; raises ValueError
    commas: bool  # several values are one word, separated by commas, not one option each
    many: bool  # several values follow one option
    group: str  # title of the option's section in the help text


def argument(help: str, **limits: Unpack[FieldLimits]) -> Any:
    """A positional argument: a path or a name that must be given."""
    return dataclasses.field(metadata={"help": help, "positional": True, **limits})


def required(help: str, **limits: Unpack[FieldLimits]) -> Any:
    """A required option, `--name` on the command line."""
    return dataclasses.field(metadata={"help": help, **limits})


def option(default: Any, help: str, **limits: Unpack[FieldLimits]) -> Any:
    """An option, `--name` on the command line, that is `default` if it is not given."""
    return dataclasses.field(default=default, metadata={"help": help, **limits})


def check_options(options: Any) -> None:
    """Convert names to paths and lists to tuples, and check every value against its field.

    Raises:
        OptionError: a value has another type, is out of its range, or is none of the choices.
    """
    kinds = get_type_hints(type(options))
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value is None and _optional(kinds[field.name]):
            continue
        kind, several = _item_type(kinds[field.name])
        given = _listed(value, field.metadata.get("commas", False)) if several else [value]
        checked = [_checked(field, kind, one) for one in given]
        object.__setattr__(options, field.name, tuple(checked) if several else checked[0])


def add_options(parser: argparse.ArgumentParser, kind: type) -> None:
    """Give `parser` an argument for each field of the options dataclass `kind`."""
    hints = get_type_hints(kind)
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        item, several = _item_type(hints[field.name])
        title = field.metadata.get("group", "")
        if title and title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add_option(groups.get(title, parser), field, item, several)


def _add_option(parser: Any, field: "dataclasses.Field[Any]", item: type, several: bool) -> None:
    """Give `parser`, or a group of it, the argument of one field."""
    limits, details = field.metadata, {"help": field.metadata["help"]}
    if limits.get("positional"):
        parser.add_argument(field.name, nargs="+" if several else None, **_typed(item, limits), **details)
        return
    flag = _flag(field)
    if item is bool:
        parser.add_argument(flag, action="store_true", **details)
        return
    required = field.default is dataclasses.MISSING
    details["help"] += _default_text(field.default)
    shape: dict[str, Any] = {"default": None if required or several else field.default}
    if several and limits.get("many"):
        shape["nargs"] = "+"
    elif several and not limits.get("commas"):
        shape["action"] = "append"
    parser.add_argument(flag, required=required, **shape, **_typed(item, limits), **details)


class CommandParser(argparse.ArgumentParser):
    """The parser of a command. It reports a mistake in one line, with the nearest known option."""

    def __init__(self, prog: str, description: str = "", epilog: str | None = None, **further: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, epilog=epilog, formatter_class=formatter, **further)

    def error(self, message: str) -> NoReturn:
        """End the process with status 2."""
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        near = did_you_mean(unknown[1], flags) if unknown else ""
        self.exit(2, f"{self.prog}: error: {message}{near} (all options: {self.prog} --help)\n")


def parse_options(parser: argparse.ArgumentParser, kind: type[Options], argv: Sequence[str]) -> Options:
    """Parse a command line into options; this calls `add_options`.

    Arguments that the dataclass refuses end the process with status 2 and the reason.
    """
    add_options(parser, kind)
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    try:
        return kind(**given)
    except OptionError as error:
        parser.error(f"{_named(kind).get(error.option, error.option)}: {error.reason}")
    except UserError as error:
        parser.error(str(error))


def _named(kind: type) -> dict[str, str]:
    """The name on the command line of each field that is an option there."""
    return {item.name: _flag(item) for item in dataclasses.fields(kind) if not item.metadata.get("positional")}


def _flag(field: "dataclasses.Field[Any]") -> str:
    return "--" + field.name.replace("_", "-")


def _typed(item: type, limits: Any) -> dict[str, Any]:
    if "read" in limits or limits.get("commas"):  # `check_options` converts the words
        return {"metavar": limits.get("metavar")}
    metavar = limits.get("metavar")
    if metavar is None and "choices" in limits:  # `check_options` refuses others, and says why
        metavar = f"{{{','.join(map(str, limits['choices']))}}}"
    return {"type": item, "metavar": metavar}


def _default_text(default: Any) -> str:
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


def _listed(value: Any, commas: bool) -> list[Any]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not commas:
        return values
    return [part for one in values for part in (one.split(",") if isinstance(one, str) else [one])]


def _checked(field: dataclasses.Field[Any], kind: type, value: Any) -> Any:
    if "read" in field.metadata:
        try:
            return field.metadata["read"](value)
        except ValueError as error:
            raise OptionError(field.name, str(error)) from None
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if kind is str and isinstance(value, Path):
        value = str(value)
    if field.metadata.get("commas") and isinstance(value, str):  # a word of the command line
        value = _word_value(kind, value.strip())
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise OptionError(field.name, f"{value!r} is not of type {kind.__name__}; {field.metadata['help']}")
    reason = _refusal(field.metadata, value)
    if reason:
        raise OptionError(field.name, f"{value!r} {reason}")
    return value


def _word_value(kind: type, word: str) -> Any:
    """A word converted to `kind`; the word itself if that fails, so that the check names it."""
    try:
        return kind(word) if kind in (int, float) else word
    except ValueError:
        return word


def _refusal(limits: Any, value: Any) -> str:
    choices = limits.get("choices")
    if choices and value not in choices:
        known = list(map(str, choices))
        return f"is not one of {', '.join(known)}" + (nearest(str(value), known) or f" ({limits['help']})")
    if isinstance(value, float) and not math.isfinite(value):
        return "is not a finite number"
    if "above" in limits and not value > limits["above"]:
        return f"must be above {limits['above']:g}"
    if "least" in limits and value < limits["least"]:
        return f"must be {limits['least']:g} or more"
    if "most" in limits and value > limits["most"]:
        return f"must be {limits['most']:g} or less"
    return ""
