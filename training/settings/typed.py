"""Converts plain dictionaries (YAML, command line) to typed dataclasses and back, and refuses unknown keys and types.

A field's annotation may limit its numbers: `size: Annotated[int, Range(1)] = 2048`.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import yaml

from biovfm_hf.errors import UserError
from biovfm_hf.nearest import did_you_mean
from biovfm_hf.ranges import LARGEST, Range
from biovfm_hf.sizes import MOST_PIXELS

T = TypeVar("T")


@dataclass(frozen=True)
class Steps:
    """A whole number of steps, or a share of all steps as a number with a point."""

    def fault(self, value: float) -> str | None:
        """The requirement that `value` does not meet, or None."""
        wrong = not 0 <= value <= (1 if isinstance(value, float) else LARGEST)
        return "give whole steps, or a share of all steps from 0.0 to 1.0" if wrong else None


StepsOrShare = Annotated[int | float, Steps()]
Share = Annotated[float, Range(0, 1)]
Positive = Annotated[int, Range(1)]
Side = Annotated[int, Range(1, MOST_PIXELS)]


class UnknownKey(UserError):
    """A key that a section does not have.

    Attributes:
        key: the whole key.
    """

    def __init__(self, key: str, remedy: str = "") -> None:
        super().__init__(f"unknown config key {key}{remedy}")
        self.key = key


def build(cls: type[T], values: Mapping[str, Any], where: str = "", base: T | None = None) -> T:
    """An instance of dataclass `cls` from nested plain values; fields that are not given keep their defaults.

    Args:
        cls: the dataclass.
        values: field name to plain value.
        where: the section's name, for messages.
        base: an instance whose fields are the defaults, instead of those of `cls`.

    Raises:
        UserError: an unknown key (`UnknownKey`, with the nearest known one) or a value of the wrong type.
    """
    check_section(values, where or "the config")
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    prefix = f"{where}." if where else ""
    for name in values:
        if name not in known:
            raise UnknownKey(f"{prefix}{name}", did_you_mean(str(name), known, prefix))
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    defaults = {field.name: _default(field) if base is None else getattr(base, field.name) for field in fields}
    given = {name: convert(value, hints[name], prefix + name, defaults[name]) for name, value in values.items()}
    return cls(**given) if base is None else cls(**(defaults | given))


def check_ranges(instance: Any, where: str = "") -> None:
    """Refuse numbers of a dataclass, or of nested ones, that are outside the ranges of their fields.

    Raises:
        UserError: names the key, its value and what it must be.
    """
    hints = typing.get_type_hints(type(instance), include_extras=True)
    for field in dataclasses.fields(instance):
        value, name = getattr(instance, field.name), f"{where}.{field.name}" if where else field.name
        if dataclasses.is_dataclass(value):
            check_ranges(value, name)
        for number, item in enumerate(value if isinstance(value, tuple) else ()):
            if dataclasses.is_dataclass(item):
                check_ranges(item, f"{name}[{number}]")
        for limit in getattr(hints[field.name], "__metadata__", ()):
            if fault := limit.fault(value):
                shown = list(value) if isinstance(value, tuple) else value
                raise UserError(f"config key {name} is {shown}; {fault}")


def _default(field: dataclasses.Field[Any]) -> Any:
    """A field's default, or None."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def convert(value: Any, hint: Any, where: str, default: Any = None) -> Any:
    """`value` as the type `hint`: a dataclass, bool, int, float, str, tuple, list, dict, or a union of these.

    A dataclass given in part takes its other fields from the instance `default`, if there is one.

    Raises:
        UserError: it is none of these types.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return value if type(value) is hint else build(typing.cast(type, hint), value, where, default)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, arguments, where)
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise UserError(f"config key {where} is {value!r}; it must be one of {', '.join(map(str, arguments))}")
    if origin is tuple and isinstance(value, list | tuple):
        if arguments[-1] is Ellipsis:
            return tuple(convert(item, arguments[0], f"{where}[{number}]") for number, item in enumerate(value))
        if len(value) == len(arguments):
            return tuple(convert(item, kind, where) for item, kind in zip(value, arguments, strict=True))
    elif origin is list and isinstance(value, list | tuple | str):
        items = [value] if isinstance(value, str) else value
        return [convert(item, arguments[0], where) for item in items]
    elif origin is dict and isinstance(value, Mapping):
        return {str(key): convert(item, arguments[1], f"{where}.{key}") for key, item in value.items()}
    elif hint is Any:
        return value
    elif origin is None and (scalar := _scalar(value, hint)) is not None:
        return scalar
    raise UserError(f"config key {where} is {value!r}; it must be {_describe(hint)}")


def check_section(values: Any, where: str) -> None:
    """Refuse what is no mapping; `where` is its key."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a section of key: value lines, not {values!r}")


def plain(value: Any) -> Any:
    """A dataclass as nested dictionaries and lists, ready for YAML or JSON."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def to_yaml(config: Any) -> str:
    """A run's resolved configuration as YAML that `load_config` reads back to an equal one."""
    tree = plain(config)
    fields = tree["model"].pop("fields")
    tree["model"] |= fields
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one level of `section.key`."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def _convert_union(value: Any, options: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in options:
        return None
    choices = [option for option in options if option is not type(None)]
    for option in choices:
        try:
            return convert(value, option, where)
        except UserError:
            if len(choices) == 1:
                raise
    raise UserError(f"config key {where} is {value!r}; it must be {' or '.join(map(_describe, choices))}")


def _scalar(value: Any, hint: Any) -> Any:
    """`value` as bool, int, float or str, or None when it is not one. YAML reads 1e-3 as text; a float takes it."""
    if hint is bool:
        return value if isinstance(value, bool) else None
    if hint is str:
        return value if isinstance(value, str) else None
    if isinstance(value, bool):
        return None
    if hint is int:
        return value if isinstance(value, int) else None
    if hint is float and isinstance(value, int | float | str):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return None
    return None


def _describe(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return names.get(hint) or str(hint).replace("typing.", "")
