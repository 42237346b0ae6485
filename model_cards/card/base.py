"""The base models of a model, as training states them beside its weights: their names, whether they are on the Hub,
and their licences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError

from biovfm_hf.cards.origin import Origin, hub_id, public_name, read_origin
from biovfm_hf.errors import UserError
from biovfm_hf.hub.network import heed_missing_network

from .earlier import card_license

START, TEACHER = "start", "teacher"
# role of a base model -> a sentence on it
SENTENCES = {
    START: "Training continued from the weights of {}; that model's training data is in this one too.",
    TEACHER: "It was distilled from {}, kept frozen; that model's training data shaped this one too.",
    "anchor": "The similarities between its patches were held to those of {}, kept frozen.",
}


@dataclass(frozen=True)
class BaseModel:
    """A model that had a part in the weights, by its role (`SENTENCES`).

    `name` is a repository's if `on_hub`, else the last part of a path, or another name under which it was loaded.
    """

    name: str
    on_hub: bool
    licence: str | None = None
    role: str = START


def find_bases(model_dir: Path, run_dir: Path | None, stated: Sequence[str] = ()) -> tuple[BaseModel, ...] | None:
    """The models that a model was made from; empty if it began afresh, None if nothing states its origin.

    Args:
        model_dir: the model folder.
        run_dir: the folder of its training run, which has whole paths, so that the licences of folders can be read.
        stated: their names on the Hub as the user gives them, `[NAME=]OWNER/NAME`; without NAME that of the first.

    Raises:
        UserError: the model has no base model of a stated NAME.
    """
    origin = _origin(model_dir, run_dir)
    on_hub = {label: repository for label, _, repository in (word.rpartition("=") for word in stated)}
    first = on_hub.pop("", None)
    if origin is None:
        origin = Origin(first) if first else None
    if origin is None and not on_hub:
        return None
    parts = _parts(origin or Origin())
    labels = [public_name(name) for _, name in parts]
    if first and labels:
        on_hub.setdefault(labels[0], first)
    if unknown := sorted(on_hub.keys() - set(labels)):
        raise UserError(
            f"--base-model {unknown[0]}: {model_dir} was not made from it; its base models are "
            f"{', '.join(dict.fromkeys(labels)) or 'not known'}"
        )
    return tuple(_base(role, name, on_hub.get(label)) for (role, name), label in zip(parts, labels, strict=True))


def _origin(model_dir: Path, run_dir: Path | None) -> Origin | None:
    """What the model folder states; with the run's own, whole paths if the run exported it."""
    stated = read_origin(model_dir)
    if stated is None or run_dir is None:
        return stated
    noted = (read_origin(folder) for folder in sorted((run_dir / "origins").glob("*/")))
    return next((one for one in noted if one and one.renamed(public_name) == stated), stated)


def _parts(origin: Origin) -> list[tuple[str, str]]:
    """(role, name) of each base model, in the order of `SENTENCES`."""
    names = ((origin.start,) if origin.start else (), origin.teachers, origin.anchors)
    return [(role, name) for role, group in zip(SENTENCES, names, strict=True) for name in group]


def _base(role: str, name: str, stated: str | None) -> BaseModel:
    folder = Path(name).expanduser()
    repository = stated or hub_id(name)
    if folder.is_absolute() and folder.is_dir():
        model = folder / "model" if (folder / "model").is_dir() else folder
        return BaseModel(repository or public_name(name), bool(repository), card_license(model / "README.md"), role)
    if repository:
        return BaseModel(repository, True, _hub_licence(repository), role)
    return BaseModel(public_name(name), False, role=role)


def _hub_licence(name: str) -> str | None:
    """The licence that the repository's card states; None if it states none or cannot be fetched."""
    heed_missing_network()
    try:
        licence = ModelCard.load(name).data.get("license")
    except (HfHubHTTPError, OSError, ValueError, TypeError, KeyError):
        return None
    return licence if isinstance(licence, str) else None
