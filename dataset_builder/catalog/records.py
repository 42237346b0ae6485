"""Reads a source record: YAML to `Source`, with every key and word checked and the nearest word suggested."""

from dataclasses import MISSING, fields
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, get_args

from biovfm_hf.errors import UserError
from biovfm_hf.nearest import did_you_mean
from biovfm_hf.reading.documents import read_yaml

from .globs import compile_glob, compile_regex
from .hdf5_items import EXPANDERS
from .source import (
    ACCESS,
    KINDS,
    MODALITIES,
    PATHS,
    RELATIONS,
    SOURCES,
    Download,
    ExcludeRule,
    ItemRule,
    Label,
    Overlap,
    Source,
    TableRule,
    anatomies,
    is_published,
)

_MISSPELT = 0.75  # similarity from which a word is taken for a misspelt region
MAX_ANATOMY = 60  # most letters of an anatomy outside the 30 regions


def load_source(id_or_path: str | Path) -> Source:
    """The record of a catalogue id, or of a YAML file.

    Raises:
        UserError: there is no such record, or it does not fit the schema.
    """
    path = _locate(id_or_path)
    return _source(_Place(str(path)), read_yaml(path, remedy="see an example: biovfm sources show rossa"))


def _locate(id_or_path: str | Path) -> Path:
    path = Path(id_or_path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    ids = {record.stem: record for record in SOURCES.glob("*.yaml")}
    if str(id_or_path) in ids:
        return ids[str(id_or_path)]
    hint = did_you_mean(str(id_or_path), ids)
    raise UserError(f"no source {str(id_or_path)!r} in the catalogue{hint}; see: biovfm sources list")


class _Place:
    """Current place in a file, for messages."""

    def __init__(self, file: str, key: str = "", own: bool = False, private: bool = False) -> None:
        self.file, self.key = file, key
        self.own = own  # whether the source is private and may name any anatomy
        self.private = private  # whether its record says so; else a word like a region's name counts as misspelt

    def at(self, key: str | int) -> "_Place":
        return _Place(self.file, f"{self.key}.{key}".lstrip("."), self.own, self.private)

    def fail(self, message: str) -> NoReturn:
        raise UserError(f"{self.file}: {self.key + ': ' if self.key else ''}{message}")

    def one_of(self, value: Any, allowed: tuple[str, ...]) -> str:
        """`value`, if it is one of `allowed` in exactly that spelling."""
        if isinstance(value, str) and value in allowed:
            return value
        self.fail(f"{value!r} is not allowed{did_you_mean(str(value), allowed)}")

    def typed(self, value: Any, kind: type | tuple[type, ...], word: str) -> Any:
        """`value`, if it has the type that messages call `word`."""
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.fail(f"{value!r} should be {word}")
        return value


def _keys(place: _Place, data: Any, cls: type, extra: tuple[str, ...] = ()) -> dict[str, Any]:
    """`data` as a mapping whose keys are fields of the dataclass `cls` (or `extra`), the required ones present."""
    place.typed(data, dict, "a mapping")
    known = [field.name for field in fields(cls)] + list(extra)
    for key in data:
        if key not in known:
            place.fail(f"unknown key {key!r}{did_you_mean(str(key), known)}")
    for field in fields(cls):
        if field.default is MISSING and field.default_factory is MISSING and field.name not in data:
            place.fail(f"the key {field.name!r} is missing")
    return data


def _list(place: _Place, value: Any) -> list[tuple[_Place, Any]]:
    values = value if isinstance(value, list) else [value]
    return [(place.at(number), entry) for number, entry in enumerate(values)]


def _source(place: _Place, data: Any) -> Source:
    place.typed(data, dict, "a mapping of keys, as in the records of dataset_builder/sources")
    data = dict(data)
    if "modality" in data:
        data["modalities"] = data.pop("modality")
    _keys(place, data, Source, extra=("modality",))
    name = place.at("id").typed(data["id"], str, "text")
    if not name or not all(letter.isalnum() or letter in "-_" for letter in name):
        place.at("id").fail(f"{name!r} may contain only letters, digits, - and _")
    place.own = not is_published(data.get("access"), data.get("in_paper") is True)
    place.private = data.get("access") == "private"
    for key, converter in _CONVERTERS.items():
        if data.get(key) is not None:
            data[key] = converter(place.at(key), data[key])
    for field in fields(Source):
        if field.name in data and field.name not in _CONVERTERS:
            _scalar(place.at(field.name), field.type, data[field.name])
        elif data.get(field.name, MISSING) is None and field.default not in (None, MISSING):
            del data[field.name]
    data.setdefault("folder", name)
    if data.get("layout_established", True) and not data.get("items"):
        place.fail("the key 'items' is missing; say layout_established: false if the raw layout is not known")
    return Source(**{**data, "record": place.file})


def _scalar(place: _Place, annotation: Any, value: Any) -> None:
    kinds = get_args(annotation) or (annotation,)
    if value is None and type(None) in kinds:
        return
    place.typed(value, kinds[0], {str: "text", int: "a whole number", bool: "true or false"}[kinds[0]])


def _choices(allowed: tuple[str, ...]) -> Any:
    def convert(place: _Place, value: Any) -> tuple[str, ...]:
        return tuple(at.one_of(entry, allowed) for at, entry in _list(place, value))

    return convert


def _regions(place: _Place, value: Any) -> tuple[str, ...]:
    return tuple(_region(at, entry) for at, entry in _list(place, value))


def _region(place: _Place, value: Any) -> str:
    table = anatomies()
    if isinstance(value, str) and value in table:
        return table[value]
    if place.own and _is_own_word(value) and (place.private or not get_close_matches(value, table, 1, _MISSPELT)):
        return value
    remedy = " (with access: private it is kept as it is)" if place.own and _is_own_word(value) else ""
    place.fail(
        f"{value!r} is not one of the 30 regions{did_you_mean(str(value), table)}{remedy}; "
        "see dataset_builder/anatomies.yaml"
    )


def _is_own_word(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value.strip()) <= MAX_ANATOMY


def _texts(place: _Place, value: Any) -> tuple[str, ...]:
    return tuple(at.typed(entry, str, "text") for at, entry in _list(place, value))


def _pattern(place: _Place, value: Any) -> str:
    try:
        compile_glob(place.typed(value, str, "a glob"))
    except ValueError as error:
        place.fail(f"{value!r} is not a usable glob: {error}")
    return value


def _regex(place: _Place, value: Any, groups: bool = False) -> str:
    try:
        compiled = compile_regex(place.typed(value, str, "a regular expression"))
    except ValueError as error:
        place.fail(f"{value!r} is not a usable regular expression: {error}")
    if groups and not compiled.groups:
        place.fail(f"{value!r} has no group (...) that captures the identifier in the path")
    return value


def _item_rule(place: _Place, value: Any) -> ItemRule:
    data = dict(_keys(place, {"pattern": value} if isinstance(value, str) else value, ItemRule))
    _pattern(place.at("pattern"), data["pattern"])
    if "kind" in data:
        place.at("kind").one_of(data["kind"], KINDS)
    if data.get("modality") is not None:
        place.at("modality").one_of(data["modality"], MODALITIES)
    if data.get("anatomy") is not None:
        data["anatomy"] = _region(place.at("anatomy"), data["anatomy"])
    if data.get("intensity") is not None:
        _intensity(place.at("intensity"), data["intensity"])
    if data.get("view") is not None:
        place.at("view").one_of(data["view"], ("axial", "sagittal", "coronal", "frame"))
    if data.get("fps") is not None and not 0 < place.at("fps").typed(data["fps"], (int, float), "a number") <= 1000:
        place.at("fps").fail("frames per second lie between 0 and 1000")
    if data.get("adapter") is not None:
        place.at("adapter").one_of(data["adapter"], tuple(EXPANDERS))
    elif data.get("kind") == "hdf5":
        place.at("adapter").fail("an HDF5 item must name a data set: hdf5_rows, hdf5_stack or hdf5_encoded")
    return ItemRule(**data)


def _intensity(place: _Place, value: Any) -> None:
    if value == "as-is":
        return
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in ("window", "windows", "percentile"):
        place.fail(f"{value!r} should be as-is, {{window: [low, high]}}, {{windows: [...]}} or {{percentile: [l, h]}}")
    ((method, numbers),) = value.items()
    for pair in numbers if method == "windows" else [numbers]:
        ordered = isinstance(pair, list) and len(pair) == 2 and all(type(n) in (int, float) for n in pair)
        if not ordered or not pair[0] < pair[1]:
            place.at(method).fail(f"{pair!r} should be two numbers [low, high], the lower one first")
        if method == "percentile" and not 0 <= pair[0] < pair[1] <= 100:
            place.at(method).fail(f"{pair!r} should lie between 0 and 100")


def _table(place: _Place, value: Any, column: bool = False) -> TableRule:
    data = dict(_keys(place, value, TableRule))
    _pattern(place.at("table"), data["table"])
    if data.get("key", "name") not in ("name", "stem"):
        _regex(place.at("key"), data["key"], groups=True)
    if data.get("value") is not None:
        _regex(place.at("value"), data["value"], groups=True)
    place.at("format").one_of(data.setdefault("format", "csv"), ("csv", "jsonl", "list", "rp3d"))
    if data["format"] != "list" and not data.get("match"):
        place.fail("the key 'match' is missing: the column to look items up in")
    if column and not data.get("column"):
        place.fail("the key 'column' is missing: the column that holds the answer")
    where = place.at("where").typed(data.get("where") or {}, dict, "a mapping of column: value")
    data["where"] = tuple((str(name), str(cell)) for name, cell in where.items())
    return TableRule(**data)


def _train(place: _Place, value: Any) -> str | TableRule:
    if value == "all":
        return value
    place.typed(value, dict, "all, {path: REGEX} or a table")
    if set(value) == {"path"}:
        return "path:" + _regex(place.at("path"), value["path"])
    return _table(place, value)


def _subject(place: _Place, value: Any) -> str | TableRule:
    place.typed(value, dict, "{path: REGEX} or a table with a column")
    if set(value) == {"path"}:
        return _regex(place.at("path"), value["path"], groups=True)
    return _table(place, value, column=True)


def _exclude(place: _Place, value: Any) -> ExcludeRule:
    data = dict(_keys(place, value, ExcludeRule))
    if (data.get("pattern") is None) == (data.get("table") is None):
        place.fail("give either a pattern or a table")
    if data.get("pattern") is not None:
        _pattern(place.at("pattern"), data["pattern"])
    else:
        data["table"] = _table(place.at("table"), data["table"])
    place.at("reason").typed(data["reason"], str, "text")
    return ExcludeRule(**data)


def _label(place: _Place, value: Any) -> Label:
    data = dict(_keys(place, value, Label))
    _regex(place.at("path"), data["path"])
    if data.get("modality") is not None:
        place.at("modality").one_of(data["modality"], MODALITIES)
    if data.get("anatomy") is not None:
        data["anatomy"] = _region(place.at("anatomy"), data["anatomy"])
    return Label(**data)


def _overlap(place: _Place, value: Any) -> Overlap:
    data = _keys(place, value, Overlap)
    place.at("relation").one_of(data["relation"], RELATIONS)
    if data.get("part") is not None:
        _regex(place.at("part"), data["part"])
    if (data.get("benchmark") is None) == (data.get("source") is None):
        place.fail("give either a benchmark or a source")
    return Overlap(**data)


def _download(place: _Place, value: Any) -> Download:
    data = dict(_keys(place, value, Download))
    url = place.at("url").typed(data["url"], str, "an address")
    if not url.startswith(("https://", "http://")):
        place.at("url").fail(f"{url!r} is not an http(s) address")
    path = PurePosixPath(place.at("name").typed(data["name"], str, "a file name"))
    if path.is_absolute() or ".." in path.parts or not path.name or "\\" in str(path):
        place.at("name").fail(f"{data['name']!r} leaves the source's folder")
    return Download(**data)


def _folder(place: _Place, value: Any) -> str:
    path = PurePosixPath(place.typed(value, str, "a folder below the raw folder"))
    if path.is_absolute() or ".." in path.parts or "\\" in value:
        place.fail(f"{value!r} leaves the raw folder; give a path relative to it")
    return str(path)


def _every(converter: Any) -> Any:
    return lambda place, value: tuple(converter(at, entry) for at, entry in _list(place, value))


_CONVERTERS: dict[str, Any] = {
    "modalities": _choices(MODALITIES),
    "anatomies": _regions,
    "items": _every(_item_rule),
    "train": _train,
    "folder": _folder,
    "exclude": _every(_exclude),
    "subject": _subject,
    "labels": _every(_label),
    "anatomy": lambda place, value: _table(place, value, column=True),
    "access": lambda place, value: place.one_of(value, ACCESS),
    "paths": lambda place, value: place.one_of(value, PATHS),
    "dimensionality": lambda place, value: place.one_of(value, ("2d", "3d", "video")),
    "file_formats": _texts,
    "files": _every(_download),
    "overlaps": _every(_overlap),
    "evidence": _texts,
}
