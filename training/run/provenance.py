"""Where a run's models come from: the weights behind each, and the restrictions that these and the dataset bring.

A run notes this in its folder when it begins, in `origins/NAME/` for the exported model NAME, because a continued run
needs neither those weights nor the first dataset folder, so both may be gone.
"""

import shutil
from dataclasses import dataclass
from functools import cache, reduce
from operator import or_
from pathlib import Path

from biovfm_hf.cards.origin import Origin, public_name, read_origin, whole_name, write_origin
from biovfm_hf.cards.provenance import Provenance, hub_provenance, read_provenance, write_provenance
from biovfm_hf.conversion.provenance import weights_provenance
from biovfm_hf.errors import UserError
from biovfm_hf.front_door import encoder_provenance
from biovfm_hf.hub.network import is_path, is_repository

from ..settings.config import TrainConfig
from ..settings.weights import is_run

_NOTES = "origins"


@dataclass(frozen=True)
class Lineage:
    """The weights that an exported model is made from, and the restrictions that they and the dataset bring."""

    origin: Origin
    provenance: Provenance

    def write(self, folder: Path) -> None:
        """Write both into a model folder, which may be published: without this machine's paths."""
        write_origin(folder, self.origin.renamed(public_name))
        write_provenance(folder, self.provenance)


def lineages(config: TrainConfig, begun: bool = False) -> dict[str, Lineage]:
    """The lineage of each exported model, as far as the weights and the dataset that the settings name are there.

    Raises:
        UserError: they are there, but cannot be read, and the run has not `begun`.
    """
    data = _provenance_of_data(config)
    return {
        name: Lineage(origin.renamed(whole_name), data | _provenance_of_origin(origin, name, begun))
        for name, origin in config.origins.items()
    }


def run_provenance(lineages: dict[str, Lineage]) -> Provenance:
    """The restrictions of a whole run."""
    return reduce(or_, (one.provenance for one in lineages.values()))


def note_lineages(out: Path, config: TrainConfig, begun: bool) -> dict[str, Lineage]:
    """Write the lineages into the run folder, and return them.

    If the run has `begun`, its models keep the origins that it noted then, and its restrictions are added to.
    """
    run_lineages = lineages(config, begun)
    if not begun:
        shutil.rmtree(out / _NOTES, ignore_errors=True)
    else:
        run_lineages = {name: _joined(out, name, one) for name, one in run_lineages.items()}
    for name, one in run_lineages.items():
        write_origin(out / _NOTES / name, one.origin)
        write_provenance(out / _NOTES / name, one.provenance)
    write_provenance(out, run_provenance(run_lineages))
    return run_lineages


def _joined(out: Path, name: str, now: Lineage) -> Lineage:
    return Lineage(read_origin(out / _NOTES / name) or now.origin, now.provenance | _noted(out, name))


def _noted(run: Path, name: str) -> Provenance:
    """The restrictions of the model `name` of a run; those of all its models if it did not note them one by one."""
    own = run / _NOTES / name
    return read_provenance(own if own.is_dir() else run)


def _provenance_of_data(config: TrainConfig) -> Provenance:
    path = config.data.path
    if not path:
        return Provenance()
    folder = Path(path).expanduser()
    if folder.exists() or is_path(path):
        return read_provenance(folder)
    return _provenance_on_hub(path, "dataset", config.data.revision)


def _provenance_of_origin(origin: Origin, name: str, begun: bool) -> Provenance:
    """The restrictions of the weights behind the model `name`; a run gives its model of that name, or its main one."""
    provenance = _provenance_of_weights(origin.start, name, begun) if origin.start else Provenance()
    frozen = (*origin.teachers, *origin.anchors)
    return reduce(or_, (_provenance_of_weights(weights, "model", begun) for weights in frozen), provenance)


def _provenance_of_weights(weights: str, name: str, begun: bool) -> Provenance:
    if is_run(weights):
        return _noted(Path(weights), name)
    is_place = Path(weights).expanduser().exists() or is_repository(weights)
    try:
        return _provenance_of_place(weights) if is_place else _provenance_of_encoder(weights)
    except UserError:
        if begun:  # it has noted its restrictions, and does not need these weights
            return Provenance()
        raise


# read once per run, not at every export
_provenance_on_hub = cache(hub_provenance)
_provenance_of_place = cache(weights_provenance)
_provenance_of_encoder = cache(encoder_provenance)
