"""The `biovfm demo` command: a browser page that shows a model's view of an image, run locally or as a Space."""

import hashlib
import io
import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import biovfm_hf
from biovfm_hf.cards.provenance import Provenance, read_provenance, write_provenance
from biovfm_hf.errors import OptionError, UserError, one_line, require
from biovfm_hf.hub.names import check_hub_names
from biovfm_hf.hub.network import heed_missing_network, is_path
from biovfm_hf.options import CommandParser, argument, check_options, option, parse_options
from biovfm_hf.progress import progress_bar
from biovfm_hf.reading.image_files import walk
from biovfm_hf.writing.files import atomic_path, write_text

from ..inputs.dataset import MAX_IMAGE_BYTES
from ..inputs.kinds import kind_of

SPLITS = ("train", "training", "val", "valid", "validation", "test")
THUMBNAIL = 128
NOT_COPIED = ("__pycache__", "quickstart", "dataset_builder", "training", "evaluation", "model_cards")
SPACE_README = """---
title: {title}
sdk: gradio
sdk_version: {version}
app_file: app.py
license: apache-2.0
models:
- {model}
---

# {title}

Drop a biomedical image and see the model's patch tokens as colours, the nearest of {count} indexed images, how these
vote, and what a linear probe on them says. For research; not a medical device. Made with `biovfm demo --export`.

If `{model}` is private or gated, this Space needs a secret named `HF_TOKEN` (in its settings): a token that may
read that model and no more.
"""
REQUIREMENTS = """torch
transformers>=5.18
safetensors
pillow
numpy
wrapt
filelock
pyyaml
av
h5py
imagecodecs
nibabel
opencv-python-headless
pydicom
pylibjpeg
pylibjpeg-openjpeg
pylibjpeg-rle
python-gdcm
tifffile
"""
EPILOG = """examples:
  biovfm demo run/model --index data
  biovfm demo run/model --index images/by-class --port 8000
  biovfm demo run/model --index data --export space --repo-id you/biovfm-tiny && biovfm push space you/biovfm-demo

--index takes a dataset folder (labels are modality and anatomy) or a folder of images, one folder per class.
"""


def indexed_images(place: Path, count: int, seed: int) -> Iterator[tuple[Any, str, str]]:
    """Up to `count` (path or encoded bytes, label, subject), drawn with `seed` from a dataset or a folder of images.

    Each label is drawn as often as the others, as far as there are so many. In a folder of images every file counts
    as its own subject, and its label is the topmost folder that is not a split.

    Raises:
        UserError: no images there.
    """
    chooser = random.Random(seed)
    if kind_of(place) == "datasets":
        yield from _rows(place, count, chooser)
        return
    files = [file for file, reason in walk(place) if reason is None]
    if not files:
        raise _no_images(place)
    labels = [_folder_label(file.relative_to(place), place) for file in files]
    for number in _evenly(labels, count, chooser):
        yield files[number], labels[number], files[number].relative_to(place).as_posix()


def _no_images(place: Path) -> UserError:
    return UserError(f"{place}: no images; give a dataset folder, or images in one folder per class")


def _folder_label(file: Path, place: Path) -> str:
    return next((part for part in file.parts[:-1] if part.lower() not in SPLITS), place.resolve().name)


def _evenly(labels: Sequence[str], count: int, chooser: random.Random) -> list[int]:
    """Places of up to `count` labels: one of each label in turn, so that a rare one is not lost among the others."""
    turns: Counter[str] = Counter()
    drawn = []
    for place in chooser.sample(range(len(labels)), len(labels)):
        turns[labels[place]] += 1
        drawn.append((turns[labels[place]], place))
    drawn.sort(key=lambda pair: pair[0])
    return sorted(place for _, place in drawn[:count])


