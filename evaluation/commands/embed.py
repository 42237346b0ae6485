"""The `biovfm embed` command: turns images into a Parquet file of feature vectors."""

import csv
import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.cards.provenance import hub_provenance, read_provenance
from biovfm_hf.decoding.files import IMAGE_SUFFIXES
from biovfm_hf.errors import OptionError, UserError, one_line, require
from biovfm_hf.hub.network import heed_missing_network, is_path
from biovfm_hf.options import CommandParser, check_options, option, parse_options, required
from biovfm_hf.reading.image_files import NOT_INPUT, count_frames, walk
from biovfm_hf.reading.rows import row_ids
from biovfm_hf.volumes import AXES
from biovfm_hf.writing.files import atomic_path, write_text

from ..encoders.device import default_device, embedding_precision
from ..encoders.embed import embed_features
from ..encoders.encoder import Encoder
from ..encoders.load import load_encoder, split_label
from ..encoders.own_code import TRUST_HELP
from ..encoders.pooling import POOL_HELP, POOLS, case_features
from ..encoders.processes import process_group
from ..tasks.images import FileImages, Images, Joined, Readable, read_image
from ..tasks.volume_cases import (
    AXES_HELP,
    SLICES,
    SLICES_HELP,
    CaseSlices,
    Slicing,
    find_volumes,
    open_cases,
    unjoined_slices,
)
from .naming import ARCHIVE, AUTO, KEEP, WITHHOLD, Naming, first_archive, why_withheld
from .nearest import vector_lengths

BEFORE_CROP = 256 / 224  # resized image per input size: the usual resize before a centre crop
PRECISIONS = ("fp32", "bf16")
DEVICE_HELP = "torch device (default: cuda if available, else cpu)"
NO_FRAME, EVERY_FRAME = "none", "all"
LEFT_OUT, PRIVATE_SOURCES = "left_out", "private_sources"
_ROW_GROUP = 1 << 14  # vectors read at a time
LENGTH = "length"  # column of the vectors' Euclidean lengths
_COMPRESSION = {"id": "zstd", LENGTH: "none", "features.list.element": "none"}  # numbers do not compress
CONFIG, SPLIT = "config", "split"
WHY, ON_REQUEST = "withheld", "on request"
UNRECORDED = "a folder without a record"
"""Stands for the private source of a folder that has no record: such a folder counts as private."""
EACH_SLICE = "slices"
SHOWN = 20  # left-out files that are shown on the screen
FEATURES = ("both", "class", "mean", "pooled", "last4", "card")
COMPILE_HELP = (
    "embed through torch.compile; compiling takes seconds for a ViT and longer for a convolutional network, so it can "
    "pay off where a GPU embeds for many minutes; on a CPU it is slower (measured)"
)
BF16_HELP = (
    "bf16 keeps two to three digits of a feature; it is up to twice as fast on a CPU with bfloat16 instructions (AMX, "
    "AVX512-BF16), slower on others"
)
PRECISION_HELP = f"{BF16_HELP} (default: bf16 on a GPU that has it, else fp32)"
EXAMPLES = """\
examples:
  biovfm embed --model runs/tiny/model --images scans/ --out features.parquet
  biovfm embed --model dinov2-b --images my_dataset/ --config ultrasound --split train --out features.parquet

OUT has one row per image: `id`, `features` (float32) and `length`, the Euclidean length of the features. The id is the
path below the folder or of the dataset row; PATH:frame:N is one of several frames. A volume (NIfTI, MHA, NRRD; with
--series a folder of DICOM files) is one row, pooled over its slices. The file's metadata say under `biovfm` how the
features were made. Unreadable files are left out; the metadata and OUT.left_out.csv list them with the reason. If a
path repeats a word of its file's DICOM header, such as a name, or with `--paths withhold`, ids are keyed hashes.
OUT.paths.csv, which is for you only, maps them to paths. A killed run continues when it is started again."""


