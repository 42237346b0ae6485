"""Restrictions on work that builds on weights: from their folder's own file, their configuration and their tensors."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cards.provenance import WEIGHT_LICENCES, Provenance, hub_provenance, read_provenance
from ..errors import UserError
from ..hub.files import hub_file
from ..hub.network import heed_missing_network, is_repository
from .place import read_object

if TYPE_CHECKING:
    from torch import Tensor

_TELLING = ("model_type", "architecture")  # what a config.json of transformers or timm states


def weights_provenance(source: str) -> Provenance:
    """Restrictions on work that builds on these weights.

    Args:
        source: a weight file, a model folder or a Hub repo id. What is not there or cannot be read as weights
            restricts nothing; loading it fails anyway.

    Raises:
        UserError: the folder's provenance.json or config.json is damaged, so its restrictions are unknown.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        stated = read_object(path / "config.json")
        return read_provenance(path) | licences_of(stated, _tensors(source, stated))
    if path.exists():
        return licences_of({}, _tensors(source, {}))
    if not is_repository(source):
        return Provenance()
    heed_missing_network()
    file = hub_file(source, "config.json", "model")
    stated = read_object(file) if file else {}
    return hub_provenance(source, "model") | licences_of(stated, _tensors(source, stated))


def licences_of(stated: dict[str, Any], tensors: "dict[str, Tensor]") -> Provenance:
    """The licences that follow from the content of a config.json, and from the names of tensors.

    timm writes the licence of its pretrained weights into the file. transformers writes the model type, of a tower or
    a backbone inside the model too.
    """
    from . import dinov3

    licences = {value for key, value in _entries(stated) if key == "license" and value in WEIGHT_LICENCES}
    types = [value for key, value in _entries(stated) if key == "model_type"]
    if any(kind.startswith(dinov3.FAMILY) for kind in types) or dinov3.is_dinov3(tensors):
        licences.add(dinov3.LICENCE)
    return Provenance(licences=tuple(sorted(licences)))


def _entries(stated: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The keys with text, at any depth."""
    for key, value in stated.items():
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, dict):
            yield from _entries(value)


def _tensors(source: str, stated: dict[str, Any]) -> "dict[str, Tensor]":
    """The tensors of weights whose config.json does not tell what they are; none if they cannot be read."""
    from .weights import locate, read_tensors

    if not any(key in stated for key in _TELLING):
        with suppress(UserError):
            return read_tensors(locate(source))
    return {}
