"""The `biovfm analyse` command: measures each layer of one or several models."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biovfm_hf.errors import OptionError, UserError
from biovfm_hf.options import CommandParser, argument, check_options, option, parse_options, required
from biovfm_hf.writing.csv_text import csv_text
from biovfm_hf.writing.files import check_writable, write_text

from ...commands.images import check_source, open_images, open_table
from ...encoders.device import DEVICE_HELP, default_device, device_word
from ...encoders.load import check_encoder, check_labels, load_encoder
from ...encoders.own_code import TRUST_HELP
from ...results.records import clean
from ...statistics.bootstrap import Resampling
from ...tasks import open_task
from .analysis import LayerAnalysis, analyse_model, can_probe, choose_images, compare, probe_layers
from .page import draw_page, page_text

DESCRIPTION = """\
Measure every layer of vision transformers on the same images: debiased CKA between layers and between models, RankMe,
effective rank, intrinsic dimension (TwoNN, maximum likelihood), attention distance, entropy and mutual information,
Fourier amplitude, cosine between patch tokens, and, with a task, kNN and linear probes with intervals.

A layer is the output of its block, before the final norm; its feature vector is the mean patch token."""
EXAMPLES = """\
examples:
  biovfm analyse d=runs/dino/model m=runs/mae/model --task bloodmnist --data data --out layers
  biovfm analyse dinov2-b --images scans/ --out layers

OUT receives layers.json, layers.csv (a row for each model and layer) and layers.png, one page of pictures. RankMe and
the dimensions depend on the number of images, so compare models on the same images, and on many more images than a
feature vector has numbers."""


@dataclass(frozen=True)
class AnalyseOptions:
    """Options of `biovfm analyse`, keywords of `biovfm_hf.analyse`. Wrong values raise UserError."""

    models: tuple[str, ...] = argument("models as for biovfm probe; NAME=MODEL chooses the label", metavar="MODEL")
    out: Path = required("folder for the tables and the page", metavar="DIR")
    task: str | None = option(None, "task whose test images are measured, and on which layers are probed")
    images: str | None = option(None, "images to measure, instead of a task", metavar="DIR_OR_DATASET")
    data: Path = option(Path(), "folder with the named tasks", metavar="DIR")
    max_images: int = option(2000, "largest number of images to measure, drawn at random", least=4)
    attention_images: int = option(64, "number of these images on which attention is measured", least=1)
    resamples: int = option(200, "of intervals", least=20)
    batch_size: int = option(16, "images per batch", least=1)
    seed: int = option(0, "random seed", least=0)
    device: str | None = option(None, DEVICE_HELP, read=device_word)
    trust_remote_code: str | None = option(None, TRUST_HELP, metavar="REVISION")

    def __post_init__(self) -> None:
        check_options(self)
        if (self.task is None) == (self.images is None):
            raise UserError("give either a task or images")
        if self.out.is_file():
            raise OptionError("out", f"{self.out} is a file; give a folder")


def main(argv: list[str]) -> int:
    """Run `biovfm analyse`. Returns 0; failures are raised as UserError."""
    parser = CommandParser("biovfm analyse", description=DESCRIPTION, epilog=EXAMPLES)
    options = parse_options(parser, AnalyseOptions, argv)
    print(page_text(analyse(options)))
    print(f"tables and the page in {options.out}")
    return 0


def analyse(options: AnalyseOptions) -> LayerAnalysis:
    """Measure the layers of all models, and write `layers.json`, `layers.csv` and `layers.png` to `options.out`.

    Raises:
        UserError: a model is not a transformer of equal blocks, two models share a name, or there are fewer than four
            images.
    """
    for model in options.models:
        check_encoder(model)
    check_labels(options.models)
    check_writable(options.out, folder=True)
    if options.images:
        check_source(options.images)
    table = open_table(options.images, None, "train") if options.images else None
    task = open_task(options.task, options.data) if options.task else None
    device = options.device or default_device()
    encoders = [load_encoder(model, device, trust_remote_code=options.trust_remote_code) for model in options.models]
    size = max(encoder.size for encoder in encoders)
    if task:
        pictures = task.splits["test"].images
    else:
        opened = table.shrunk(size) if table else open_images(str(options.images), None, "train", size)
        pictures = opened.images
    chosen = choose_images(pictures, options.max_images, options.seed)
    if len(chosen) < 4:
        raise UserError(f"{len(chosen)} images to measure; similarity of layers needs four or more")
    analysis, features = LayerAnalysis(), {}
    for encoder in encoders:
        features[encoder.name] = analyse_model(encoder, chosen, options.attention_images, options.batch_size, analysis)
        if task is not None and can_probe(task):
            resampling = Resampling("fast", options.resamples, options.seed)
            probed = probe_layers(encoder, task, options.batch_size, resampling)
            for row, of_layer in zip(analysis.of_model(encoder.name), probed, strict=True):
                row |= of_layer
    compare(features, options.resamples, options.seed, analysis)
    write_analysis(options, analysis, len(chosen))
    return analysis


def write_analysis(options: AnalyseOptions, analysis: LayerAnalysis, images: int) -> None:
    """Write the tables and the page."""
    record = {
        "images": images, "seed": options.seed, "task": options.task, "rows": analysis.rows,
        "cka": [{"a": a, "b": b, "values": values, **analysis.ends.get((a, b), {})}
                for (a, b), values in analysis.cka.items()],
        "amplitudes": analysis.amplitudes,
        "heads": {name: None if heads is None else vars(heads) for name, heads in analysis.heads.items()},
    }  # fmt: skip
    write_text(options.out / "layers.json", json.dumps(clean(record), indent=1, allow_nan=False) + "\n")
    rows = [_flat(row) for row in analysis.rows]
    write_text(options.out / "layers.csv", csv_text(rows, list(rows[0])))
    draw_page(options.out / "layers.png", analysis)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the probes' metrics as separate columns."""
    plain = {name: value for name, value in row.items() if not isinstance(value, dict)}
    for name, metrics in row.items():
        for metric, entry in metrics.items() if isinstance(metrics, dict) else ():
            plain |= {f"{name}_{metric}": entry["value"], f"{name}_{metric}_low": entry["low"],
                      f"{name}_{metric}_high": entry["high"]}  # fmt: skip
    return plain