@dataclass(frozen=True)
class EmbedOptions:
    """Options of `biovfm embed`, keywords of `biovfm_hf.embed`. Wrong values raise UserError."""

    model: str = required("a model folder, a Hub repository, a short name, timm:NAME and so on")
    images: str = required("folder of images, dataset folder or Hub dataset", metavar="DIR_OR_DATASET")
    out: Path = required("the file to write", metavar="FILE.parquet")
    features: str = option(
        "both",
        "which vector; both: class token and mean patch token, joined; card: the one that the model's card recommends",
        choices=FEATURES,
    )
    config: str | None = option(None, "configuration of a dataset that has several")
    split: str = option("train", "split of a dataset")
    frames: str = option(
        NO_FRAME,
        "frames to embed of a file with several frames or pages: none, all, or a number of evenly spaced ones",
        metavar="N",
    )
    axes: tuple[str, ...] = option(
        ("axial",), f"{AXES_HELP} (default: axial)", metavar="AXIS,...", commas=True, choices=AXES
    )
    slices: int = option(SLICES, SLICES_HELP, least=0)
    pool: str = option("mean", f"{POOL_HELP}; {EACH_SLICE}: a vector for each slice", choices=(*POOLS, EACH_SLICE))
    series: bool = option(False, "treat a folder of DICOM files as one volume, not as one image per file")
    paths: str = option(
        AUTO,
        "of a folder: ids are paths (keep), or keyed hashes, with the paths in OUT.paths.csv (withhold), or paths "
        "unless one repeats a word of its file's DICOM header (auto, default)",
        choices=(AUTO, KEEP, WITHHOLD),
    )
    strict: bool = option(False, "end with exit status 1 if an image was left out")
    batch_size: int = option(64, "images per batch", least=1)
    device: str | None = option(None, DEVICE_HELP)
    precision: str | None = option(
        None, f"{BF16_HELP} (default: bf16 on a GPU or CPU that has it, else fp32)", choices=PRECISIONS
    )
    compile: bool = option(False, COMPILE_HELP)
    trust_remote_code: str | None = option(None, TRUST_HELP, metavar="REVISION")

    def __post_init__(self) -> None:
        check_options(self)
        if self.out.is_dir():
            raise OptionError("out", f"{self.out} is a folder; give a file")
        if self.out.suffix.lower() not in (".parquet", ".pq", ".csv"):
            raise OptionError("out", f"{self.out} must end in .parquet or .csv, the two forms that are written")
        if self.frames not in (NO_FRAME, EVERY_FRAME) and not (self.frames.isdecimal() and int(self.frames) > 0):
            raise OptionError("frames", f"{self.frames!r} is not a choice; give none, all, or a number from 1")


@dataclass(frozen=True)
class Features:
    """The content of a features file.

    Attributes:
        names: ids of the images.
        vectors: (N, D) float32 features.
        made_with: how the vectors were made, see `describe`.
        left_out: {id: reason} of unreadable images and of files that are no images.
        private_sources: ids of the dataset's private sources.
        lengths: (N,) Euclidean lengths of the vectors, None if unknown.
    """

    names: list[str]
    vectors: np.ndarray
    made_with: dict[str, str]
    left_out: dict[str, str] = field(default_factory=dict)
    private_sources: tuple[str, ...] = ()
    lengths: np.ndarray | None = None

    @property
    def withheld(self) -> bool:
        """Whether file names are withheld, because a source is private or on request."""
        return self.made_with.get("paths") == WITHHOLD or bool(set(self.private_sources) - {UNRECORDED})

    @property
    def unread(self) -> int:
        """Number of left-out files whose name says that they are images."""
        return sum(reason != NOT_INPUT for reason in self.left_out.values())


@dataclass(frozen=True)
class Opened:
    """Opened images with the ids of their cases.

    Attributes:
        images: the images of all cases.
        names: ids of the cases.
        left_out: {id: reason} of files that were excluded before decoding.
        case_of_image: (N,) index of each image's case if there are volumes; None if each image is a case.
        private_sources: ids of the dataset's private sources.
        places: {id: path} of ids that withhold their path.
        why_withheld: why ids withhold their paths, None if they do not.
    """

    images: Images
    names: list[str]
    left_out: dict[str, str] = field(default_factory=dict)
    case_of_image: np.ndarray | None = None
    private_sources: tuple[str, ...] = ()
    places: dict[str, str] = field(default_factory=dict)
    why_withheld: str | None = None


