"""What a built dataset folder holds: counts, licences, what was left out and why, and sample images."""

import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError, require

from .reading import read_text

MAX_IMAGE_BYTES = 32 * 2**20
FILES_PER_MODALITY = 4
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_BAR = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class DatasetSummary:
    """Counts of a dataset folder. `cells` is {(modality, anatomy): rows}, `outcomes` {reason: inputs}."""

    name: str
    rows: int
    subjects: int | None
    cells: dict[tuple[str, str], int]
    sources: dict[str, int]
    licences: dict[str, str]  # by the source's name in the card, see `licence`
    outcomes: dict[str, int] | None
    outcomes_by_source: dict[tuple[str, str], int]
    files_by_modality: dict[str, list[Path]]

    def licence(self, source: str) -> str:
        """The licence that the dataset card states for a source id, or "not stated"."""
        return self.licences.get(_slug(source), "not stated")


def summarise_dataset(folder: Path) -> DatasetSummary:
    """Count rows of `folder`'s Parquet shards by modality, anatomy and source, and its manifest by outcome.

    Only the text columns are read, one shard at a time.

    Raises:
        UserError: no shards, an unreadable shard, or shards without the columns `source`, `modality`, `anatomy`.
    """
    parquet: Any = require("pyarrow.parquet", "data")
    shards = sorted((folder / "data").glob("**/*.parquet"))
    if not shards:
        raise UserError(f"{folder}: no data/*.parquet in this dataset folder; run biovfm build again, it resumes")
    rows: Counter[tuple[str, str, str]] = Counter()
    subjects: set[Any] = set()
    files: dict[str, list[Path]] = {}
    for shard in shards:
        table = _read_columns(parquet, shard, ["source", "modality", "anatomy"], optional=["subject"])
        counts = _count(table, ["source", "modality", "anatomy"])
        rows.update(counts)
        for modality in {key[1] for key in counts}:
            files.setdefault(modality, []).append(shard)
        if "subject" in table.column_names:
            subjects.update(table["subject"].drop_null().unique().to_pylist())
    outcomes, by_source = _outcomes(parquet, folder / "manifest.parquet")
    cells: Counter[tuple[str, str]] = Counter()
    sources: Counter[str] = Counter()
    for (source, modality, anatomy), count in rows.items():
        cells[modality, anatomy] += count
        sources[source] += count
    return DatasetSummary(
        name=folder.resolve().name,
        rows=rows.total(),
        subjects=len(subjects) or None,
        cells=dict(cells),
        sources=dict(sources),
        licences=read_licences(folder / "README.md"),
        outcomes=outcomes,
        outcomes_by_source=by_source,
        files_by_modality=files,
    )


def _read_columns(parquet: Any, file: Path, names: list[str], optional: list[str]) -> Any:
    try:
        reader = parquet.ParquetFile(file)
        present = set(reader.schema_arrow.names)
        missing = [name for name in names if name not in present]
        if missing:
            raise UserError(
                f"{file}: no column {missing[0]!r}, so biovfm build did not write it; give its output folder"
            )
        return reader.read(columns=names + [name for name in optional if name in present])
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise UserError(f"{file}: not readable as Parquet ({reason}); run biovfm build again, it resumes") from error


def _count(table: Any, names: list[str]) -> dict[Any, int]:
    grouped = table.group_by(names).aggregate([([], "count_all")])
    columns = [[_word(value) for value in grouped[name].to_pylist()] for name in names]
    return dict(zip(zip(*columns, strict=True), grouped["count_all"].to_pylist(), strict=True))


def _word(value: object) -> str:
    return "not stated" if value is None or value == "" else str(value)


def _outcomes(parquet: Any, manifest: Path) -> tuple[dict[str, int] | None, dict[tuple[str, str], int]]:
    """Inputs by outcome, and by (source, outcome). `outcome` may say "dropped" with the reason in `reason`."""
    if not manifest.is_file():
        return None, {}
    table = _read_columns(parquet, manifest, ["outcome"], optional=["source", "reason"])
    names = [name for name in ("source", "outcome", "reason") if name in table.column_names]
    totals: Counter[str] = Counter()
    by_source: Counter[tuple[str, str]] = Counter()
    for key, count in _count(table, names).items():
        row = dict(zip(names, key, strict=True))
        outcome = row["outcome"]
        if outcome != "kept" and row.get("reason", "not stated") != "not stated":
            outcome = row["reason"]
        totals[outcome] += count
        by_source[row.get("source", "not stated"), outcome] += count
    return dict(totals), dict(by_source)


