"""`biovfm search`: the images of a folder that look most like an example."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.files import write_text
from biovfm_hf.options import check_options, option, parse_options, required

from ..encoders.device import default_device
from ..encoders.embed import embed_batch
from ..encoders.load import load_encoder
from ..pictures.figure import new_figure, save_figure
from ..tasks.images import read_image
from .embed import DEVICE_HELP, read_features

EXAMPLES = """\
examples:
  biovfm embed  --model runs/tiny/model --images scans/ --out features.parquet
  biovfm search --model runs/tiny/model --features features.parquet --query case.png --images scans/ --out found

OUT receives search.json (ids and cosine similarities) and, with --images, sheet.png: each example and its finds."""


@dataclass(frozen=True)
class SearchOptions:
    """What `biovfm search` takes, and `biovfm_hf.search` by keyword. Wrong values are refused as a UserError."""

    model: str = required("the model that made the features")
    features: Path = required("from biovfm embed", metavar="FILE.parquet")
    query: tuple[Path, ...] = required("an example; again for more", metavar="IMAGE")
    out: Path = required("where to write", metavar="DIR")
    images: Path | None = option(None, "the embedded folder, to draw the contact sheet from", metavar="DIR")
    top: int = option(8, "how many for each example", least=1)
    device: str | None = option(None, DEVICE_HELP)

    def __post_init__(self) -> None:
        check_options(self)


def main(argv: list[str]) -> int:
    """Run `biovfm search`. Returns 0; failures are raised as UserError."""
    parser = argparse.ArgumentParser(
        prog="biovfm search",
        description="Find the images most like an example, by cosine similarity of their feature vectors (exact).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for entry in search(parse_options(parser, SearchOptions, argv)):
        best = entry["found"][0]
        print(f"{entry['query']}: {best['id']} ({best['similarity']:.3f}) and {len(entry['found']) - 1} more")
    return 0


def search(options: SearchOptions) -> list[dict[str, Any]]:
    """Find the images most like each example, write `search.json` and, with `options.images`, draw the contact sheet.

    Returns:
        What search.json holds: of each example {"query": file name, "found": [{"id", "similarity"}, ...]}, the most
        similar first.

    Raises:
        UserError: an example or the features cannot be read, or the features are another model's.
    """
    features = read_features(options.features)
    if options.images and not any((options.images / name).is_file() for name in features.names):
        raise UserError(
            f"images: {options.images} holds no image of {options.features} (the first is {features.names[0]}); "
            "give the folder that was embedded"
        )
    device, precision = options.device or default_device(), features.made_with.get("precision")
    encoder = load_encoder(options.model, device, precision=precision)
    if features.made_with["revision"] != encoder.revision:
        raise UserError(
            f"{options.features} was made with another model ({features.made_with['model']}); give that one as --model"
        )
    examples = [read_image(path) for path in options.query]
    rows, similarity = most_similar(
        features.vectors, embed_batch(encoder, examples, features.made_with["features"]), options.top
    )
    finds = [
        {
            "query": path.name,
            "found": [{"id": features.names[i], "similarity": round(float(s), 6)} for i, s in zip(r, v, strict=True)],
        }
        for path, r, v in zip(options.query, rows, similarity, strict=True)
    ]
    write_text(options.out / "search.json", json.dumps(finds, indent=1) + "\n")
    if options.images:
        titled = [(f"example\n{path.name}", image) for path, image in zip(options.query, examples, strict=True)]
        draw_sheet(options.out / "sheet.png", titled, options.images, finds)
    return finds


def most_similar(vectors: np.ndarray, queries: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The `top` most similar rows for each query: (row numbers (Q, top), cosine similarities (Q, top)).

    Args:
        vectors: (N, D).
        queries: (Q, D).
        top: how many; at most N are given.

    Raises:
        UserError: the widths differ.
    """
    if vectors.shape[1] != queries.shape[1]:
        raise UserError(f"vectors have {vectors.shape[1]} numbers, the example {queries.shape[1]}; use the same model")
    unit = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in (vectors, queries)]
    similarity = unit[1] @ unit[0].T
    top = min(top, len(vectors))
    part = np.argpartition(-similarity, top - 1, axis=1)[:, :top]
    order = np.take_along_axis(-similarity, part, 1).argsort(axis=1, kind="stable")
    rows = np.take_along_axis(part, order, 1)
    return rows, np.take_along_axis(similarity, rows, 1)


def draw_sheet(path: Path, examples: list[tuple[str, np.ndarray]], folder: Path, finds: list[dict[str, Any]]) -> None:
    """One line per example: itself (its title and image), then the images most like it, each with its similarity."""
    columns = 1 + max(len(entry["found"]) for entry in finds)
    figure = new_figure(1.5 * columns, 2.0 * len(finds))
    for line, (example, entry) in enumerate(zip(examples, finds, strict=True)):
        alike = [
            (f"{hit['similarity']:.3f}\n{Path(hit['id']).name}", read_image(folder / hit["id"]))
            for hit in entry["found"]
        ]
        for number, (title, image) in enumerate([example, *alike]):
            axes = figure.add_subplot(len(finds), columns, line * columns + number + 1)
            axes.imshow(image)
            axes.set_axis_off()
            axes.set_title(title, fontsize=7)
    best = "; ".join(f"{entry['query']}: most similar is {entry['found'][0]['id']}" for entry in finds)
    save_figure(figure, path, f"Examples at the left, the most similar images beside them. {best}.")
