"""The settings of all probe methods as options of `biovfm probe`. A name means the same wherever it is."""

from collections import Counter
from collections.abc import Collection
from dataclasses import MISSING, Field, dataclass, field, fields
from operator import attrgetter
from types import GenericAlias
from typing import Any, get_args, get_type_hints

from biovfm_hf.errors import UserError

from ..probes.probe import Probe, probe_classes
from ..statistics.bootstrap import PROTOCOLS

SETTINGS = "settings of the methods"
SHARED = {"batch_size"}  # options of the command that a method may have as a setting too
RANGE = ("above", "least", "most", "commas")


@dataclass(frozen=True)
class Setting:
    """One setting of one method: its field and the type of its values, without None."""

    probe: type[Probe]
    field: "Field[Any]"
    kind: Any

    @property
    def method(self) -> str:
        """The method, with its protocols if it does not have the usual ones."""
        usual = self.probe.protocols == PROTOCOLS
        return self.probe.name + ("" if usual else f" under protocol {' or '.join(self.probe.protocols)}")

    @property
    def shape(self) -> str:
        """Type and range in words: two methods that share an option agree in them."""
        limits = {name: self.field.metadata.get(name) for name in RANGE}
        named = [f"{name} {limit}" for name, limit in limits.items() if limit is not None]
        choices = ["with choices"] if "choices" in self.field.metadata else []
        return ", ".join([getattr(self.kind, "__name__", str(self.kind)), *named, *choices])


def method_options(taken: Collection[str]) -> list[tuple[str, Any, Any]]:
    """Name, type and field of every setting that a method declares, apart from those of `SHARED`.

    Args:
        taken: names of the command's own options.

    Raises:
        UserError: a setting has the name of an option of the command, or of another method's setting that differs in
            type or range.
    """
    shared: dict[str, list[Setting]] = {}
    # in the order of their modules, independent of import order
    for probe in sorted(dict.fromkeys(probe_classes().values()), key=attrgetter("__module__")):
        hints = get_type_hints(probe)
        for item in fields(probe):
            if item.init and item.name in taken and item.name not in SHARED:
                raise UserError(
                    f"setting {item.name} of method {probe.name} ({probe.__module__}) is already an option of "
                    "biovfm probe; give the setting another name"
                )
            if item.init and item.name not in taken:
                shared.setdefault(item.name, []).append(Setting(probe, item, _value_type(hints[item.name])))
    return [_option(name, settings) for name, settings in shared.items()]


def _option(name: str, settings: list[Setting]) -> tuple[str, Any, Any]:
    """One option from the settings that share its name."""
    first = settings[0]
    for other in settings[1:]:
        if other.shape != first.shape:
            raise UserError(
                f"setting {name} is {first.shape} for method {first.probe.name} ({first.probe.__module__}) and "
                f"{other.shape} for {other.probe.name} ({other.probe.__module__}); rename one of them"
            )
    about = {**first.field.metadata, "group": SETTINGS, "help": _meanings(settings) + _default_note(settings)}
    if "choices" in about:  # each method refuses choices that it does not know
        about["choices"] = list(dict.fromkeys(c for each in settings for c in each.field.metadata["choices"]))
    kind = GenericAlias(tuple, (first.kind, ...)) if about.get("commas", False) else first.kind
    return name, kind | None, field(default=None, metadata=about)


def _value_type(hint: Any) -> Any:
    """The type of a setting's value, without None."""
    return next((part for part in get_args(hint) if part is not type(None)), hint)


def _meanings(settings: list[Setting]) -> str:
    """The help text of the methods; if they differ in it, each text with its methods."""
    methods: dict[str, list[str]] = {}
    for each in settings:
        methods.setdefault(each.field.metadata["help"], []).append(each.method)
    if len(methods) == 1:
        return next(iter(methods))
    return "; ".join(_attributed(text, list(dict.fromkeys(names))) for text, names in methods.items())


def _attributed(text: str, methods: list[str]) -> str:
    """A help text after the names of its methods, unless it begins with the only one."""
    names = ", ".join(methods)
    return text if text.casefold().startswith(f"{names.casefold()}:") else f"{names}: {text}"


def _default_note(settings: list[Setting]) -> str:
    """The default in brackets; if methods differ in it, each exception to the commonest one, or all if none is."""
    defaults = [(each.field.default, each.method) for each in settings]
    known = [(value, method) for value, method in defaults if value is not MISSING and value is not None]
    if not known:
        return ""
    (common, most), *further = Counter(value for value, _ in known).most_common()
    if not further:
        return "" if isinstance(common, str) else f" (default: {common})"
    is_tie = further[0][1] == most
    named = dict.fromkeys(f"{value} for {method}" for value, method in known if is_tie or value != common)
    return f" (default: {', '.join([*named, *([] if is_tie else [f'else {common}'])])})"
