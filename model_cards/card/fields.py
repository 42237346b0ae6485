"""The fields of a card's YAML block, which the Hub reads: one entry each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from huggingface_hub import ModelCardData

from ..inputs.compute import energy_kwh
from .earlier import DERIVED_FIELD
from .facts import CardFacts
from .model_index import eval_results


@dataclass(frozen=True)
class Field:
    """A field: its name in huggingface_hub's ModelCardData, its meaning, and its value, None to leave it out."""

    name: str
    meaning: str
    value: Callable[[CardFacts], Any]


def metadata(facts: CardFacts) -> Any:
    """The YAML block of a card, as huggingface_hub's ModelCardData."""
    values = {field.name: field.value(facts) for field in FIELDS}
    return ModelCardData(**{name: value for name, value in values.items() if value is not None})


def _tags(facts: CardFacts) -> list[str]:
    objective = facts.model.objective
    recipe = objective.tag if objective else str(facts.model.config.get("initialization") or "")
    kind = "vit" if facts.model.of_timm is None else "timm"
    tags = ["biovfm", "medical", "biomedical-imaging", "self-supervised-learning", kind]
    return [*tags, recipe] if recipe else tags


def _base_model(facts: CardFacts) -> str | list[str] | None:
    names = list(dict.fromkeys(base.name for base in facts.bases or () if base.on_hub))
    return names[0] if len(names) == 1 else names or None


def _emissions(facts: CardFacts) -> dict[str, Any] | None:
    energy = energy_kwh(facts.run, facts.power)
    if energy is None or facts.power.grams_per_kwh is None:
        return None
    return {
        "emissions": round(energy * facts.power.grams_per_kwh, 3),
        "source": "estimate: logged time, stated power draw and grid intensity",
        "training_type": "pre-training",
    }


FIELDS = [
    Field("license", "licence id", lambda facts: facts.licence.id),
    Field("license_name", "name of a licence without an id", lambda facts: facts.licence.name),
    Field("license_link", "text of a licence without an id", lambda facts: facts.licence.link),
    Field(DERIVED_FIELD, "the derived licence, if nobody stated one",
          lambda facts: None if facts.licence.is_stated else facts.licence.id),
    Field("library_name", "library that loads it", lambda _: "transformers"),
    Field("pipeline_tag", "task of a pipeline that runs it", lambda _: "image-feature-extraction"),
    Field("tags", "words to search by", _tags),
    Field("datasets", "datasets on the Hub it was trained on", lambda facts: list(facts.dataset_ids) or None),
    Field("base_model", "models on the Hub that it was made from", _base_model),
    Field("model_name", "name under which results are shown", lambda facts: facts.name),
    Field("eval_results", "scores with intervals", lambda facts: eval_results(facts.records) or None),
    Field("co2_eq_emissions", "estimated emissions of training", _emissions),
]  # fmt: skip
