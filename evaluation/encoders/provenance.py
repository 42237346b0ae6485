"""Restrictions on work that builds on an encoder, such as a student that is distilled from it."""

from biovfm_hf.cards.provenance import Provenance
from biovfm_hf.conversion.provenance import weights_provenance

from .families import find_family, place_of
from .lineup import LINEUP
from .load import split_label


def encoder_provenance(name: str) -> Provenance:
    """The restrictions of an encoder by any name that `load_encoder` takes.

    They come from the line-up, from what its family states of its pretrained weights, and from its folder, file or
    repository.

    Raises:
        UserError: the provenance.json or config.json of its folder is damaged.
    """
    _, source = split_label(name)
    licences: tuple[str, ...] = ()
    if known := LINEUP.get(source.lower()):
        source, licences = known.source, known.binding
    licences += find_family(source).licences(source)
    return weights_provenance(place_of(source)) | Provenance(licences=licences)
