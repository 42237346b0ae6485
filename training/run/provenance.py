"""What private sources a run learns from: those of its dataset, and of the weights it starts from."""

from functools import cache
from pathlib import Path

from biovfm_hf.cards.provenance import Provenance, hub_provenance, read_provenance
from biovfm_hf.hub.network import is_path

from ..settings.config import TrainConfig


def run_provenance(config: TrainConfig) -> Provenance:
    """The marks of the dataset and of `model.init_from`, in folders or on the Hub."""
    return _marks(config.data.path, "dataset", config.data.revision) | _marks(config.model.init_from, "model", None)


def _marks(name: str | None, kind: str, revision: str | None) -> Provenance:
    if not name:
        return Provenance()
    folder = Path(name).expanduser()
    if folder.exists() or is_path(name):
        return read_provenance(folder)
    return _marks_on_hub(name, kind, revision)


_marks_on_hub = cache(hub_provenance)  # asked once a run, not at every export
