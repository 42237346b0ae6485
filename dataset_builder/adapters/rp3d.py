"""The case lists of RP3D-DiagDS, {case URL: {"Samples": [{"image_path": [...], "anatomy": ...}]}}, as rows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHUNK = 1 << 20
MAX_CASE_CHARACTERS = 64 << 20


def case_rows(file: Path) -> Iterator[dict[str, str]]:
    """Rows {image_path, case, anatomy}, one case in memory at a time however large the list is.

    Raises:
        ValueError: the file is no JSON object of cases.
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
        text, at = opened.read(CHUNK).lstrip(), 1
        if not text.startswith("{"):
            raise ValueError("not a JSON object of cases")
        while True:
            try:
                at = _skip(text, at, " \t\r\n,")
                if text.startswith("}", at):
                    return
                key, after = decoder.raw_decode(text, at)
                after = _skip(text, after, " \t\r\n:")
                value, after = decoder.raw_decode(text, after)
                if after == len(text):  # a number or word may go on in the next chunk
                    raise json.JSONDecodeError("more to come", text, after)
            except json.JSONDecodeError:
                more = opened.read(max(CHUNK, len(text) - at))  # doubling keeps the work linear
                if not more or len(text) - at > MAX_CASE_CHARACTERS:
                    raise ValueError("broken or endless entry in the list of cases") from None
                text, at = text[at:] + more, 0
                continue
            yield str(key), value
            at = after


def _skip(text: str, at: int, letters: str) -> int:
    while at < len(text) and text[at] in letters:
        at += 1
    return at
