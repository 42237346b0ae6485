"""Writes biovfm_hf/__init__.pyi from the code: python docs/stubs.py

Editors, type checkers and the API reference learn from it what the front door's functions take and return. Classes of
the rooms are imported by their names in a checkout; setup.py writes those in a wheel.
"""

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import indent
from types import UnionType
from typing import Any, Union, get_args, get_origin

import biovfm_hf
from biovfm_hf.front_door import FUNCTIONS, open_door
from biovfm_hf.rooms import EXTRAS

TARGET = Path(biovfm_hf.__file__).with_suffix(".pyi")


def stubs() -> str:
    """The text of `__init__.pyi`."""
    lines = [f'"""{biovfm_hf.__doc__}"""', "", "from collections.abc import Mapping, Sequence"]
    lines += ["from pathlib import Path", "from typing import Any", ""]
    lines += [f"from .{module} import {name} as {name}" for name, module in biovfm_hf.CLASSES.items()]
    lines += sorted({_import_line(kind) for name in FUNCTIONS for kind in _own_classes(_returned(name))})
    return "\n".join([*lines, "", "CLASSES: dict[str, str]", "", *(stub(name) for name in FUNCTIONS)])


def stub(name: str) -> str:
    """One function."""
    function = open_door(name)
    signature = inspect.signature(function)
    parameters = [f"    {_parameter(each)}," for each in signature.parameters.values()]
    names = list(signature.parameters.values())
    first_keyword = next((i for i, each in enumerate(names) if each.kind is each.KEYWORD_ONLY), None)
    if first_keyword is not None:
        parameters.insert(first_keyword, "    *,")
    quotes = 'r"""' if "\\" in str(function.__doc__) else '"""'
    doc = indent(f'{quotes}{function.__doc__}"""', "    ")
    return "\n".join([f"def {name}(", *parameters, f") -> {_type(signature.return_annotation)}:", doc, "    ...", ""])


def _returned(name: str) -> Any:
    return inspect.signature(open_door(name)).return_annotation


def _own_classes(hint: Any) -> Iterator[type]:
    """The classes of this project in a type."""
    for part in get_args(hint):
        yield from _own_classes(part)
    if isinstance(hint, type) and hint.__module__.partition(".")[0] in EXTRAS:
        yield hint


def _import_line(kind: type) -> str:
    package, _, module = kind.__module__.partition(".")
    place = f".{module}" if package == biovfm_hf.__name__ else kind.__module__
    return f"from {place} import {kind.__name__}"


def _parameter(parameter: inspect.Parameter) -> str:
    default = "" if parameter.default is parameter.empty else f" = {_literal(parameter.default)}"
    return f"{parameter.name}: {_type(parameter.annotation, given=True)}{default}"


def _literal(value: Any) -> str:
    return f"Path({value.as_posix()!r})" if isinstance(value, Path) else repr(value)


def _type(hint: Any, given: bool = False) -> str:
    """A type as source text. What is `given` may be a name where a path is wanted, or one of several values."""
    parts = [part for part in (get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint])]
    return " | ".join(dict.fromkeys(word for part in parts for word in _names(part, given)))


def _names(part: Any, given: bool) -> list[str]:
    arguments = get_args(part)
    if part is type(None):
        return ["None"]
    if get_origin(part) in (tuple, Sequence) and given:
        item = _type(arguments[0], given)
        return [f"Sequence[{item}]", *item.split(" | ")]
    if arguments:
        return [f"{get_origin(part).__name__}[{', '.join(_type(each, given) for each in arguments)}]"]
    if part is Path:
        return ["str", "Path"] if given else ["Path"]
    name: str = part.__name__
    return [name]


if __name__ == "__main__":
    TARGET.write_text(stubs(), encoding="utf-8")
