"""`biovfm embed`: images to a Parquet file of feature vectors."""

import argparse
import hashlib
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError, require
from biovfm_hf.files import atomic_path
from biovfm_hf.network import heed_missing_network, is_path
from biovfm_hf.options import check_options, option, parse_options, required

from ..encoders.device import default_device
from ..encoders.embed import embed_features
from ..encoders.load import Encoder, load_encoder, split_label
from ..encoders.processes import process_group
from ..tasks.images import FileImages, Images, read_image

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".dcm", ".dicom"}
VOLUMES = (".nii", ".nii.gz", ".mha", ".nrrd")
BEFORE_CROP = 256 / 224  # of their input size: what models that crop the centre resize to before, as a rule
PRECISIONS = ("fp32", "bf16")
DEVICE_HELP = "torch device (default: cuda where there is one, else cpu)"
FEATURES = ("both", "class", "mean", "pooled", "last4")
COMPILE_HELP = (
    "embed through torch.compile; compiling takes seconds for a ViT, longer for a convolutional net, so it can pay "
    "where a GPU embeds for many minutes; on a CPU it is slower (measured)"
)
PRECISION_HELP = (
    "bf16 keeps two to three digits of a feature; a CPU with AMX embeds about twice as fast in it, one without "
    "bfloat16 instructions slower (default: bf16 on a GPU that has it, else fp32)"
)
EXAMPLES = """\
examples:
  biovfm embed --model runs/tiny/model --images scans/ --out features.parquet
  biovfm embed --model dinov2-b --images my_dataset/ --config ultrasound --split train --out features.parquet

OUT has one row per image: `id` (the path below the folder, or of the dataset row) and `features` (float32). What they
were made with is in the file's metadata under `biovfm`. A killed run continues when started again."""


@dataclass(frozen=True)
class EmbedOptions:
    """What `biovfm embed` takes, and `biovfm_hf.embed` by keyword. Wrong values are refused as a UserError."""

    model: str = required("a model folder, a Hub repository, a short name, timm:NAME ...")
    images: str = required("folder, dataset folder or Hub dataset", metavar="DIR_OR_DATASET")
    out: Path = required("the file to write", metavar="FILE.parquet")
    features: str = option("both", "which vector; both: class token and mean patch token, joined", choices=FEATURES)
    config: str | None = option(None, "of a dataset with several configurations")
    split: str = option("train", "of a dataset")
    batch_size: int = option(64, "images at once", least=1)
    device: str | None = option(None, DEVICE_HELP)
    precision: str | None = option(None, PRECISION_HELP, choices=PRECISIONS)
    compile: bool = option(False, COMPILE_HELP)

    def __post_init__(self) -> None:
        check_options(self)
        if self.out.is_dir():
            raise UserError(f"out: {self.out} is a folder; give a file")


@dataclass(frozen=True)
class Features:
    """A features file: the images' ids, their vectors (N, D) float32, and what these were made with."""

    names: list[str]
    vectors: np.ndarray
    made_with: dict[str, str]


