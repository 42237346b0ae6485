"""The dataset as in figure 1 of the BioVFM paper: images by modality and anatomy, and its size beside other sets."""

from pathlib import Path

import numpy as np

from biovfm_hf.errors import UserError, require
from biovfm_hf.results.published import rows
from biovfm_hf.writing.files import write_text

from ..analysis.scaling.tables import write_rows
from ..pictures.figure import COLOURS, new_figure, save_figure
from .bench import Bench
from .numbers import Outcome
from .recipe import PAPERS, Recipe

Counts = dict[tuple[str, str], int]  # images by modality and anatomy


def produce(recipe: Recipe, bench: Bench) -> Outcome:
    """Write composition.csv and .png of the dataset, sizes.csv and .png with other sets, and table.md."""
    folder, missing = bench.out / recipe.name, []
    sizes = [(row["dataset"], float(row["images_millions"]), row["source"]) for row in rows("dataset_sizes")]
    counts: Counts = {}
    try:
        counts = manifest_counts(bench.options.dataset)
        draw_composition(counts, folder / "composition.png")
        sizes.append((f"{bench.options.dataset} (yours)", sum(counts.values()) / 1e6, "counted in its manifest"))
    except UserError as error:
        missing.append(str(error))
    columns = ("modality", "anatomy", "images")
    lines = [dict(zip(columns, (*pair, count), strict=True)) for pair, count in sorted(counts.items())]
    write_rows(folder / "composition.csv", columns, lines)
    columns = ("dataset", "images_millions", "source")
    sizes.sort(key=lambda size: size[1])
    write_rows(folder / "sizes.csv", columns, [dict(zip(columns, size, strict=True)) for size in sizes])
    draw_sizes(sizes, folder / "sizes.png")
    write_text(folder / "table.md", _table(recipe, sizes, counts, missing))
    return Outcome(recipe.name, folder, 1 + bool(counts), 2, missing)


def manifest_counts(dataset: Path | None) -> Counts:
    """Count the images of a dataset folder by modality and anatomy, from its manifest.

    Raises:
        UserError: there is no dataset folder, or it has no readable manifest.
    """
    if dataset is None:
        raise UserError("no dataset folder is named, so its images are not counted; give --dataset")
    path = dataset / "manifest.parquet"
    if not path.is_file():
        raise UserError(f"{dataset} holds no manifest.parquet; give a folder of biovfm build")
    parquet, arrow = require("pyarrow.parquet", "eval"), require("pyarrow", "eval")
    counts: Counts = {}
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["modality", "anatomy", "outcome"]):
                kept = [row for row in batch.to_pylist() if row["outcome"] == "kept"]
                for row in kept:
                    pair = (str(row["modality"]), str(row["anatomy"]))
                    counts[pair] = counts.get(pair, 0) + 1
    except (arrow.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); run the build again") from error
    if not counts:
        raise UserError(f"{dataset} holds no image")
    return counts


def draw_composition(counts: Counts, path: Path) -> None:
    """Draw a square for each modality and anatomy, coloured by the logarithm of its number of images."""
    modalities, anatomies = (sorted({pair[place] for pair in counts}) for place in (0, 1))
    table = np.full((len(modalities), len(anatomies)), np.nan)
    for (modality, anatomy), count in counts.items():
        table[modalities.index(modality), anatomies.index(anatomy)] = count
    figure = new_figure(2.4 + 0.42 * len(anatomies), 1.6 + 0.34 * len(modalities))
    axes = figure.add_subplot()
    shown = axes.imshow(np.log10(table), cmap="viridis", vmin=0)
    axes.set_xticks(range(len(anatomies)), anatomies, rotation=60, ha="right", fontsize=7)
    axes.set_yticks(range(len(modalities)), modalities, fontsize=8)
    figure.colorbar(shown, label="images, log10", shrink=0.8)
    listing = ", ".join(f"{modality} {anatomy} {count:,}" for (modality, anatomy), count in sorted(counts.items()))
    save_figure(figure, path, f"Images by modality and anatomy: {listing}.")


def draw_sizes(sizes: list[tuple[str, float, str]], path: Path) -> None:
    """Draw datasets by their number of images, on a logarithmic axis."""
    figure = new_figure(6.0, 0.8 + 0.32 * len(sizes))
    axes = figure.add_subplot()
    for line, (name, millions, _) in enumerate(sizes):
        axes.barh(line, millions, color=COLOURS["BioVFM" in name or "(yours)" in name])
        axes.text(millions, line, f" {millions:.3g}", va="center", fontsize=7)
    axes.set_yticks(range(len(sizes)), [name for name, _, _ in sizes], fontsize=8)
    axes.set(xscale="log", xlabel="million images")
    axes.spines[["top", "right"]].set_visible(False)
    listing = ", ".join(f"{name} {millions:.3g} million" for name, millions, _ in sizes)
    save_figure(figure, path, f"Datasets by their number of images: {listing}.")


def _table(recipe: Recipe, sizes: list[tuple[str, float, str]], counts: Counts, missing: list[str]) -> str:
    lines = [f"# {recipe.name}: {recipe.title}", "", f"{PAPERS[recipe.paper]}.", ""]
    lines += ["| dataset | million images | source |", "|---|---|---|"]
    lines += [f"| {name} | {millions:.3g} | {source} |" for name, millions, source in sizes]
    if counts:
        modalities, anatomies = ({pair[place] for pair in counts} for place in (0, 1))
        lines += [
            "",
            f"Yours: {len(modalities)} modalities and {len(anatomies)} anatomies; the paper names 10 and 30.",
        ]
    lines += ["", *(f"- missing: {reason}" for reason in missing), "", "## Not as in the paper", ""]
    return "\n".join([*lines, *(f"- {text}" for text in recipe.differs)]) + "\n"
