"""The objective that trained a model: training writes its facts beside the weights, cards and reports read them."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..reading.documents import finite, read_json
from ..writing.files import write_text

OBJECTIVE = "objective.json"


@dataclass(frozen=True)
class Logged:
    """What readers are told of a value that an objective logs.

    Attributes:
        group: the charts that it stands among: `loss`, `watch` (whether features still tell images apart), `schedule`
            or `speed`; "" as its name suggests.
        note: a sentence on its meaning.
    """

    group: str = ""
    note: str = ""


@dataclass(frozen=True)
class Objective:
    """Facts of an objective and its run.

    Attributes:
        title: its name in sentences.
        summary: what it does, in a few words.
        source: its paper, "" for none.
        flops_per_image: floating-point operations that one image took in training, forward and backward, with heads,
            decoder and teacher.
        logged: name -> what it says of a value in metrics.jsonl.
        settings: key in config.yaml -> title, of its main settings.
    """

    title: str
    summary: str
    source: str
    flops_per_image: float
    logged: dict[str, Logged] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """Its title as a tag of the Hub."""
        return tag_of(self.title)


def tag_of(title: str) -> str:
    """An objective's title as a tag of the Hub.

    >>> tag_of("Masked Siamese networks")
    'masked-siamese-networks'
    """
    return "-".join(title.lower().split())


def write_objective(folder: Path, objective: Objective) -> None:
    """Write the file of a model folder."""
    write_text(folder / OBJECTIVE, json.dumps(asdict(objective), indent=1) + "\n")


def read_objective(folder: Path) -> Objective | None:
    """Read the file of a model folder; None if there is none.

    Raises:
        UserError: the file is damaged.
    """
    file = folder / OBJECTIVE
    if not file.is_file():
        return None
    content = read_json(file)
    if not isinstance(content, dict) or not _text(content, "title") or not _text(content, "summary"):
        raise UserError(f"{file}: states no title and summary of an objective; export the model again, or remove it")
    flops = finite(content.get("flops_per_image"))
    if flops is None or flops <= 0:
        raise UserError(f"{file}: flops_per_image is not a positive number; export the model again, or remove it")
    logged, settings = _object(content, "logged"), _object(content, "settings")
    return Objective(
        title=_text(content, "title"),
        summary=_text(content, "summary"),
        source=_text(content, "source"),
        flops_per_image=flops,
        logged={
            name: Logged(_text(entry, "group"), _text(entry, "note"))
            for name, entry in logged.items()
            if isinstance(entry, dict)
        },
        settings={key: title for key, title in settings.items() if isinstance(title, str)},
    )


def _object(content: dict[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name)
    return value if isinstance(value, dict) else {}


def _text(content: dict[str, Any], name: str) -> str:
    value = content.get(name)
    return value if isinstance(value, str) else ""
