"""`biovfm embed`: images to a Parquet file of feature vectors."""

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biovfm_hf.errors import UserError, require
from biovfm_hf.files import atomic_path
from biovfm_hf.network import heed_missing_network, is_path

if TYPE_CHECKING:
    from ..encoders.load import Encoder
    from ..tasks.images import Images

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".dcm", ".dicom"}
VOLUMES = (".nii", ".nii.gz", ".mha", ".nrrd")
BEFORE_CROP = 256 / 224  # of their input size: what models that crop the centre resize to before, as a rule
PRECISIONS = ("fp32", "bf16")
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


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="biovfm embed",
        description="Turn a folder of images, or an image dataset, into a Parquet file of feature vectors, for "
        "retrieval, clustering or a classifier of your own.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="a model folder, a Hub repository, a short name, timm:NAME ...")
    parser.add_argument(
        "--images", required=True, metavar="DIR_OR_DATASET", help="folder, dataset folder or Hub dataset"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.parquet", help="the file to write")
    parser.add_argument("--features", choices=FEATURES, default="both", help="which vector (default: both, joined)")
    parser.add_argument("--config", help="of a dataset with several configurations")
    parser.add_argument("--split", default="train", help="of a dataset (default: train)")
    parser.add_argument("--batch-size", type=int, default=64, help="images at once (default: 64)")
    parser.add_argument("--device", help="torch device (default: cuda where there is one, else cpu)")
    parser.add_argument("--precision", choices=PRECISIONS, help=PRECISION_HELP)
    parser.add_argument("--compile", action="store_true", help=COMPILE_HELP)
    return parser


def main(argv: list[str]) -> int:
    """Run the command. Returns 0; failures are raised as UserError."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.batch_size < 1:
        parser.error("--batch-size must be 1 or more")
    if options.out.is_dir():
        parser.error(f"--out {options.out} is a folder; give a file")
    from ..encoders.device import default_device
    from ..encoders.load import load_encoder
    from ..encoders.processes import process_group

    device = options.device or default_device()
    encoder = load_encoder(options.model, device, compiled=options.compile, precision=options.precision)
    images, names = open_images(options.images, options.config, options.split, encoder.size)
    vectors = embed_images(encoder, images, options.features, options.out, options.batch_size)
    processes = process_group()
    processes.wait()
    if not processes.takes(0):  # one of several processes writes what all have embedded
        return 0
    write_features(options.out, names, vectors, describe(encoder, options.features))
    shutil.rmtree(_cache(options.out), ignore_errors=True)
    print(f"{len(names)} images, {vectors.shape[1]} numbers each, in {options.out}")
    return 0


def open_images(source: str, config: str | None, split: str, size: int) -> tuple["Images", list[str]]:
    """The images of a folder (with all below it) or of a dataset, and their ids.

    Large JPEG files are decoded at the smallest whole part of their size (1, 1/2, 1/4, 1/8) whose shorter side is at
    least `size` times `BEFORE_CROP`.

    Raises:
        UserError: there is no image.
    """
    from ..tasks.images import FileImages

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
        from ..tasks.images import read_image

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


def _open_dataset(source: str, config: str | None, split: str, shrink_to: int) -> tuple["Images", list[str]]:
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


def embed_images(encoder: "Encoder", images: "Images", which: str, out: Path, batch_size: int) -> np.ndarray:
    """Feature vectors (N, D) float32, by way of a cache beside `out` that a killed run continues from."""
    from ..encoders.embed import embed_features

    return embed_features(encoder, images, _cache(out), which, batch_size, f"{encoder.name} images")


def _cache(out: Path) -> Path:
    return out.with_name(f".{out.name}.cache")


def describe(encoder: "Encoder", which: str) -> dict[str, str]:
    """What a features file says of how it was made."""
    from ..encoders.load import split_label

    return {
        "model": split_label(encoder.name)[0],
        "revision": encoder.revision,
        "preprocessing": encoder.preprocessing,
        "precision": encoder.precision,
        "features": which,
    }


def write_features(out: Path, names: Sequence[str], vectors: np.ndarray, made_with: dict[str, str]) -> None:
    """Write `id` and `features` to a Parquet file."""
    arrow, parquet = require("pyarrow", "eval"), require("pyarrow.parquet", "eval")
    flat = arrow.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    column = arrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    table = arrow.table({"id": arrow.array(list(names)), "features": column})
    table = table.replace_schema_metadata({"biovfm": json.dumps(made_with)})
    with atomic_path(out) as temporary:
        parquet.write_table(table, temporary)


def read_features(path: Path) -> tuple[list[str], np.ndarray, dict[str, str]]:
    """Read what `write_features` wrote: ids, vectors (N, D), and what they were made with.

    Raises:
        UserError: no such file, or not one of ours.
    """
    arrow, parquet = require("pyarrow", "eval"), require("pyarrow.parquet", "eval")
    try:
        table = parquet.read_table(path)
        made_with = json.loads(table.schema.metadata[b"biovfm"])
        column = table["features"].combine_chunks()
        vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
        return table["id"].to_pylist(), vectors, made_with
    except (OSError, KeyError, TypeError, ValueError, arrow.ArrowException) as error:
        raise UserError(f"{path} is no features file ({error}); write it with: biovfm embed") from error