def main(argv: list[str]) -> int:
    """Run `biovfm embed`. Returns 0; failures are raised as UserError."""
    parser = CommandParser(
        prog="biovfm embed",
        description="Turn a folder of images or an image dataset into a Parquet file of feature vectors, for "
        "retrieval, clustering or a classifier of your own.",
        epilog=EXAMPLES,
    )
    options = parse_options(parser, EmbedOptions, argv)
    if process_group().takes(0):
        _tell_series(options)
    features = embed(options)
    if process_group().takes(0):
        _tell(features, options.out, Path(options.images))
    return int(options.strict and features.unread > 0)


def _tell_series(options: EmbedOptions) -> None:
    """Say that DICOM files which become an image each could be one volume."""
    folder = Path(options.images)
    count = unjoined_slices(folder) if not options.series and is_plain_folder(folder) else 0
    if count:
        print(f"{count} DICOM files share a series; --series makes them one volume", file=sys.stderr)


def _tell(features: Features, out: Path, folder: Path) -> None:
    for name, reason in list(features.left_out.items())[:SHOWN]:
        print(f"left out: {name}: {reason}", file=sys.stderr)
    left = f"; {len(features.left_out)} files left out, see {_beside(out)}" if features.left_out else ""
    if features.made_with.get(WHY) not in (None, ON_REQUEST):
        print(_why_hashes(features.made_with[WHY], out, folder), file=sys.stderr)
    print(f"{len(features.names)} images, {features.vectors.shape[1]} numbers each, in {out}{left}")


def _why_hashes(reason: str, out: Path, folder: Path) -> str:
    archive = first_archive(folder) if reason == ARCHIVE else None  # its name is for the screen, not for the file
    reason += f" (the first: {archive})" if archive else ""
    table = f"{paths_file(out)}, for you only, maps them to paths"
    return f"ids are keyed hashes, because {reason}; {table}; with --paths keep ids are the paths"


def embed(options: EmbedOptions) -> Features:
    """Embed every image of a folder or dataset, and write the features file.

    Unreadable files are left out and listed. A killed run continues from the cache beside `options.out`; the cache is
    removed when the file is written. With several processes (`accelerate launch`), the first one writes all vectors.

    Returns:
        The content of the features file.

    Raises:
        UserError: there is no image, no image can be read, or the model cannot be loaded.
    """
    device = options.device or default_device()
    precision = options.precision or embedding_precision(device)
    encoder = load_encoder(options.model, device, "own", options.compile, precision, options.trust_remote_code)
    opened = _opened(options, encoder.size)
    cache = options.out.with_name(f".{options.out.name}.cache")
    images, label = Readable(opened.images), f"{encoder.name} images"
    vectors = embed_features(encoder, images, cache, options.features, options.batch_size, label)
    made_with = describe(encoder, encoder.vector_kind(options.features))
    if opened.why_withheld:
        made_with |= {"paths": WITHHOLD, WHY: opened.why_withheld}
    if not is_plain_folder(Path(options.images)):
        made_with |= {CONFIG: options.config or "", SPLIT: options.split}
    if opened.case_of_image is not None:
        made_with |= {"axes": ",".join(options.axes), "slices": str(options.slices), "pool": options.pool}
    features = _accounted(opened, images, vectors, made_with)
    processes = process_group()
    processes.wait()
    if processes.takes(0):
        write_features(options.out, features)
        _write_places(paths_file(options.out), opened.places)
        shutil.rmtree(cache, ignore_errors=True)
    return features


def _opened(options: EmbedOptions, size: int) -> Opened:
    """The images that the options name, with volumes opened as slices."""
    folder = Path(options.images)
    paths = find_volumes(folder, options.series) if folder.is_dir() else []
    why = _why_withheld(options, folder)
    naming = Naming(folder, why is not None)
    flat = None
    leave = [*paths, *_own_outputs(options.out, folder)]
    try:
        flat = open_images(options.images, options.config, options.split, size, options.frames, leave, naming)
    except UserError:
        if not paths:
            raise
    opened = flat if flat is not None and not paths else _with_volumes(flat, naming, paths, options)
    return replace(opened, places=naming.places, why_withheld=why)


def _own_outputs(out: Path, folder: Path) -> list[Path]:
    """The files of an earlier run into the folder of images itself."""
    place = Path(os.path.relpath(out.resolve().parent, folder.resolve()))
    return [folder / place / file.name for file in (out, _beside(out), paths_file(out))]