def main(argv: list[str]) -> int:
    """Run `biovfm embed`. Returns 0; failures are raised as UserError."""
    parser = argparse.ArgumentParser(
        prog="biovfm embed",
        description="Turn a folder of images, or an image dataset, into a Parquet file of feature vectors, for "
        "retrieval, clustering or a classifier of your own.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options = parse_options(parser, EmbedOptions, argv)
    features = embed(options)
    if process_group().takes(0):
        print(f"{len(features.names)} images, {features.vectors.shape[1]} numbers each, in {options.out}")
    return 0


def embed(options: EmbedOptions) -> Features:
    """Embed every image of a folder or dataset and write the features file.

    A killed run continues from the cache beside `options.out`, which goes when the file is written. Of several
    processes (`accelerate launch`) the first writes what all have embedded.

    Returns:
        The content of the file.

    Raises:
        UserError: no image, an image that cannot be read, or a model that cannot be loaded.
    """
    device = options.device or default_device()
    encoder = load_encoder(options.model, device, compiled=options.compile, precision=options.precision)
    images, names = open_images(options.images, options.config, options.split, encoder.size)
    cache = options.out.with_name(f".{options.out.name}.cache")
    label = f"{encoder.name} images"
    vectors = embed_features(encoder, images, cache, options.features, options.batch_size, label)
    features = Features(names, vectors, describe(encoder, options.features))
    processes = process_group()
    processes.wait()
    if processes.takes(0):
        write_features(options.out, features)
        shutil.rmtree(cache, ignore_errors=True)
    return features


def open_images(source: str, config: str | None, split: str, size: int) -> tuple[Images, list[str]]:
    """The images of a folder (with all below it) or of a dataset, and their ids.

    Large JPEG files are decoded at the smallest whole part of their size (1, 1/2, 1/4, 1/8) whose shorter side is at
    least `size` times `BEFORE_CROP`.

    Raises:
        UserError: there is no image.
    """
    folder, shrink_to = Path(source), round(size * BEFORE_CROP)
    if folder.is_file():
        raise UserError(f"{folder} is a file; give the folder that holds the images, or a dataset")
    if folder.is_dir() and not any(folder.rglob("*.parquet")):
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        if not paths:
            raise UserError(f"{folder}: no image file there (of {', '.join(sorted(SUFFIXES))})")
        if volumes := sum(p.name.lower().endswith(VOLUMES) for p in folder.rglob("*")):
            print(f"left out: {volumes} volumes; cut them into slices first, as biovfm build does", file=sys.stderr)
        names = [str(path.relative_to(folder)) for path in paths]
        return FileImages(paths, shrink_to=shrink_to), names
    return _open_dataset(source, config, split, shrink_to)


@dataclass(frozen=True)
class DatasetImages:
    """The image column of a dataset, as files' bytes or paths; `shrink_to` is passed on to `read_image`."""

    dataset: Any
    column: str
    shrink_to: int

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> np.ndarray:
        stored = self.dataset[int(index)][self.column]
        if stored is None:
            raise UserError(f"row {index}: column {self.column!r} is empty; leave such rows out of the dataset")
        name = f"row {index} ({stored['path']})" if stored["path"] else f"row {index}"
        source = Path(stored["path"]) if stored["bytes"] is None else stored["bytes"]
        return read_image(source, self.shrink_to, name)

    def fingerprint(self) -> str:
        """The dataset's own fingerprint of its content and what was done to it."""
        words = f"{self.dataset._fingerprint} {self.column} {self.shrink_to}"
        return hashlib.blake2b(words.encode(), digest_size=16).hexdigest()


def _open_dataset(source: str, config: str | None, split: str, shrink_to: int) -> tuple[Images, list[str]]:
    datasets = require("datasets", "eval")
    if not Path(source).exists():
        if is_path(source):
            raise UserError(f"{source}: no such folder")
        heed_missing_network()
    try:
        rows = datasets.load_dataset(source, config, split=split)
    except (FileNotFoundError, ValueError, OSError, datasets.exceptions.DatasetNotFoundError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{source}: neither a folder of images nor a dataset that can be opened ({reason})") from error
    columns = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    if not columns or len(rows) == 0:
        raise UserError(f"{source}: the dataset has no rows with an image column; columns: {', '.join(rows.features)}")
    stored = rows.cast_column(columns[0], datasets.Image(decode=False))
    return DatasetImages(stored, columns[0], shrink_to), _row_names(rows)


def _row_names(rows: Any) -> list[str]:
    if "path" not in rows.features:
        return [str(number) for number in range(len(rows))]
    parts = [rows[name] for name in ("path", "view", "index") if name in rows.features]
    return [":".join(str(part) for part in row if part is not None) for row in zip(*parts, strict=True)]


def describe(encoder: Encoder, which: str) -> dict[str, str]:
    """What a features file says of how it was made."""
    return {
        "model": split_label(encoder.name)[0],
        "revision": encoder.revision,
        "preprocessing": encoder.preprocessing,
        "precision": encoder.precision,
        "features": which,
    }


def write_features(out: Path, features: Features) -> None:
    """Write `id` and `features` to a Parquet file."""
    arrow, parquet = require("pyarrow", "eval"), require("pyarrow.parquet", "eval")
    flat = arrow.array(np.ascontiguousarray(features.vectors, np.float32).reshape(-1))
    column = arrow.FixedSizeListArray.from_arrays(flat, features.vectors.shape[1])
    table = arrow.table({"id": arrow.array(features.names), "features": column})
    table = table.replace_schema_metadata({"biovfm": json.dumps(features.made_with)})
    with atomic_path(out) as temporary:
        parquet.write_table(table, temporary)


def read_features(path: Path) -> Features:
    """Read what `write_features` wrote.

    Raises:
        UserError: no such file, or not one of ours.
    """
    arrow, parquet = require("pyarrow", "eval"), require("pyarrow.parquet", "eval")
    try:
        table = parquet.read_table(path)
        made_with = json.loads(table.schema.metadata[b"biovfm"])
        column = table["features"].combine_chunks()
        vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
        return Features(table["id"].to_pylist(), vectors, made_with)
    except (OSError, KeyError, TypeError, ValueError, arrow.ArrowException) as error:
        raise UserError(f"{path} is no features file ({error}); write it with: biovfm embed") from error
