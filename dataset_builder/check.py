"""Proof that a dataset is complete: manifest, files and plan agree, and stored pixels are what their hashes say."""

import json
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from biovfm_hf.errors import UserError

from .finish import SAMPLE
from .hashing import sha256_of_pixels
from .plan import load_plan
from .schema import COLUMNS
from .shard import KEPT

DECODED_PER_FILE = 20  # images of each file whose pixels are hashed again


def faults(out: Path) -> tuple[dict[str, int], list[str]]:
    """Counts of the manifest's outcomes, and everything that does not add up, one line each.

    Raises:
        UserError: the folder holds no finished build.
    """
    try:
        summary = json.loads((out / "build.json").read_text(encoding="utf-8"))
        manifest = pq.ParquetFile(out / "manifest.parquet")
    except FileNotFoundError as error:
        raise UserError(f"{out}: holds no finished dataset ({Path(error.filename).name} is missing)") from error
    outcomes: Counter[str] = Counter()
    rows: dict[str, list[tuple[str, str]]] = {}
    for batch in manifest.iter_batches(columns=["outcome", "shard", "row", "path", "sha256"]):
        for line in batch.to_pylist():
            outcomes[line["outcome"]] += 1
            if line["outcome"] == KEPT:
                of_file = rows.setdefault(line["shard"], [])
                if line["row"] != len(of_file):
                    return dict(outcomes), [f"manifest: rows of {line['shard']} are not counted from 0 without gaps"]
                of_file.append((line["path"], line["sha256"]))
    found = _against_summary(summary, outcomes)
    files = {path.relative_to(out).as_posix() for path in (out / "data").rglob("*.parquet")}
    found += [f"{name}: not in the manifest" for name in sorted(files - rows.keys())]
    found += [f"{name}: in the manifest, not on disk" for name in sorted(rows.keys() - files)]
    for name in sorted(files & rows.keys()):
        found += _against_file(out / name, name, rows[name], summary["options"]["image_format"] == "png")
    found += _against_sample(out, summary["sampled"], {pair for pairs in rows.values() for pair in pairs})
    return dict(outcomes), found + _against_plan(out)


def _against_summary(summary: dict[str, Any], outcomes: Counter[str]) -> list[str]:
    found = []
    if summary["considered"] != outcomes.total():
        found.append(f"build.json: {summary['considered']} considered, the manifest has {outcomes.total()}")
    if summary["outcomes"] != dict(outcomes):
        found.append("build.json: its counts by outcome are not the manifest's")
    if summary["kept"] + sum(n for reason, n in outcomes.items() if reason != KEPT) != outcomes.total():
        found.append("build.json: considered is not kept plus dropped")
    return found


def _against_file(path: Path, name: str, rows: list[tuple[str, str]], lossless: bool) -> list[str]:
    file = pq.ParquetFile(path)
    if tuple(file.schema_arrow.names) != COLUMNS:
        return [f"{name}: its columns are {', '.join(file.schema_arrow.names)}"]
    stored = file.read(columns=["path", "sha256"])
    pairs = list(zip(stored["path"].to_pylist(), stored["sha256"].to_pylist(), strict=True))
    if pairs != rows:
        return [f"{name}: its {len(pairs)} rows are not the manifest's {len(rows)}"]
    if not lossless:
        return []
    found = []
    for group in np.unique(np.linspace(0, file.num_row_groups - 1, DECODED_PER_FILE).astype(int)):
        row = file.read_row_group(int(group), columns=["image", "sha256"]).slice(0, 1).to_pylist()[0]
        if sha256_of_pixels(np.asarray(Image.open(BytesIO(row["image"]["bytes"])))) != row["sha256"]:
            found.append(f"{name}: row group {group}: the pixels are not those of sha256")
    return found


def _against_sample(out: Path, count: int, kept: set[tuple[str, str]]) -> list[str]:
    """The files of config 0.2m hold as many rows as were chosen, all of them rows of the dataset."""
    found, total = [], 0
    for path in sorted((out / SAMPLE).glob("*.parquet")):
        stored = pq.read_table(path, columns=["path", "sha256"])
        pairs = set(zip(stored["path"].to_pylist(), stored["sha256"].to_pylist(), strict=True))
        total += len(stored)
        if strangers := len(pairs - kept):
            found.append(f"{SAMPLE}/{path.name}: {strangers} of its rows are not in the dataset")
    return found if total == count else [*found, f"{SAMPLE}: holds {total} rows of {count}"]


def _against_plan(out: Path) -> list[str]:
    """Every input of the plan has at least one line; passed over where the work folder was removed."""
    try:
        plan = load_plan(out)
    except FileNotFoundError:
        return []
    found = []
    for number, shard in enumerate(plan.shards):
        items = pq.read_table(plan.candidates_path(number), columns=["item"])["item"].to_numpy()
        if len(np.unique(items)) != shard.items:
            found.append(
                f"plan: shard {number} has {shard.items} inputs, the manifest tells of {len(np.unique(items))}"
            )
    return found