def _rows(place: Path, count: int, chooser: random.Random) -> Iterator[tuple[bytes, str, str]]:
    parquet: Any = require("pyarrow.parquet", "data")
    readers = [parquet.ParquetFile(file) for file in sorted((place / "data").glob("**/*.parquet"))]
    groups = [(reader, group) for reader in readers for group in range(reader.num_row_groups)]
    chooser.shuffle(groups)
    groups = groups[: max(1, count // 8)]
    labels = [_row_labels(reader, group) for reader, group in groups]
    starts = [0, *accumulate(map(len, labels))]
    taken = _evenly(list(chain.from_iterable(labels)), count, chooser)
    for (reader, group), known, start in zip(groups, labels, starts, strict=False):
        rows = [place - start for place in taken if start <= place < start + len(known)]
        if not rows:
            continue
        names = [name for name in ("image", "subject", "path") if name in reader.schema_arrow.names]
        table = reader.read_row_group(group, columns=names).take(rows)
        for number, row in zip(rows, table.to_pylist(), strict=True):
            raw = (row.get("image") or {}).get("bytes") or b""
            if 0 < len(raw) <= MAX_IMAGE_BYTES:
                yield raw, known[number], str(row.get("subject") or row.get("path"))


def _row_labels(reader: Any, group: int) -> list[str]:
    """Modality and anatomy of each row of a row group, in words."""
    names = [name for name in ("modality", "anatomy") if name in reader.schema_arrow.names]
    if not names:
        return ["not stated"] * reader.metadata.row_group(group).num_rows
    rows = reader.read_row_group(group, columns=names).to_pylist()
    return [", ".join(str(row[name]) for name in names if row[name]) or "not stated" for row in rows]


def build_index(encoder: Any, place: Path, count: int, seed: int) -> Any:
    """Embed up to `count` images; unreadable ones are left out.

    Raises:
        UserError: no image could be read.
    """
    from .app import Index

    features, labels, thumbnails, subjects = [], [], [], []
    images = list(indexed_images(place, count, seed))
    for image, label, subject in progress_bar(iterable=images, desc="indexing", unit="images"):
        try:
            shown, vector, _ = encoder(image)
        except (UserError, OSError, ValueError):
            continue
        picture = Image.fromarray(shown)
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=82)
        features.append(vector)
        labels.append(label[:80])
        subjects.append(hashlib.sha256(subject.encode()).hexdigest()[:16])
        thumbnails.append(buffer.getvalue())
    if not features:
        raise UserError(f"{place}: none of its images could be read; give another --index")
    return Index(np.stack(features), labels, thumbnails, subjects)


def index_provenance(place: Path | None) -> Provenance:
    """The private parts of an index: a dataset's private sources; for any other folder all of it, to be safe."""
    if place is None:
        return Provenance()
    if kind_of(place) == "datasets":
        return read_provenance(place)
    return Provenance(private_sources=("the indexed images",))


def export_space(target: Path, model: str, index: Any, provenance: Provenance) -> None:
    """Write a Gradio Space: the page, the package that reads images for it, the index, and the Hub's files."""
    gradio = require("gradio", "space")
    with atomic_path(target) as folder:
        folder.mkdir()
        for name in ("app.py", "reading.py"):
            shutil.copyfile(Path(__file__).with_name(name), folder / name)
        package, rest = Path(biovfm_hf.__file__).parent, shutil.ignore_patterns(*NOT_COPIED)
        shutil.copytree(package, folder / "biovfm_hf", ignore=rest)
        write_text(folder / "space.json", json.dumps({"model": model}) + "\n")
        write_text(folder / "requirements.txt", REQUIREMENTS)
        title = f"{model.split('/')[-1]} demo"
        count = 0
        if index is not None:
            index.save(folder / "index.npz")
            count = len(index.labels)
        readme = SPACE_README.format(title=title, version=gradio.__version__, model=model, count=count)
        write_text(folder / "README.md", readme)
        write_provenance(folder, provenance)


@dataclass(frozen=True)
class DemoOptions:
    """Options of the demo: the model, the images to search, and where the page is served or written."""

    model: str = argument("model folder or Hub repository", metavar="MODEL_DIR")
    index: Path | None = option(None, "images to search: dataset folder, or class folders", metavar="DIR")
    images: int = option(500, "at most this many of them", least=1, metavar="N")
    seed: int = option(0, "draws them", least=0)
    host: str = option("127.0.0.1", "address to listen on; the default is this machine only")
    port: int = option(7860, "port", least=1, most=65535)
    export: Path | None = option(None, "write a Gradio Space there instead of running", metavar="DIR")
    repo_id: str | None = option(None, "with --export: the model's name on the Hub", metavar="OWNER/NAME")

    def __post_init__(self) -> None:
        check_options(self)
        if self.export and not self.repo_id:
            raise OptionError("export", "needs repo_id OWNER/NAME, since the Space loads the model from the Hub")
        check_hub_names([self.repo_id] if self.repo_id else [], owner=True)


def _check_target(target: Path) -> None:
    """Refuse a folder with anything other than an earlier export, since writing replaces it."""
    if target.exists() and not (target / "space.json").is_file() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: exists and is not an exported Space; name a new folder with --export")


def _check_index(place: Path) -> None:
    """Refuse a folder without images, before the model is loaded for them."""
    if not place.is_dir():
        raise UserError(f"{place}: no such folder; give a dataset folder or a folder of images")
    if kind_of(place) != "datasets" and all(reason is not None for _, reason in walk(place)):
        raise _no_images(place)


def _check_model(name: str) -> None:
    """Refuse a name that is neither a model folder nor a repository; do not wait for a missing network."""
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{name}: no config.json, so not a model folder; give the model/ of a training run")
    elif is_path(name) or "/" not in name:
        raise UserError(f"{name}: no such folder; give a model folder, or a Hub repository as OWNER/NAME")
    else:
        check_hub_names([name])
        heed_missing_network()


def _load(name: str) -> Any:
    from .app import Encoder
    from .reading import read_image

    try:
        return Encoder(name, read=read_image)
    except (OSError, ValueError) as error:
        reason = one_line(error)
        remedy = "check the folder" if Path(name).is_dir() else "check the name, the network and `hf auth login`"
        raise UserError(f"{name}: cannot be loaded ({reason}); {remedy}") from error


def demo(options: DemoOptions) -> None:
    """Serve the page until it is interrupted, or, with `options.export`, write the Space and return.

    Raises:
        UserError: the model or the images cannot be read, or the target folder has other content.
    """
    if options.export:
        _check_target(options.export)
    if options.index is not None:
        _check_index(options.index)
    _check_model(options.model)
    require("gradio", "space")
    from .app import build_page, launch

    encoder = _load(options.model)
    index = build_index(encoder, options.index, options.images, options.seed) if options.index else None
    if options.export:
        export_space(options.export, str(options.repo_id), index, index_provenance(options.index))
        return
    print(f"http://{options.host}:{options.port} shows {options.model}; stop with Ctrl-C")
    launch(build_page(encoder, index), options.host, options.port)


def main(argv: list[str]) -> int:
    """`biovfm demo`. Returns the exit status."""
    parser = CommandParser(
        prog="biovfm demo",
        description="Open a page where an image (PNG, JPEG, TIFF, DICOM, NIfTI) is shown as the model sees it: its "
        "patch tokens as colours, the nearest of some images that you index with their votes, and the scores of a "
        "linear probe on them. Runs on this machine; --export writes a Space for the Hub instead.",
        epilog=EPILOG,
    )
    options = parse_options(parser, DemoOptions, argv)
    demo(options)
    if options.export:
        print(f"{options.export}: a Space; send it with: biovfm push {options.export} OWNER/NAME")
        print(
            f"if {options.repo_id} is private or gated: in the Space's settings add a secret HF_TOKEN, a token that "
            "may read that model and no more"
        )
    return 0
