"""Checks a dataset card: `load_dataset` and the Hub must be able to read its YAML, and its files must exist."""

from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard

from biovfm_hf.errors import UserError


def check_dataset_card(text: str, folder: Path) -> None:
    """Read `text` with huggingface_hub's own parser; every configuration must name existing files of `folder`.

    One configuration without files makes all of them unloadable, so such a card is not pushed.

    Raises:
        UserError: no valid YAML block, or a configuration without files.
    """
    try:
        data: dict[str, Any] = DatasetCard(text).data.to_dict()
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder / 'README.md'}: not a dataset card ({error}); correct its YAML block") from error
    if not data.get("license"):
        raise UserError(
            f"{folder / 'README.md'}: states no license; add one to its YAML block (other, if it is mixed)"
        )
    configs = data.get("configs")
    if not isinstance(configs, list) or not configs:
        raise UserError(f"{folder / 'README.md'}: names no configs; run biovfm build again, it writes them")
    for config in configs:
        for pattern in _patterns(config):
            if pattern.startswith("/") or ".." in pattern or next(folder.glob(pattern), None) is None:
                name = config.get("config_name")
                raise UserError(
                    f"{folder / 'README.md'}: configuration {name!r} names {pattern}, but there is no such file, and "
                    "that would break every configuration; run biovfm build again"
                )


def _patterns(config: Any) -> list[str]:
    patterns: list[str] = []
    files = config.get("data_files") if isinstance(config, dict) else None
    for entry in files if isinstance(files, list) else [files]:
        path = entry.get("path") if isinstance(entry, dict) else entry
        paths = path if isinstance(path, list) else [path]
        patterns += [pattern for pattern in paths if isinstance(pattern, str) and pattern]
    return patterns
