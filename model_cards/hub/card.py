"""Checks the card of a pushed folder for the Hub, and puts the repository's name into its usage lines."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from huggingface_hub.utils import get_session, hf_raise_for_status

from biovfm_hf.cards.provenance import read_provenance
from biovfm_hf.errors import UserError
from biovfm_hf.hub.calls import steady

from ..card.earlier import END
from ..card.numbers import changed_tables, check_numbers
from ..card.render import check_card
from ..inputs.files import read_readme
from .dataset_card import check_dataset_card


def read_card(folder: Path) -> str:
    """The text of a folder's README.md.

    Raises:
        UserError: there is none.
    """
    readme = folder / "README.md"
    if not readme.is_file():
        raise UserError(f"{folder}: no README.md; write it with: biovfm card {folder} (a dataset: biovfm build)")
    return read_readme(readme)


def check_pushed_card(card: str, folder: Path, kind: str) -> tuple[str, ...]:
    """Check the card of a repository of this kind against the folder; returns remarks for the user.

    Raises:
        UserError: it is not valid, or states scores that are not in the folder's results file.
    """
    if kind == "dataset":
        check_dataset_card(card, folder)
    if kind != "model":
        return ()
    check_card(card)
    check_numbers(card, folder)
    _check_licence(card, folder)
    if not changed_tables(card, folder):
        return ()
    return (
        f"{folder / 'README.md'}: its tables of results are not those that biovfm card writes from "
        f"{folder / 'results' / 'biovfm.json'} (edited, or of another version); to renew them: "
        f"biovfm card {folder} --results DIR",
    )


def _check_licence(card: str, folder: Path) -> None:
    """Refuse a card with another licence than that of the weights the model builds on, if they are bound by one.

    Raises:
        UserError: the card states another licence.
    """
    for name in read_provenance(folder).licences:
        if ModelCard(card, ignore_metadata_errors=True).data.get("license_name") != name:
            raise UserError(
                f"{folder / 'README.md'}: the model builds on weights under {name} (provenance.json), which its "
                f"card must state as license_name; write it again with: biovfm card {folder}"
            )


def let_hub_check(api: Any, card: str, kind: str) -> None:
    """Let the Hub validate the card (its licence, for instance) before anything is sent, since the card is sent last.

    Raises:
        UserError: the Hub refuses it.
    """
    steady(lambda: _let_hub_check(api, card, kind), "checking the card")


def _let_hub_check(api: Any, card: str, kind: str) -> None:
    answer = get_session().post(f"{api.endpoint}/api/validate-yaml", json={"content": card, "repoType": kind})
    if answer.status_code == 400:
        reasons = "; ".join(str(error.get("message")) for error in answer.json().get("errors", []))
        raise UserError(f"README.md: the Hub does not accept its YAML block ({reasons[:300]}); fix it and push again")
    hf_raise_for_status(answer)


def name_repository(text: str, repo_id: str) -> str:
    """Card text whose Python blocks load `repo_id` instead of a local folder or a placeholder.

    The owner's text below the last line of a written card is not changed.
    """
    written, end, own = text.partition(END)

    def renamed(block: re.Match[str]) -> str:
        pattern = r'(from_pretrained\(|load_dataset\(|pipeline\("[\w-]+", model=)"[^"\n]*"'
        return re.sub(pattern, lambda call: f'{call.group(1)}"{repo_id}"', block.group(0))

    return re.sub(r"^```python\n.*?^```", renamed, written, flags=re.DOTALL | re.MULTILINE) + end + own
