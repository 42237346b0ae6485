"""Licences of a dataset's sources from `build.json`, and the joint licence of a model made from them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from biovfm_hf.reading.documents import read_json

UNKNOWN = "unknown"
OTHER = "other"
# the Hub's ids, without those of software
HUB_LICENCES = frozenset(
    (
        *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "agpl-3.0", "cc0-1.0", "cc", "pddl", "odbl"),
        *("cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0"),
        *("cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0"),
        *("cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
    )
)


def read_licences(build: Path) -> dict[str, str]:
    """{source id: licence} from a dataset folder's `build.json`, without sources whose licence is not established.

    Raises:
        UserError: the file is not JSON.
    """
    content: Any = read_json(build) if build.is_file() else None
    licences = content.get("licences") if isinstance(content, dict) else None
    return {str(source): str(text) for source, text in licences.items() if text} if isinstance(licences, dict) else {}


def hub_licence(text: str) -> str:
    """The Hub's id for a licence in a record's words (`CC BY 4.0`, `CC0-1.0`), or "other"."""
    name = "-".join(text.lower().replace("_", " ").replace("-", " ").split())
    name = {"cc0": "cc0-1.0", "public-domain": "cc0-1.0"}.get(name, name)
    return name if name in HUB_LICENCES else OTHER


def joint_licence(licences: Iterable[str | None]) -> str:
    """The licence of a work made from several others: their only one; "other" if they differ or one is unusual.

    None stands for an unknown licence. The result is "unknown" if one of them is unknown, or if there are none.
    """
    ids = {None if licence is None else licence if licence in (UNKNOWN, OTHER) else hub_licence(licence)
           for licence in licences}  # fmt: skip
    if not ids or None in ids or UNKNOWN in ids:
        return UNKNOWN
    (only, *others) = sorted(str(licence) for licence in ids)
    return OTHER if others else only
