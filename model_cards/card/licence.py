"""The licence that a card states, and the sentence that says where it is from."""

from dataclasses import dataclass

from biovfm_hf.cards.markdown import plain
from biovfm_hf.cards.provenance import WEIGHT_LICENCES

from ..inputs.dataset import DatasetSummary
from ..inputs.licences import OTHER, UNKNOWN, joint_licence
from .base import BaseModel

ID_OF_OTHER = "see-training-data"


@dataclass(frozen=True)
class Licence:
    """A licence id of the Hub; `missing` names what has no known licence, where it is "unknown" for that reason."""

    id: str
    is_stated: bool = True
    missing: tuple[str, ...] = ()
    weights: str | None = None  # the licence of the weights it goes on from, which then is its own, by name

    @property
    def name(self) -> str | None:
        """The Hub's name for a licence without an id of its own."""
        return self.weights or (ID_OF_OTHER if self.id == OTHER else None)

    @property
    def link(self) -> str | None:
        """Where its text is, where that is one text."""
        return WEIGHT_LICENCES.get(self.weights) if self.weights else None

    @property
    def sentence(self) -> str:
        """What a reader must know of it."""
        if self.weights:
            return (
                f"`{self.weights}` ([text]({self.link})), that of the weights this model goes on from: it may be "
                "passed on only under it, with a copy of it."
            )
        if self.is_stated:
            return f"`{self.id}`, as stated by who wrote this card."
        if self.id == UNKNOWN:
            reason = (
                f"the licence of {plain(', '.join(self.missing), 600)} is not known"
                if self.missing
                else ("the card was written without a dataset folder, and names no base model whose licence is known")
            )
            return f"Not known: {reason}. It has to be found out before the model is used or passed on."
        if self.id == OTHER:
            return (
                "What it was made from has several licences, named above, or unusual ones; all of them have to be met."
            )
        return f"`{self.id}`, the one licence of all that it was made from."


def derived_licence(base: BaseModel | None, dataset: DatasetSummary | None, weights: tuple[str, ...] = ()) -> Licence:
    """What the licences of the base model and of the data's sources leave; one that goes with `weights` stands."""
    if weights:
        return Licence(OTHER, False, weights=weights[0])
    licences: dict[str, str | None] = {}
    if base is not None:
        licences[f"the base model {base.name}"] = base.licence
    if dataset is None:
        return Licence(UNKNOWN, False, tuple(name for name, licence in licences.items() if licence is None))
    licences |= {f"the source {source}": dataset.licences.get(source) for source in sorted(dataset.sources)}
    missing = tuple(name for name, licence in licences.items() if licence in (None, UNKNOWN))
    return Licence(joint_licence(licences.values()), False, missing)
