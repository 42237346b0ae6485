"""Summarises a built dataset folder: counts, licences, what was left out and why, and sample images."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biovfm_hf.cards.provenance import Provenance, read_provenance
from biovfm_hf.errors import UserError, require

from .leakage import Leakage, read_leakage
from .licences import read_licences

MAX_IMAGE_BYTES = 32 * 2**20
FILES_PER_MODALITY = 4
MAX_SUBJECTS = 5_000_000
BATCH_ROWS = 500_000


@dataclass(frozen=True)
class DatasetSummary:
    """Counts of a dataset folder. `cells` is {(modality, anatomy): rows}, `outcomes` {reason: inputs}."""

    name: str
    rows: int
    subjects: int | None
    cells: dict[tuple[str, str], int]
    sources: dict[str, int]
    licences: dict[str, str]
    outcomes: dict[str, int] | None
    outcomes_by_source: dict[tuple[str, str], int]
    leakage: Leakage | None
    provenance: Provenance
    files_by_modality: dict[str, list[Path]]

    def licence(self, source: str) -> str:
        """The licence that the dataset folder states for a source id, or "not stated"."""
        return self.licences.get(source, "not stated")


def summarise_dataset(folder: Path) -> DatasetSummary:
    """Count rows of `folder`'s Parquet shards by modality, anatomy and source, and its manifest by outcome.

    Only the text columns are read, half a million rows at a time.
    `subjects` is None without that column, or above five million.

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
        counts: Counter[tuple[str, str, str]] = Counter()
        for table in _tables(parquet, shard, ["source", "modality", "anatomy"], optional=["subject"]):
            counts.update(_count(table, ["source", "modality", "anatomy"]))
            if "subject" in table.column_names and len(subjects) < MAX_SUBJECTS:
                subjects.update(table["subject"].drop_null().unique().to_pylist())
        rows.update(counts)
        for modality in {key[1] for key in counts}:
            files.setdefault(modality, []).append(shard)
    outcomes, by_source = _outcomes(parquet, folder / "manifest.parquet")
    cells: Counter[tuple[str, str]] = Counter()
    sources: Counter[str] = Counter()
    for (source, modality, anatomy), count in rows.items():
        cells[modality, anatomy] += count
        sources[source] += count
    return DatasetSummary(
        name=folder.resolve().name,
        rows=rows.total(),
        subjects=len(subjects) if 0 < len(subjects) < MAX_SUBJECTS else None,
        cells=dict(cells),
        sources=dict(sources),
        licences=read_licences(folder / "build.json"),
        outcomes=outcomes,
        outcomes_by_source=by_source,
        leakage=read_leakage(folder / "build.json"),
        provenance=read_provenance(folder),
        files_by_modality=files,
    )


def _tables(parquet: Any, file: Path, names: list[str], optional: list[str]) -> Iterator[Any]:
    """The columns `names`, and existing ones of `optional`, in tables of half a million rows."""
    import pyarrow

    try:
        reader = parquet.ParquetFile(file)
        present = set(reader.schema_arrow.names)
        missing = [name for name in names if name not in present]
        if missing:
            raise UserError(
                f"{file}: no column {missing[0]!r}, so biovfm build did not write it; give its output folder"
            )
        columns = names + [name for name in optional if name in present]
        for batch in reader.iter_batches(batch_size=BATCH_ROWS, columns=columns):
            yield pyarrow.Table.from_batches([batch])
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
    """Inputs by outcome (`kept`, or why not), and by (source, outcome)."""
    if not manifest.is_file():
        return None, {}
    totals: Counter[str] = Counter()
    by_source: Counter[tuple[str, str]] = Counter()
    for table in _tables(parquet, manifest, ["source", "outcome"], optional=[]):
        for (source, outcome), count in _count(table, ["source", "outcome"]).items():
            totals[outcome] += count
            by_source[source, outcome] += count
    return dict(totals), dict(by_source)


def sample_images(
    summary: DatasetSummary, per_modality: int = 6, seed: int = 0, without: tuple[str, ...] = ()
) -> dict[str, list[tuple[str, bytes]]]:
    """A few images of each modality, drawn with `seed`: {modality: [(alternative text, encoded image)]}.

    Images of the sources `without` are left out.

    At most four shards per modality are opened, and only row groups with a drawn row are read.
    """
    chooser = random.Random(seed)
    samples: dict[str, list[tuple[str, bytes]]] = {}
    for modality in sorted(summary.files_by_modality):
        files = summary.files_by_modality[modality]
        chosen = chooser.sample(files, min(FILES_PER_MODALITY, len(files)))
        images: list[tuple[str, bytes]] = []
        for position, file in enumerate(chosen):
            count = -(-(per_modality - len(images)) // (len(chosen) - position))
            images += _draw(file, modality, count, chooser, without)
        samples[modality] = images
    return samples


def _draw(
    file: Path, modality: str, count: int, chooser: random.Random, without: tuple[str, ...]
) -> list[tuple[str, bytes]]:
    parquet: Any = require("pyarrow.parquet", "data")
    reader = parquet.ParquetFile(file)
    lines = reader.read(columns=["modality", "source"]).to_pylist()
    rows = [
        row
        for row, line in enumerate(lines)
        if _word(line["modality"]) == modality and str(line["source"]) not in without
    ]
    picked = sorted(chooser.sample(rows, min(count, len(rows))))
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
