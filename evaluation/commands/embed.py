"""The `biovfm embed` command: turns images into a Parquet file of feature vectors."""

import os
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from biovfm_hf.decoding.files import VOLUME_SUFFIXES
from biovfm_hf.errors import OptionError, UserError
from biovfm_hf.options import CommandParser, check_options, option, parse_options, required
from biovfm_hf.volumes import AXES
from biovfm_hf.writing.files import check_writable

from ..encoders.device import (
    BF16_HELP,
    COMPILE_HELP,
    DEVICE_HELP,
    PRECISIONS,
    default_device,
    device_word,
    embedding_precision,
)  # fmt: skip
from ..encoders.embed import embed_features
from ..encoders.encoder import Encoder
from ..encoders.load import check_encoder, load_encoder, split_label
from ..encoders.own_code import TRUST_HELP
from ..encoders.pooling import EACH_SLICE, POOL_HELP, POOLS, case_features
from ..encoders.processes import process_group
from ..tasks.images import Joined, Readable
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
from .features import CONFIG, SPLIT, UNRECORDED, Features, left_out_file, paths_file, write_features, write_places
from .images import EVERY_FRAME, NO_FRAME, Opened, check_source, is_plain_folder, open_images, open_table
from .naming import ARCHIVE, AUTO, KEEP, WITHHOLD, Naming, first_archive, why_withheld

WHY, ON_REQUEST = "withheld", "on request"
SHOWN = 20  # left-out files that are shown on the screen
FEATURES = ("both", "class", "mean", "pooled", "last4", "card")
EXAMPLES = f"""\
examples:
  biovfm embed --model runs/tiny/model --images scans/ --out features.parquet
  biovfm embed --model dinov2-b --images my_dataset/ --config ultrasound --split train --out features.parquet

OUT has one row per image: `id`, `features` (float32) and `length`, the Euclidean length of the features. The id is the
path below the folder or of the dataset row; PATH:frame:N is one of several frames. A volume is one row, pooled over
its slices: with --series a folder of DICOM files, or a file that ends in
{", ".join(VOLUME_SUFFIXES)}, where .gz may follow.
The file's metadata say under `biovfm` how the features were made. Unreadable files are left out; the metadata and
OUT.left_out.csv list them with the reason. If a path repeats a word of its file's DICOM header, such as a name, or
with `--paths withhold`, ids are keyed hashes. OUT.paths.csv, which is for you only, maps them to paths. A killed run
continues when it is started again."""


@dataclass(frozen=True)
class EmbedOptions:
    """Options of `biovfm embed`, keywords of `biovfm_hf.embed`. Wrong values raise UserError."""

    model: str = required("a model folder, a Hub repository, or any other name that biovfm probe takes")
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
    device: str | None = option(None, DEVICE_HELP, read=device_word)
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
    left = f"; {len(features.left_out)} files left out, see {left_out_file(out)}" if features.left_out else ""
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
    check_encoder(options.model)
    check_source(options.images)
    if options.paths == WITHHOLD and not is_plain_folder(Path(options.images)):
        raise OptionError("paths", f"withhold is for a folder of images, which {options.images} is not; leave it out")
    check_writable(options.out)
    table = open_table(options.images, options.config, options.split)
    device = options.device or default_device()
    precision = options.precision or embedding_precision(device)
    encoder = load_encoder(options.model, device, "own", options.compile, precision, options.trust_remote_code)
    opened = table.shrunk(encoder.size) if table else _opened(options, encoder.size)
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
        write_places(paths_file(options.out), opened.places)
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
    return [folder / place / file.name for file in (out, left_out_file(out), paths_file(out))]


def _why_withheld(options: EmbedOptions, folder: Path) -> str | None:
    if not is_plain_folder(folder):
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


def describe(encoder: Encoder, which: str) -> dict[str, str]:
    """How a features file was made, as string values for its metadata."""
    return {
        "model": split_label(encoder.name)[0],
        "revision": encoder.revision,
        "preprocessing": encoder.preprocessing,
        "precision": encoder.precision,
        "features": which,
    }