def read_licences(readme: Path) -> dict[str, str]:
    """{source: licence} from the dataset card: the Markdown table with a `source` and a `licence`/`license` column.

    A source is found by its id: the cell's own words in lower case with hyphens, or those before a bracket, as ids are
    formed from names.
    """
    if not readme.is_file():
        return {}
    licences: dict[str, str] = {}
    columns: tuple[int, int] | None = None
    for line in read_text(readme, 8 * 2**20).splitlines():
        if not line.lstrip().startswith("|"):
            columns = None
            continue
        cells = [_LINK.sub(r"\1", cell.strip().strip("`")) for cell in _BAR.split(line.strip().strip("|"))]
        if columns is None:
            columns = _licence_columns(cells) or (-1, -1)
        elif columns[0] >= 0 and len(cells) > max(columns) and not set(cells[columns[0]]) <= set("-: "):
            name, licence = cells[columns[0]], cells[columns[1]].replace("\\|", "|")
            for key in (_slug(name.split(" (")[0]), _slug(name)):
                licences.setdefault(key, licence)
    return licences


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _licence_columns(header: list[str]) -> tuple[int, int] | None:
    words = [cell.lower() for cell in header]
    source = next((i for i, word in enumerate(words) if word in ("source", "id", "source id")), None)
    licence = next((i for i, word in enumerate(words) if word.startswith(("licence", "license", "terms"))), None)
    return None if source is None or licence is None else (source, licence)


def sample_images(summary: DatasetSummary, per_modality: int = 6, seed: int = 0) -> dict[str, list[tuple[str, bytes]]]:
    """A few images of each modality, drawn with `seed`: {modality: [(alternative text, encoded image)]}.

    At most four shards per modality are opened, and of each only the row groups that hold a drawn row.
    """
    chooser = random.Random(seed)
    samples: dict[str, list[tuple[str, bytes]]] = {}
    for modality in sorted(summary.files_by_modality):
        files = summary.files_by_modality[modality]
        chosen = chooser.sample(files, min(FILES_PER_MODALITY, len(files)))
        found: list[tuple[str, bytes]] = []
        for position, file in enumerate(chosen):
            wanted = -(-(per_modality - len(found)) // (len(chosen) - position))
            found += _draw(file, modality, wanted, chooser)
        samples[modality] = found
    return samples


def _draw(file: Path, modality: str, wanted: int, chooser: random.Random) -> list[tuple[str, bytes]]:
    parquet: Any = require("pyarrow.parquet", "data")
    reader = parquet.ParquetFile(file)
    modalities = [_word(value) for value in reader.read(columns=["modality"])["modality"].to_pylist()]
    rows = [row for row, value in enumerate(modalities) if value == modality]
    picked = sorted(chooser.sample(rows, min(wanted, len(rows))))
    images: list[tuple[str, bytes]] = []
    start = 0
    for group in range(reader.num_row_groups):
        size = reader.metadata.row_group(group).num_rows
        inside = [row - start for row in picked if start <= row < start + size]
        if inside:
            columns = [name for name in ("image", "source", "anatomy", "view") if name in reader.schema_arrow.names]
            table = reader.read_row_group(group, columns=columns).take(inside)
            images += [_described(row, modality) for row in table.to_pylist()]
        start += size
    return [(text, raw) for text, raw in images if 0 < len(raw) <= MAX_IMAGE_BYTES]


def _described(row: dict[str, Any], modality: str) -> tuple[str, bytes]:
    parts = [modality, row.get("anatomy"), row.get("view"), f"from {row.get('source')}"]
    image = row.get("image") or {}
    return ", ".join(str(part) for part in parts if part), image.get("bytes") or b""
