"""The base model that training continued from or distilled: its name, whether it is on the Hub, and its licence."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError

from biovfm_hf.cards.origin import folder_name
from biovfm_hf.hub.network import heed_missing_network, is_path
from biovfm_hf.reading.documents import read_yaml

from ..inputs.run import RunSummary
from .earlier import card_license


@dataclass(frozen=True)
class BaseModel:
    """A model whose weights were the start, or the frozen teacher of a distillation if it `teaches`.

    `name` is a repository's if `on_hub`, else the last part of a path.
    """

    name: str
    on_hub: bool
    licence: str | None = None
    teaches: bool = False


def find_base(model_dir: Path, run: RunSummary | None, stated: str | None) -> BaseModel | None:
    """The model that training continued from, by the run or the settings beside the weights; None if it began afresh.

    Args:
        model_dir: the model folder.
        run: its training run, if there is one.
        stated: the base model's name on the Hub, as the user gives it.
    """
    settings = model_dir / "training_config.yaml"
    config = run.config if run is not None else read_yaml(settings) if settings.is_file() else {}
    start, teaches = _start(config)
    folder = Path(start).expanduser() if start else None
    if folder is not None and folder.is_dir():
        model = folder / "model" if (folder / "model").is_dir() else folder
        licence = card_license(model / "README.md")
        return BaseModel(stated or folder_name(model), stated is not None, licence, teaches)
    name = stated or start
    if name is None:
        return None
    if stated is None and (is_path(name) or "/" not in name):
        return BaseModel(Path(name).name, False, teaches=teaches)
    return BaseModel(name, True, _hub_licence(name), teaches)


def _start(config: dict[str, Any]) -> tuple[str | None, bool]:
    """The weights that training continued from, else those of the frozen teacher that it distilled, and True."""
    for section, key, teaches in (("model", "init_from", False), ("distill", "teacher", True)):
        settings = config.get(section)
        start = settings.get(key) if isinstance(settings, dict) else None
        if isinstance(start, str) and start:
            return start, teaches
    return None, False


def _hub_licence(name: str) -> str | None:
    """The licence that the repository's card states; None if it states none or cannot be fetched."""
    heed_missing_network()
    try:
        licence = ModelCard.load(name).data.get("license")
    except (HfHubHTTPError, OSError, ValueError, TypeError, KeyError):
        return None
    return licence if isinstance(licence, str) else None
