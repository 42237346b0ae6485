"""The licence that a card states, and a sentence on its origin."""

from collections.abc import Sequence
from dataclasses import dataclass

from biovfm_hf.cards.markdown import plain
from biovfm_hf.cards.provenance import WEIGHT_LICENCES

from ..inputs.dataset import DatasetSummary
from ..inputs.licences import OTHER, UNKNOWN, joint_licence
from .base import BaseModel

ID_OF_OTHER = "see-training-data"


@dataclass(frozen=True)
class Licence:
    """A licence id of the Hub; if it is "unknown", `missing` names the parts without a known licence."""

    id: str
    is_stated: bool = True
    missing: tuple[str, ...] = ()
    weights: str | None = None  # name of the licence of the weights it builds on, which then is its own

    @property
    def name(self) -> str | None:
        """The Hub's name for a licence without an id of its own."""
        return self.weights or (ID_OF_OTHER if self.id == OTHER else None)

    @property
    def link(self) -> str | None:
        """Address of its text, if that is a single text."""
        return WEIGHT_LICENCES.get(self.weights) if self.weights else None

    @property
    def sentence(self) -> str:
        """A sentence on the licence for readers."""
        if self.weights:
            return (
                f"`{self.weights}` ([text]({self.link})), that of the weights this model builds on: it may be "
                "passed on only under it, with a copy of it."
            )
        if self.is_stated:
            return f"`{self.id}`, as stated by the author of this card."
        if self.id == UNKNOWN:
            reason = (
                f"the licence of {plain(', '.join(self.missing), 600)} is not known"
                if self.missing
                else ("the card was written without a dataset folder, and names no base model whose licence is known")
            )
            return f"Not known: {reason}. Find it out before you use the model or pass it on."
        if self.id == OTHER:
            return "Its base model and data have several licences, named above, or unusual ones; all of them apply."
        return f"`{self.id}`, the only licence of its base model and data."


def derived_licence(
    bases: Sequence[BaseModel], dataset: DatasetSummary | None, weights: tuple[str, ...] = ()
) -> Licence:
    """The licence that follows from base models and data sources; one that comes with `weights` takes precedence."""
    if weights:
        return Licence(OTHER, False, weights=weights[0])
    licences = {f"the base model {base.name}": base.licence for base in bases}
    if dataset is None:
        return Licence(UNKNOWN, False, tuple(name for name, licence in licences.items() if licence is None))
    licences |= {f"the source {source}": dataset.licences.get(source) for source in sorted(dataset.sources)}
    missing = tuple(name for name, licence in licences.items() if licence in (None, UNKNOWN))
    return Licence(joint_licence(licences.values()), False, missing)
