"""Plain dictionaries (YAML, command line) to typed dataclasses and back, refusing what does not belong."""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from biovfm_hf.errors import UserError

T = TypeVar("T")


def nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean X?`, or the list of what exists when nothing is near."""
    match = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {match[0]}?" if match else f"there are: {', '.join(sorted(known))}"


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """An instance of dataclass `cls` from nested plain values; fields that are not given keep their defaults.

    Raises:
        UserError: an unknown key (with the nearest known one) or a value of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where or 'the config'} must be a section of key: value lines, not {values!r}")
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    prefix = f"{where}." if where else ""
    for name in values:
        if name not in known:
            raise UserError(f"unknown config key {prefix}{name}; {nearest(str(name), known)}")
    return cls(**{name: convert(value, hints[name], f"{prefix}{name}") for name, value in values.items()})


def convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint`: a dataclass, bool, int, float, str, tuple, list, dict, or a union of these.

    Raises:
        UserError: it is none of these types.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return value if type(value) is hint else build(typing.cast(type, hint), value, where)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, arguments, where)
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise UserError(f"config key {where} is {value!r}; it must be one of {', '.join(map(str, arguments))}")
    if origin is tuple and isinstance(value, list | tuple):
        if arguments[-1] is Ellipsis:
            return tuple(convert(item, arguments[0], where) for item in value)
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


def plain(value: Any) -> Any:
    """A dataclass as nested dictionaries and lists, ready for YAML or JSON."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


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
        except ValueError:
            return None
    return None


def _describe(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return names.get(hint) or str(hint).replace("typing.", "")
