"""Provenance of an artefact, as far as it restricts use: private sources, and licences of the weights it builds on.

A file in the artefact's folder holds it; each stage writes it for the next.

A dataset names its sources that are not published (`access: private`, or none stated); what is trained on it,
measured on private tasks or indexed takes the names along, and so it is with the licence of weights that are continued
or distilled. Cards leave out pictures of private tasks and state that licence, and `biovfm push` asks, by what stands
here.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..hub.files import hub_file
from ..reading.documents import read_json
from ..writing.files import write_text

PROVENANCE = "provenance.json"
# licences of weights that bind what is made from them: name on the Hub -> where the text is
WEIGHT_LICENCES = {"dinov3-license": "https://github.com/facebookresearch/dinov3/blob/main/LICENSE.md"}


@dataclass(frozen=True)
class Provenance:
    """Restrictions on the use of an artefact.

    Attributes:
        private_sources: ids of the private sources behind it.
        private_tasks: names of the private tasks whose images it shows.
        licences: names of the licences, among `WEIGHT_LICENCES`, of the weights that it builds on.
    """

    private_sources: tuple[str, ...] = ()
    private_tasks: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.is_private or bool(self.licences)

    @property
    def is_private(self) -> bool:
        """Whether any part came from private sources; `str` names it."""
        return bool(self.private_sources or self.private_tasks)

    def __or__(self, other: "Provenance") -> "Provenance":
        return Provenance(
            _united(self.private_sources, other.private_sources),
            _united(self.private_tasks, other.private_tasks),
            _united(self.licences, other.licences),
        )

    def __str__(self) -> str:
        parts = [
            f"{what} {', '.join(names)}"
            for what, names in (("sources:", self.private_sources), ("tasks:", self.private_tasks))
            if names
        ]
        return "; ".join(parts)


def read_provenance(folder: Path) -> Provenance:
    """Read the folder's provenance file; an empty `Provenance` if there is none.

    Raises:
        UserError: the file is damaged, so the provenance is unknown.
    """
    file = folder / PROVENANCE
    if not file.is_file():
        return Provenance()
    content = read_json(file)
    if not isinstance(content, dict):
        raise UserError(f"{file}: not a JSON object; write the folder again with the command that made it")
    return Provenance(*(_names(content, field.name, file) for field in fields(Provenance)))


def hub_provenance(repo_id: str, kind: str, revision: str | None = None) -> Provenance:
    """Read the file of a Hub repository of `kind` (model or dataset); empty if it cannot be fetched."""
    file = hub_file(repo_id, PROVENANCE, kind, revision)
    return read_provenance(file.parent) if file else Provenance()


def write_provenance(folder: Path, provenance: Provenance) -> None:
    """Write the folder's file; without restrictions, remove an earlier one."""
    if not provenance:
        (folder / PROVENANCE).unlink(missing_ok=True)
        return
    names = {name: list(values) for name, values in vars(provenance).items()}
    write_text(folder / PROVENANCE, json.dumps(names, indent=1) + "\n")


def add_provenance(folder: Path, provenance: Provenance) -> None:
    """Add to the folder's file."""
    if provenance:
        write_provenance(folder, read_provenance(folder) | provenance)


def _united(*names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({name for group in names for name in group}))


def _names(content: dict[str, Any], key: str, file: Path) -> tuple[str, ...]:
    names = content.get(key, [])
    if not isinstance(names, list):
        raise UserError(f"{file}: {key} is not a list; write the folder again with the command that made it")
    return _united(map(str, names))
