"""`biovfm search`: the images of a folder that look most like an example."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.files import write_text

EXAMPLES = """\
examples:
  biovfm embed  --model runs/tiny/model --images scans/ --out features.parquet
  biovfm search --model runs/tiny/model --features features.parquet --query case.png --images scans/ --out found

OUT receives search.json (ids and cosine similarities) and, with --images, sheet.png: each example and its finds."""


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="biovfm search",
        description="Find the images most like an example, by cosine similarity of their feature vectors (exact).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="the model that made the features")
    parser.add_argument("--features", required=True, type=Path, metavar="FILE.parquet", help="from biovfm embed")
    parser.add_argument("--query", required=True, action="append", type=Path, metavar="IMAGE", help="again for more")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="the embedded folder, to draw the contact sheet from"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where to write")
    parser.add_argument("--top", type=int, default=8, help="how many for each example (default: 8)")
    parser.add_argument("--device", help="torch device (default: cuda where there is one, else cpu)")
    return parser


def main(argv: list[str]) -> int:
    """Run the command. Returns 0; failures are raised as UserError."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.top < 1:
        parser.error("--top must be 1 or more")
    from ..encoders.device import default_device
    from ..encoders.embed import embed_batch
    from ..encoders.load import load_encoder
    from ..tasks.images import read_image
    from .embed import read_features

    names, vectors, made_with = read_features(options.features)
    if options.images and not any((options.images / name).is_file() for name in names):
        raise UserError(f"--images {options.images}: holds no image of {options.features} (the first is {names[0]}); "
                        "give the folder that was embedded")  # fmt: skip
    encoder = load_encoder(options.model, options.device or default_device(), precision=made_with.get("precision"))
    if made_with["revision"] != encoder.revision:
        raise UserError(
            f"{options.features} was made with another model ({made_with['model']}); give that one as --model"
        )
    queries = [read_image(path) for path in options.query]
    asked = embed_batch(encoder, queries, made_with["features"])
    rows, similarity = most_similar(vectors, asked, options.top)
    found = [
        {
            "query": path.name,
            "found": [{"id": names[i], "similarity": round(float(s), 6)} for i, s in zip(r, v, strict=True)],
        }
        for path, r, v in zip(options.query, rows, similarity, strict=True)
    ]
    write_text(options.out / "search.json", json.dumps(found, indent=1) + "\n")
    for entry in found:
        best = entry["found"][0]
        print(f"{entry['query']}: {best['id']} ({best['similarity']:.3f}) and {len(entry['found']) - 1} more")
    if options.images:
        draw_sheet(options.out / "sheet.png", options.query, queries, options.images, found)
    return 0


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


def draw_sheet(
    path: Path, sources: list[Path], queries: list[np.ndarray], folder: Path, found: list[dict[str, Any]]
) -> None:
    """One line per example: itself, then what was found, each with its similarity."""
    from ..pictures.figure import new_figure, save_figure
    from ..tasks.images import read_image

    columns = 1 + max(len(entry["found"]) for entry in found)
    figure = new_figure(1.5 * columns, 2.0 * len(found))
    for line, (source, query, entry) in enumerate(zip(sources, queries, found, strict=True)):
        shown = [(query, f"example\n{source.name}")]
        shown += [
            (read_image(folder / hit["id"]), f"{hit['similarity']:.3f}\n{Path(hit['id']).name}")
            for hit in entry["found"]
        ]
        for number, (image, title) in enumerate(shown):
            axes = figure.add_subplot(len(found), columns, line * columns + number + 1)
            axes.imshow(image)
            axes.set_axis_off()
            axes.set_title(title, fontsize=7)
    words = "; ".join(f"{entry['query']}: most similar is {entry['found'][0]['id']}" for entry in found)
    save_figure(figure, path, f"Examples at the left, the most similar images beside them. {words}.")