def _why_withheld(options: EmbedOptions, folder: Path) -> str | None:
    if not is_plain_folder(folder):
        if options.paths == WITHHOLD:
            raise OptionError("paths", f"withhold is for a folder of images, which {folder} is not; leave it out")
        return None
    if options.paths == WITHHOLD:
        return ON_REQUEST
    return why_withheld(folder) if options.paths == AUTO else None


def _with_volumes(flat: Opened | None, naming: Naming, paths: list[Path], options: EmbedOptions) -> Opened:
    cases, lost = open_cases(paths, Slicing(options.axes, options.slices))
    names = [naming(case.path) for case in cases]
    slices = CaseSlices(cases)
    case_of_image = slices.case_of_image
    if options.pool == EACH_SLICE:
        pairs = [(name, *place) for name, case in zip(names, cases, strict=True) for place in case.slices]
        names = [f"{name}:{axis}:{index}" for name, axis, index in pairs]
        case_of_image = np.arange(len(names))
    left_out = {naming(path): why.partition(f"{path}: ")[2] or why for path, why in lost.items()}
    if flat is None:
        if not cases:
            name, reason = next(iter(left_out.items()))
            raise UserError(f"none of {len(lost)} volumes could be read; the first, {name}: {reason}")
        return Opened(slices, names, left_out, case_of_image, (UNRECORDED,))
    count = len(flat.images)
    return Opened(
        Joined([flat.images, slices]), flat.names + names, flat.left_out | left_out,
        np.concatenate([np.arange(count), case_of_image + count]), (UNRECORDED,),
    )  # fmt: skip


def _accounted(opened: Opened, images: Readable, vectors: np.ndarray, made_with: dict[str, str]) -> Features:
    """The features of readable cases, with the reason for each unreadable one."""
    unread = np.isnan(vectors).all(axis=1)
    cases = np.arange(len(vectors)) if opened.case_of_image is None else opened.case_of_image
    left_out = dict(opened.left_out)
    for number in np.flatnonzero(unread).tolist():
        if number not in images.reasons:  # another process read it, or an earlier run that was killed
            images[number]
        name, reason = (
            opened.names[cases[number]],
            images.reasons.get(number, "could not be read; run the command again"),
        )
        file = name.partition(":")[0]
        place = opened.places.get(file, name.partition(":frame:")[0])
        reason = reason.partition(f"{place}: ")[2] or reason  # leaves out the path on this machine
        left_out[name] = reason.partition(f"{file}: ")[2] or reason
    lost = np.bincount(cases, unread) > 0
    if lost.all():
        name, reason = next((name, left_out[name]) for name in opened.names)
        raise UserError(f"none of {len(lost)} images could be read; the first, {name}: {reason}")
    names = [name for name, gone in zip(opened.names, lost.tolist(), strict=True) if not gone]
    rows = ~lost[cases]
    kept = vectors[rows]
    if made_with.get("pool", EACH_SLICE) != EACH_SLICE:
        kept = case_features(kept, np.unique(cases[rows], return_inverse=True)[1], made_with["pool"])
    return Features(names, kept, made_with, dict(sorted(left_out.items())), opened.private_sources)


def open_images(
    source: str, config: str | None, split: str, size: int, frames: str = NO_FRAME, leave: Collection[Path] = (),
    naming: Naming | None = None,
) -> Opened:  # fmt: skip
    """Open the images of a folder and its sub-folders, or of a dataset, with their ids.

    Large JPEG files are decoded at the smallest scale (1, 1/2, 1/4, 1/8) whose shorter side is at least `size` times
    `BEFORE_CROP`.

    Args:
        source: a folder of images, or a dataset's folder or Hub id.
        config: configuration of a dataset that has several.
        split: split of a dataset.
        size: the encoder's input size in pixels.
        frames: frames of a file with several: "none" leaves the file out, "all" takes all, a number takes that many.
        leave: paths to skip, namely volumes, folders of series and outputs.
        naming: names the files of a folder; None names them by their paths.

    Raises:
        UserError: there is no image.
    """
    folder, shrink_to = Path(source), round(size * BEFORE_CROP)
    if folder.is_file():
        raise UserError(f"{folder} is a file; give the folder that holds the images, or a dataset")
    if is_plain_folder(folder):
        return _open_folder(naming or Naming(folder, False), shrink_to, frames, set(leave))
    return _open_dataset(source, config, split, shrink_to)


