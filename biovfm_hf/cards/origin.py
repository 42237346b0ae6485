"""The weights that a model was made from: training writes their names beside its own, cards read them there."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..hub.network import is_path, is_repository
from ..reading.documents import read_json
from ..writing.files import write_text

ORIGIN = "origin.json"
_PREFIXED = re.compile(r"((?:[\w.+ -]+[:=])*)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Origin:
    """The names of weights: of a folder, a file, a repository on the Hub, or as `biovfm_hf.load_encoder` takes them.

    Attributes:
        start: the weights that training continued from; None if it began with random ones.
        teachers: frozen models that it was distilled from.
        anchors: frozen models whose similarities between patches the model learned to keep (Gram anchoring).
    """

    start: str | None = None
    teachers: tuple[str, ...] = ()
    anchors: tuple[str, ...] = ()

    def renamed(self, name: Callable[[str], str]) -> "Origin":
        """The same with every name changed by `name`."""
        start = name(self.start) if self.start else None
        return Origin(start, tuple(map(name, self.teachers)), tuple(map(name, self.anchors)))


def folder_name(folder: Path) -> str:
    """A model folder's name; that of the run for the `model/` of a training run."""
    place = folder.expanduser().resolve()
    return place.parent.name if place.name == "model" else place.name


def public_name(name: str) -> str:
    """A name without the folders of this machine; a label or prefix before a path is removed too.

    >>> public_name("/data/somebody/large/model"), public_name("timm:/data/net"), public_name("you/large")
    ('large', 'net', 'you/large')
    """
    path = _split(name)[1].partition("?")[0]  # keywords of timm
    return folder_name(Path(path)) if Path(path).expanduser().exists() or is_path(path) else name


def hub_id(name: str) -> str | None:
    """The repository on the Hub in a name, without label, prefix and keywords; None if there is none.

    >>> hub_id("mine=timm:hf-hub:you/net?depth=1"), hub_id("timm:resnet18"), hub_id("/data/net")
    ('you/net', None, None)
    """
    place = _split(name)[1].partition("?")[0]
    return place if is_repository(place) and not Path(place).exists() else None


def whole_name(name: str) -> str:
    """A name that still shows it was a folder or file after that is deleted: its path is made absolute."""
    prefix, rest = _split(name)
    path = Path(rest).expanduser()
    return f"{prefix}{path.absolute()}" if path.exists() else name


def _split(name: str) -> tuple[str, str]:
    """Label and prefixes, such as `mine=timm:`, and what follows; a path on disk has none."""
    if Path(name).expanduser().exists():
        return "", name
    match = _PREFIXED.fullmatch(name)
    return (match[1], match[2]) if match else ("", name)


def write_origin(folder: Path, origin: Origin) -> None:
    """Write the folder's file."""
    write_text(folder / ORIGIN, json.dumps(asdict(origin), indent=1) + "\n")


def read_origin(folder: Path) -> Origin | None:
    """Read the folder's file; None if there is none.

    Raises:
        UserError: the file is damaged.
    """
    file = folder / ORIGIN
    if not file.is_file():
        return None
    content = read_json(file)
    if not isinstance(content, dict):
        raise UserError(f"{file}: not a JSON object; export the model again, or remove it")
    start = content.get("start")
    if not (start is None or isinstance(start, str)):
        raise UserError(f"{file}: start is not a name; export the model again, or remove it")
    return Origin(start or None, *(_names(content, key, file) for key in ("teachers", "anchors")))


def _names(content: dict[str, Any], key: str, file: Path) -> tuple[str, ...]:
    names = content.get(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{file}: {key} is not a list of names; export the model again, or remove it")
    return tuple(names)
