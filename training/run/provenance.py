"""Provenance of a run's models: private sources of its dataset, and restrictions on its initial weights."""

from functools import cache
from pathlib import Path

from biovfm_hf.cards.provenance import Provenance, hub_provenance, read_provenance
from biovfm_hf.conversion.read import weights_provenance
from biovfm_hf.errors import UserError
from biovfm_hf.hub.network import is_path

from ..settings.config import TrainConfig


def run_provenance(config: TrainConfig) -> Provenance:
    """The provenance of the dataset, of `model.init_from` and of teachers, in folders or on the Hub."""
    marks = _marks(config.data.path, "dataset", config.data.revision)
    for weights in (config.model.init_from, *config.teachers):
        marks |= _marks(weights, "model", None)
    return marks


def _marks(name: str | None, kind: str, revision: str | None) -> Provenance:
    if not name:
        return Provenance()
    folder = Path(name).expanduser()
    if kind == "model" and folder.exists() and not (folder / "checkpoints").is_dir():
        return _marks_of_weights(str(folder))
    if folder.exists() or is_path(name):
        return read_provenance(folder)
    return _marks_on_hub(name, kind, revision) | (_marks_of_hub_weights(name) if kind == "model" else Provenance())


# read once per run, not at every export
_marks_on_hub = cache(hub_provenance)
_marks_of_weights = cache(weights_provenance)


@cache
def _marks_of_hub_weights(name: str) -> Provenance:
    try:
        return weights_provenance(name)
    except UserError:  # a new run needs these weights anyway, and a continued one has its provenance
        return Provenance()
