"""Reads the case lists of RP3D-DiagDS, {case URL: {"Samples": [{"image_path": [...], "anatomy": ...}]}}, as rows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHUNK = 1 << 20
MAX_CASE_CHARACTERS = 64 << 20


def case_rows(file: Path) -> Iterator[dict[str, str]]:
    """Rows {image_path, case, anatomy}, one case in memory at a time however large the list is.

    Raises:
        ValueError: the file is not a JSON object of cases.
    """
    for case, content in _entries(file):
        samples = content.get("Samples") if isinstance(content, dict) else None
        for sample in samples if isinstance(samples, list) else []:
            paths = sample.get("image_path") if isinstance(sample, dict) else None
            for path in [paths] if isinstance(paths, str) else paths or []:
                yield {"image_path": str(path), "case": case, "anatomy": str(sample.get("anatomy") or "")}


def _entries(file: Path) -> Iterator[tuple[str, Any]]:
    """Key and value of each entry of a JSON object that is too large to load."""
    decoder = json.JSONDecoder()
    with file.open(encoding="utf-8") as opened:
        text, at, first = opened.read(CHUNK).lstrip(), 1, True
        if not text.startswith("{"):
            raise ValueError("not a JSON object of cases")
        while True:
            try:
                after = _skip(text, at)
                if text[after] == "}":
                    return
                after = after if first else _skip(text, _past(text, after, ","))
                key, after = decoder.raw_decode(text, after)
                value, after = decoder.raw_decode(text, _skip(text, _past(text, _skip(text, after), ":")))
                text[_skip(text, after)]  # a number may continue in the next chunk, so the next sign must be here
            except (json.JSONDecodeError, IndexError):
                more = opened.read(max(CHUNK, len(text) - at))  # doubling keeps the work linear
                if not more or len(text) - at > MAX_CASE_CHARACTERS:
                    raise ValueError("broken or endless entry in the list of cases") from None
                text, at = text[at:] + more, 0
                continue
            yield str(key), value
            at, first = after, False


def _past(text: str, at: int, letter: str) -> int:
    if text[at] != letter:
        raise json.JSONDecodeError(f"no {letter}", text, at)
    return at + 1


def _skip(text: str, at: int) -> int:
    """The next place in `text` that is not white space."""
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at
