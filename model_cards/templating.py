"""The Jinja environment that cards and reports are rendered in."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import formats

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


def template_environment(autoescape: bool = False, **filters: Any) -> "Environment":
    """The templates of this room, strict about names, with the filters of both pages and `filters`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(count=formats.count, number=formats.number, duration=formats.duration, **filters)
    return environment