def is_plain_folder(folder: Path) -> bool:
    """Whether it is a folder of files, and not a dataset: Parquet files, in `data` or at the top, without images."""
    return folder.is_dir() and not (_has_only_parquet(folder / "data") or _has_only_parquet(folder))


def _has_only_parquet(folder: Path) -> bool:
    tables = False
    for path, reason in walk(folder):
        if reason is None:
            return False
        tables = tables or path.suffix == ".parquet"
    return tables


def _open_folder(naming: Naming, shrink_to: int, frames: str, leave: set[Path]) -> Opened:
    folder = naming.folder
    paths: list[Path] = []
    numbers: list[int | None] = []
    left_out: dict[str, str] = {}
    for path, reason in walk(folder):
        if path in leave or path.parent in leave:
            continue
        if reason is None:
            chosen = _frames(path, frames)
            paths += [path] * len(chosen)
            numbers += chosen
        else:
            left_out[naming(path)] = reason
    if not paths:
        raise UserError(f"{folder}: no image file there (of {', '.join(IMAGE_SUFFIXES)}, or DICOM without a suffix)")
    files = [naming(path) for path in paths]
    names = [name if at is None else f"{name}:frame:{at}" for name, at in zip(files, numbers, strict=True)]
    several = None if all(at is None for at in numbers) else numbers
    images = FileImages(paths, shrink_to=shrink_to, frames=several, names=files, square=True)
    return Opened(images, names, left_out, private_sources=(UNRECORDED,))


def _frames(path: Path, frames: str) -> list[int | None]:
    """Indices of the frames of a file to embed; None for a file with a single image."""
    if frames == NO_FRAME:
        return [None]
    try:
        count = count_frames(path)
    except UserError:  # reported when it is decoded
        count = 1
    if count == 1:
        return [None]
    taken = count if frames == EVERY_FRAME else min(int(frames), count)
    return [(2 * number + 1) * count // (2 * taken) for number in range(taken)]


@dataclass(frozen=True)
class DatasetImages:
    """The image column of a dataset, as bytes or paths of files; `shrink_to` is passed on to `read_image`."""

    dataset: Any
    column: str
    shrink_to: int

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> np.ndarray:
        stored = self.dataset[int(index)][self.column]
        if stored is None:
            raise UserError(f"row {index}: column {self.column!r} is empty; leave such rows out of the dataset")
        source = Path(stored["path"]) if stored["bytes"] is None else stored["bytes"]
        return read_image(source, self.shrink_to, f"row {index}", square=True)

    def fingerprint(self) -> str:
        """The dataset's own fingerprint of its content and transforms, with the column and `shrink_to`."""
        identity = f"{self.dataset._fingerprint} {self.column} {self.shrink_to}"
        return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()


def _open_dataset(source: str, config: str | None, split: str, shrink_to: int) -> Opened:
    datasets = require("datasets", "eval")
    if not Path(source).exists():
        if is_path(source):
            raise UserError(f"{source}: no such folder")
        heed_missing_network()
    try:
        rows = datasets.load_dataset(source, config, split=split)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        reason = one_line(error)
        raise UserError(f"{source}: neither a folder of images nor a dataset that can be opened ({reason})") from error
    columns = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    if not columns or len(rows) == 0:
        raise UserError(f"{source}: the dataset has no rows with an image column; columns: {', '.join(rows.features)}")
    stored = rows.cast_column(columns[0], datasets.Image(decode=False))
    marks = read_provenance(Path(source)) if Path(source).is_dir() else hub_provenance(source, "dataset")
    images = DatasetImages(stored, columns[0], shrink_to)
    return Opened(images, row_ids(rows), private_sources=marks.private_sources)


def describe(encoder: Encoder, which: str) -> dict[str, str]:
    """How a features file was made, as string values for its metadata."""
    return {
        "model": split_label(encoder.name)[0],
        "revision": encoder.revision,
        "preprocessing": encoder.preprocessing,
        "precision": encoder.precision,
        "features": which,
    }


def write_features(out: Path, features: Features) -> None:
    """Write a Parquet file with `id`, `features` and `length`, or a CSV file; beside it, list the files left out.

    Raises:
        UserError: the disk is full, or the file cannot be written.
    """
    arrow, parquet = require("pyarrow", "eval"), require("pyarrow.parquet", "eval")
    flat = arrow.array(np.ascontiguousarray(features.vectors, np.float32).reshape(-1))
    number = arrow.field("element", arrow.float32(), nullable=False)  # a third of the time of a nullable field
    kind = arrow.list_(number, features.vectors.shape[1])
    column = arrow.FixedSizeListArray.from_arrays(flat, type=kind)
    fields = {"id": arrow.string(), "features": kind, LENGTH: arrow.float32()}
    schema = arrow.schema([arrow.field(name, kind, nullable=False) for name, kind in fields.items()])
    table = arrow.table(
        [arrow.array(features.names, arrow.string()), column, vector_lengths(features.vectors)], schema=schema
    )
    about = {**features.made_with, LEFT_OUT: features.left_out, PRIVATE_SOURCES: features.private_sources}
    table = table.replace_schema_metadata({"biovfm": json.dumps(about)})
    try:
        with atomic_path(out) as temporary:
            if out.suffix.lower() == ".csv":
                _write_csv(temporary, features)
            else:
                parquet.write_table(
                    table, temporary, use_dictionary=False, compression=_COMPRESSION, row_group_size=_ROW_GROUP
                )
        write_left_out(_beside(out), features.left_out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}); free some disk space") from error


