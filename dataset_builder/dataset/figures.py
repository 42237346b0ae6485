"""Figures of a dataset: samples of each modality, and image counts by modality and anatomy."""

from collections import defaultdict
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from biovfm_hf.writing.files import atomic_path

from ..plan.plan import Plan, slug

_TILE, _GAP = 112, 4
_CELL_WIDTH, _CELL_HEIGHT = 112, 26
_INK, _PAPER = (32, 32, 32), (255, 255, 255)
_BLUE, _GREY = (33, 102, 172), (176, 176, 176)


def sample_sheets(
    plan: Plan, folder: Path, files: dict[str, int], columns: int = 10, rows: int = 4
) -> dict[str, Path]:
    """Write `samples-MODALITY.png` for each modality: images evenly spaced over all its rows.

    Args:
        plan: the plan.
        folder: to write to.
        files: rows of each file of the dataset, by its name.
        columns: of a sheet.
        rows: of a sheet.

    Returns:
        Config name of the modality -> file.
    """
    shown: dict[str, dict[Path, int]] = defaultdict(dict)
    for shard in plan.shards:
        if shard.name in files:
            shown[slug(shard.modality)][plan.out / shard.name] = files[shard.name]
    written = {}
    for modality, counts in sorted(shown.items()):
        target = folder / f"samples-{modality}.png"
        _save(contact_sheet(evenly_spread(counts, columns * rows), columns), target)
        written[modality] = target
    return written


def evenly_spread(files: dict[Path, int], count: int) -> list[np.ndarray]:
    """Up to `count` images of these Parquet files (path: rows), evenly spaced over all rows; uint8 (H, W[, 3])."""
    paths = list(files)
    starts = np.cumsum([0, *files.values()])
    images = []
    for row in np.unique(np.linspace(0, starts[-1] - 1, count).round().astype(int)):
        number = int(np.searchsorted(starts, row, side="right")) - 1
        images.append(_image(pq.ParquetFile(paths[number]), int(row - starts[number])))
    return images


def contact_sheet(images: Iterable[np.ndarray], columns: int) -> Image.Image:
    """Images side by side in tiles of _TILE pixels, row by row."""
    tiles = [Image.fromarray(image).convert("RGB").resize((_TILE, _TILE), Image.Resampling.BOX) for image in images]
    columns = min(columns, max(1, len(tiles)))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (_TILE + _GAP) + _GAP, rows * (_TILE + _GAP) + _GAP), _PAPER)
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (_GAP + number % columns * (_TILE + _GAP), _GAP + number // columns * (_TILE + _GAP)))
    return sheet


def modality_by_anatomy(counts: dict[str, dict[str, int]], target: Path) -> None:
    """Write a table of image counts, modalities across and anatomies down, shaded by the logarithm of the count."""
    modalities = sorted(counts)
    anatomies = sorted({anatomy for cells in counts.values() for anatomy in cells})
    font = ImageFont.load_default(13)
    left = 150
    sheet = Image.new("RGB", (left + _CELL_WIDTH * len(modalities), _CELL_HEIGHT * (len(anatomies) + 1)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    most = np.log10(max([n for cells in counts.values() for n in cells.values()], default=1) + 1)
    for column, modality in enumerate(modalities):
        draw.text((left + column * _CELL_WIDTH + 6, 6), modality, _INK, font)
    for row, anatomy in enumerate(anatomies, start=1):
        top = row * _CELL_HEIGHT
        draw.text((6, top + 6), anatomy, _INK, font)
        for column, modality in enumerate(modalities):
            if count := counts[modality].get(anatomy):
                x = left + column * _CELL_WIDTH
                shade = np.log10(count + 1) / most
                colour = tuple(int(255 - shade * (255 - full)) for full in _BLUE)
                draw.rectangle((x, top, x + _CELL_WIDTH - 2, top + _CELL_HEIGHT - 2), fill=colour)
                draw.text((x + 6, top + 6), f"{count:,}", _PAPER if shade > 0.55 else _INK, font)
    _save(sheet, target)


def sizes_of_datasets(counts: dict[str, int], target: Path) -> None:
    """Write bars of datasets' numbers of images on a logarithmic axis, the longest on top, the first one in colour."""
    font, left, span = ImageFont.load_default(13), 230, 420
    sheet = Image.new("RGB", (left + span + 110, _CELL_HEIGHT * len(counts)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    most, own = np.log10(max(counts.values())), next(iter(counts))
    for row, (name, count) in enumerate(sorted(counts.items(), key=lambda pair: -pair[1])):
        top, end = row * _CELL_HEIGHT, left + round(span * np.log10(count + 1) / most)
        draw.text((6, top + 6), name, _INK, font)
        draw.rectangle((left, top + 3, end, top + _CELL_HEIGHT - 4), fill=_BLUE if name == own else _GREY)
        draw.text((end + 6, top + 6), f"{count:,}", _INK, font)
    _save(sheet, target)


def _image(file: pq.ParquetFile, row: int) -> np.ndarray:
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row < rows:
            table = file.read_row_group(group, columns=["image"])
            return np.asarray(Image.open(BytesIO(table["image"][row].as_py()["bytes"])))
        row -= rows
    raise IndexError(row)


def _save(image: Image.Image, target: Path) -> None:
    with atomic_path(target) as path:
        image.save(path, format="PNG", optimize=False)
