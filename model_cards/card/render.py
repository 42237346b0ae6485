"""Renders a card, YAML block and sections, and checks it with the Hub's own parser."""

import re
from typing import Any

from huggingface_hub import ModelCard

from biovfm_hf.cards.markdown import plain
from biovfm_hf.errors import UserError
from biovfm_hf.results.record import Interval, Record

from .. import formats
from ..inputs.results import Comparison, interval_text
from ..templating import template_environment
from .earlier import END
from .facts import CardFacts
from .fields import metadata
from .sections import SECTIONS, head, results


def render_card(facts: CardFacts) -> str:
    """The whole README.md text: YAML block and Markdown body, checked by `check_card`."""
    parts = [_rendered("head", head(facts))]
    chosen = [(section, section.variables(facts)) for section in SECTIONS]
    parts += [
        f"## {one.title}\n\n{_rendered(one.name, variables)}" for one, variables in chosen if variables is not None
    ]
    text = f"---\n{metadata(facts).to_yaml()}\n---\n\n" + "\n\n".join([*parts, END]) + "\n"
    check_card(text)
    return text


def render_results(records: list[Record], name: str) -> str:
    """Only the section on results: one model's records, as `render_card` writes them under the title `name`."""
    return f"## Results\n\n{_rendered('results', results(records, name, []))}\n"


def check_card(text: str) -> None:
    """Read `text` back with huggingface_hub's own parser: metadata must parse and every result must survive.

    Raises:
        UserError: the text is not a valid card.
    """
    try:
        card = ModelCard(text)
        again = ModelCard(f"---\n{card.data.to_yaml()}\n---\n")
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"README.md: huggingface_hub does not accept this card ({error}); correct its YAML block"
        ) from error
    if not card.data.get("license"):
        raise UserError("README.md: states no license; add one to its YAML block, or write the card with: biovfm card")
    if card.data.get("eval_results") != again.data.get("eval_results"):
        raise UserError("README.md: the card's results change when read back; write it again: biovfm card")


def _rendered(name: str, variables: dict[str, Any]) -> str:
    environment = template_environment(
        md=plain,
        interval=interval_text,
        code=_code,
        percent=_percent,
        p=formats.p_value,
        difference=_difference,
    )
    text = environment.get_template(f"card/{name}.md.j2").render(**variables)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text)).strip()


def _code(value: object) -> str:
    return " ".join(str(value).replace("`", "'").replace("|", "/").split())[:200]


def _difference(row: Comparison) -> str:
    bounds = "" if row.low is None or row.high is None else f" [{row.low:+.3f}, {row.high:+.3f}]"
    return f"{row.difference:+.3f}{bounds}"


def _percent(entry: Interval | list[float]) -> str:
    value, low, high = (entry.value, entry.low, entry.high) if isinstance(entry, Interval) else entry
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"