def _write_csv(path: Path, features: Features) -> None:
    """One line per image: its id, then its vector in the columns `f0`, `f1` and so on."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", *(f"f{number}" for number in range(features.vectors.shape[1]))])
        writer.writerows(
            [name, *vector] for name, vector in zip(features.names, features.vectors.tolist(), strict=True)
        )


def write_left_out(path: Path, left_out: dict[str, str]) -> None:
    """Write the left-out files as CSV with the columns `id` and `reason`; if there are none, remove an older file."""
    if not left_out:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([("id", "reason"), *left_out.items()])
    write_text(path, text.getvalue())


def paths_file(out: Path) -> Path:
    """The file beside the features file that maps withheld ids to paths."""
    return out.with_name(f"{out.name}.paths.csv")


def _write_places(path: Path, places: dict[str, str]) -> None:
    """Write the path behind each id, for the user only; nothing if the ids are paths."""
    if not places:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    csv.writer(text).writerows([("id", "path"), *sorted(places.items(), key=lambda place: place[1])])
    write_text(path, text.getvalue())
    path.chmod(0o600)


def read_places(out: Path) -> dict[str, str]:
    """{id: path} for a features file that withholds paths; empty if there is no table."""
    try:
        with paths_file(out).open(newline="", encoding="utf-8") as stream:
            return {row["id"]: row["path"] for row in csv.DictReader(stream)}
    except FileNotFoundError:
        return {}


def _beside(out: Path) -> Path:
    return out.with_name(f"{out.name}.{LEFT_OUT}.csv")


def read_features(path: Path, vectors: bool = True) -> Features:
    """Read a file of `write_features`. Without `vectors`, only about a thousandth of it is read.

    Raises:
        UserError: the file does not exist or is not a features file.
    """
    arrow, parquet = require("pyarrow", "eval"), require("pyarrow.parquet", "eval")
    try:
        file = parquet.ParquetFile(path, memory_map=True)
        made_with = json.loads(file.schema_arrow.metadata[b"biovfm"])
        left_out, private = made_with.pop(LEFT_OUT, {}), made_with.pop(PRIVATE_SOURCES, [])
        names = file.read(columns=["id"])["id"].to_pylist()
        matrix = _read_vectors(file) if vectors else np.empty((0, 0), np.float32)
        lengths = file.read(columns=[LENGTH])[LENGTH].to_numpy() if LENGTH in file.schema_arrow.names else None
        return Features(names, matrix, made_with, left_out, tuple(map(str, private)), lengths)
    except (OSError, KeyError, TypeError, ValueError, arrow.ArrowException) as error:
        raise UserError(f"{path} is not a features file ({error}); write it with: biovfm embed") from error


def _read_vectors(file: Any) -> np.ndarray:
    """The vectors (N, D) float32 of an open features file, read by row groups to avoid a second copy."""
    vectors, done = np.empty((0, 0), np.float32), 0
    for group in range(file.num_row_groups):
        column = file.read_row_group(group, columns=["features"], use_threads=False)["features"].combine_chunks()
        part = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
        if not done:
            vectors = np.empty((file.metadata.num_rows, part.shape[1]), np.float32)
        vectors[done : done + len(part)] = part
        done += len(part)
    return vectors
