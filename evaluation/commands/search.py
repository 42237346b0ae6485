"""The `biovfm search` command: finds the images of a folder that look most like an example."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.cards.provenance import Provenance, add_provenance
from biovfm_hf.errors import UserError
from biovfm_hf.options import CommandParser, check_options, option, parse_options, required
from biovfm_hf.volumes import AXES
from biovfm_hf.writing.files import check_writable, write_text

from ..encoders.device import DEVICE_HELP, default_device, device_word
from ..encoders.embed import embed_batch
from ..encoders.load import check_encoder, load_encoder
from ..encoders.own_code import TRUST_HELP
from ..encoders.pooling import POOLS
from ..pictures.figure import new_figure, save_figure
from ..tasks.images import read_image
from ..tasks.volume_cases import SLICES, CaseSlices, Slicing, VolumeCase, is_volume, open_cases
from .features import CONFIG, LEFT_OUT, SPLIT, Features, paths_file, read_features, read_places, write_left_out
from .images import is_plain_folder, open_images
from .naming import why_withheld
from .nearest import Index, most_similar

EXAMPLES = """\
examples:
  biovfm embed  --model runs/tiny/model --images scans/ --out features.parquet
  biovfm search --model runs/tiny/model --features features.parquet --query case.png --images scans/ --out found

OUT receives search.json (ids and cosine similarities). With --images it also receives sheet.png, a contact sheet with
each example and its most similar images."""
PRINTED = 3  # similar images per example; the first is often the example itself
SHEET_PIXELS = 224  # least side to which large pictures of a dataset are decoded
SAME = 0.999  # least similarity of an example to its own features, which half precision may round


@dataclass(frozen=True)
class SearchOptions:
    """Options of `biovfm search`, keywords of `biovfm_hf.search`. Wrong values raise UserError."""

    model: str = required("model that made the features")
    features: Path = required("features file from biovfm embed", metavar="FILE.parquet")
    query: tuple[Path, ...] = required("an example image or volume; can be repeated", metavar="IMAGE")
    out: Path = required("folder to write", metavar="DIR")
    images: Path | None = option(
        None, "folder or dataset that was embedded, to draw the contact sheet", metavar="DIR_OR_DATASET"
    )
    top: int = option(8, "how many images to find for each example", least=1)
    strict: bool = option(False, "end with exit status 1 if an example was left out")
    device: str | None = option(None, DEVICE_HELP, read=device_word)
    index: bool = option(
        False,
        "keep a faiss index beside the features; with a million vectors, later searches read a fiftieth of them and "
        "may miss some images (needs biovfm-hf[search])",
    )
    trust_remote_code: str | None = option(None, TRUST_HELP, metavar="REVISION")

    def __post_init__(self) -> None:
        check_options(self)


def main(argv: list[str]) -> int:
    """Run `biovfm search`. Returns 0; failures are raised as UserError."""
    parser = CommandParser(
        prog="biovfm search",
        description="Find the images most like an example, by cosine similarity of their feature vectors.",
        epilog=EXAMPLES,
    )
    options = parse_options(parser, SearchOptions, argv)
    finds = search(options)
    for entry in finds:
        best = ", ".join(f"{hit['id']} ({_likeness(hit)})" for hit in entry["found"][:PRINTED])
        more = len(entry["found"]) - PRINTED
        print(f"{entry['query']}: {best}" + (f" and {more} more" if more > 0 else ""))
    print(f"in {options.out / 'search.json'}" + ("" if options.images else "; --images DIR draws them, too"))
    if (paths := paths_file(options.features)).is_file():
        print(f"{paths}, for you only, maps ids to paths")
    if lost := len(set(options.query)) - len(finds):
        print(f"{lost} examples left out, see {options.out / LEFT_OUT}.csv", file=sys.stderr)
    return int(options.strict and lost > 0)


def _likeness(hit: dict[str, Any]) -> str:
    return f"{hit['similarity']:.3f}" + (", the example itself" if hit["itself"] else "")


def search(options: SearchOptions) -> list[dict[str, Any]]:
    """Find the images most similar to each example and write `search.json`; `options.images` adds a contact sheet.

    Examples that cannot be read are left out; `left_out.csv` lists them with the reason. Vectors that are not finite
    are not found; stderr tells how many there are.

    Returns:
        The content of search.json: for each example {"query": file name, "found": [{"id", "similarity", "itself"},
        ...]}, most similar first; `itself` says whether the image is the example.

    Raises:
        UserError: no example can be read, the features cannot be read or none is finite, or another model made the
            features.
    """
    check_encoder(options.model)
    check_writable(options.out, folder=True)
    index = Index(options.features) if options.index and options.features.is_file() else None
    ready = index if index and index.fresh else None
    features = read_features(options.features, vectors=ready is None)
    if ready and not ready.fresh:
        raise UserError(f"{options.features} changed while it was read; search again")
    places = read_places(options.features)
    folder = None if options.images is None or _is_dataset(options.images, features) else options.images
    picture_of = None if options.images is None or folder else _dataset_pictures(options.images, features)
    if folder and not any(_place(folder, name, places)[0].exists() for name in features.names):
        raise _not_embedded(folder, features)
    withheld = features.withheld or any(why_withheld(path.parent, [path.name]) for path in options.query)
    titles, slicing = _titles(options.query, withheld), _slicing(features.made_with)
    examples, unread = _read_examples(options.query, slicing)
    left_out = {titles[path]: reason.replace(str(path), titles[path]) for path, reason in unread.items()}
    write_left_out(options.out / f"{LEFT_OUT}.csv", left_out)
    if not examples:
        raise UserError(f"none of {len(left_out)} examples can be read; the first: {next(iter(left_out.values()))}")
    queries = _queries(options, features, list(examples.values()))
    rows, similarity = _similar(options, features, queries, ready)
    finds = [
        {
            "query": titles[path],
            "found": [
                {"id": name, "similarity": s, "itself": _is_itself(path, name, s, folder, places)}
                for name, s in ((features.names[i], s) for i, s in _taken(r, v))
            ],
        }
        for path, r, v in zip(examples, rows, similarity, strict=True)
    ]
    add_provenance(options.out, Provenance(private_sources=features.private_sources))
    write_text(options.out / "search.json", json.dumps(finds, indent=1) + "\n")
    if options.images:
        titled = [(f"example\n{titles[path]}", _shown(path, slicing)) for path in examples]
        picture_of = picture_of or partial(_read_again, options.images, places, slicing)
        draw_sheet(options.out / "sheet.png", titled, picture_of, finds)
    if index and not ready:
        _keep(index, features.vectors)
    return finds


def _queries(options: SearchOptions, features: Features, examples: list[list[np.ndarray]]) -> np.ndarray:
    """The vectors (Q, D) of examples, of one image or several slices each, made as the features were."""
    device, precision = options.device or default_device(), features.made_with.get("precision")
    encoder = load_encoder(options.model, device, precision=precision, trust_remote_code=options.trust_remote_code)
    if features.made_with["revision"] != encoder.revision:
        raise UserError(
            f"{options.features} was made with another model ({features.made_with['model']}); give that one as --model"
        )
    vectors = [embed_batch(encoder, images, features.made_with["features"]) for images in examples]
    pool = POOLS.get(features.made_with.get("pool", "mean"), POOLS["mean"])
    queries = np.stack([pool(images) for images in vectors])
    if not np.isfinite(queries).all():
        raise UserError(f"{options.model}: the features of an example are not finite; use another model or precision")
    return queries


def _similar(
    options: SearchOptions, features: Features, queries: np.ndarray, ready: Index | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and similarities as `most_similar`, from the index if one is ready; tells how many vectors are not finite.

    Raises:
        UserError: no vector is finite.
    """
    kept = ready.count if ready else int(np.isfinite(features.lengths).sum())
    if not kept:
        raise UserError(f"{options.features}: no vector is finite; embed the images again")
    if lost := len(features.names) - kept:
        print(f"{options.features}: {lost} of {lost + kept} vectors are not finite, and left out", file=sys.stderr)
    if ready:
        return ready.most_similar(queries, options.top)
    return most_similar(features.vectors, queries, options.top, features.lengths)


def _keep(index: Index, vectors: np.ndarray) -> None:
    """Build the index for later searches; this one has its answer, so a failure is only told."""
    try:
        index.build(vectors)
    except UserError as error:
        print(f"no index was kept: {error}", file=sys.stderr)


def _is_dataset(images: Path, features: Features) -> bool:
    """Whether the images are a dataset: a folder of Parquet files, or a name on the Hub if a dataset was embedded."""
    return SPLIT in features.made_with if not images.is_dir() else not is_plain_folder(images)


def _dataset_pictures(source: Path, features: Features) -> Callable[[str], np.ndarray]:
    """The picture of each id of an embedded dataset; black if it cannot be read.

    Raises:
        UserError: the dataset cannot be opened, or has none of the ids.
    """
    made_with = features.made_with
    opened = open_images(str(source), made_with.get(CONFIG) or None, made_with.get(SPLIT, "train"), SHEET_PIXELS)
    rows = {name: number for number, name in enumerate(opened.names)}
    if not any(name in rows for name in features.names):
        raise _not_embedded(source, features)

    def picture_of(name: str) -> np.ndarray:
        try:
            return opened.images[rows[name]]
        except (UserError, KeyError):
            return np.zeros((1, 1, 3), np.uint8)

    return picture_of


def _not_embedded(images: Path, features: Features) -> UserError:
    return UserError(
        f"images: {images} holds no image of the features (the first is {features.names[0]}); give the folder or "
        "dataset that was embedded"
    )


def _titles(paths: Sequence[Path], withheld: bool) -> dict[Path, str]:
    """The file name of each example, or its number if the names are withheld or equal; folders are not shown."""
    different = len({path.name for path in paths}) == len(set(paths))
    return {path: path.name if different and not withheld else f"example {n}" for n, path in enumerate(paths, 1)}


def _taken(rows: np.ndarray, similarity: np.ndarray) -> list[tuple[int, float]]:
    """Row and similarity of each match; the rows of an index are -1 where it found fewer than requested."""
    pairs = zip(rows.tolist(), similarity.tolist(), strict=True)
    return [(row, round(value, 6)) for row, value in pairs if row >= 0]


def _slicing(made_with: dict[str, str]) -> Slicing:
    """The slices of volumes from which features were made."""
    return Slicing(tuple(made_with.get("axes", "axial").split(",")), int(made_with.get("slices", SLICES)))


def _read_examples(paths: Sequence[Path], slicing: Slicing) -> tuple[dict[Path, list[np.ndarray]], dict[Path, str]]:
    """The readable examples, and the reasons for the others. A volume is read as the slices used for the features."""
    examples, left_out = {}, {}
    for path in paths:
        try:
            examples[path] = _volume_slices(path, slicing) if is_volume(path) else [read_image(path, square=True)]
        except UserError as error:
            left_out[path] = str(error)
    return examples, left_out


def _volume_slices(path: Path, slicing: Slicing) -> list[np.ndarray]:
    slices = CaseSlices([_volume(path, slicing)])
    return [slices[number] for number in range(len(slices))]


def _volume(path: Path, slicing: Slicing) -> VolumeCase:
    cases, lost = open_cases([path], slicing)
    if lost:
        raise UserError(lost[path])
    return cases[0]


def _place(folder: Path, name: str, places: dict[str, str]) -> tuple[Path, int | None, tuple[str, int] | None]:
    """File, frame and slice of the image with the id `name`; `places` maps withheld ids to paths."""
    path, frame, number = name.rpartition(":frame:")
    if frame and number.isdecimal():
        return folder / places.get(path, path), int(number), None
    whole, *place = name.rsplit(":", 2)  # a slice of a volume is PATH:axis:index
    if len(place) == 2 and place[0] in AXES and place[1].isdecimal():
        return folder / places.get(whole, whole), None, (place[0], int(place[1]))
    return folder / places.get(name, name), None, None


def _is_itself(query: Path, name: str, similarity: float, folder: Path | None, places: dict[str, str]) -> bool:
    """Whether an id is that of the example; without the folder, path and similarity decide."""
    if folder is not None:
        return _place(folder, name, places)[0].resolve() == query.resolve()
    place = _place(Path(), name, places)[0].as_posix()
    return similarity >= SAME and query.resolve().as_posix().endswith(f"/{place}")


def _shown(path: Path, slicing: Slicing, frame: int | None = None, at: tuple[str, int] | None = None) -> np.ndarray:
    """The picture that the sheet shows of a file: a volume's slice `at`, or the middle one along the first axis."""
    if not is_volume(path):
        return read_image(path, frame=frame, square=True)
    if at is None:
        places = _volume(path, slicing).slices
        along = [place for place in places if place[0] == places[0][0]]
        at = along[len(along) // 2]
    return CaseSlices([VolumeCase(path, (at,))])[0]


def _read_again(folder: Path, places: dict[str, str], slicing: Slicing, name: str) -> np.ndarray:
    """An embedded image; black if it can no longer be read."""
    path, frame, at = _place(folder, name, places)
    try:
        return _shown(path, slicing, frame, at)
    except UserError:
        return np.zeros((1, 1, 3), np.uint8)


def _short(name: str) -> str:
    """The last parts of an id on two lines; in a folder for each patient all files may have one name."""
    return "\n".join(name.split("/")[-2:])


def draw_sheet(
    path: Path,
    examples: list[tuple[str, np.ndarray]],
    image_of: Callable[[str], np.ndarray],
    finds: list[dict[str, Any]],
) -> None:
    """Draw one row per example: the example, then the images most similar to it, each with its similarity.

    `examples` are pairs of title and image; `image_of` reads the image of an id.
    """
    columns = 1 + max(len(entry["found"]) for entry in finds)
    figure = new_figure(1.5 * columns, 2.0 * len(finds))
    for line, (example, entry) in enumerate(zip(examples, finds, strict=True)):
        alike = [(f"{_likeness(hit)}\n{_short(hit['id'])}", image_of(hit["id"])) for hit in entry["found"]]
        for number, (title, image) in enumerate([example, *alike]):
            axes = figure.add_subplot(len(finds), columns, line * columns + number + 1)
            axes.imshow(image)
            axes.set_axis_off()
            axes.set_title(title, fontsize=7)
    best = "; ".join(f"{entry['query']}: most similar is {entry['found'][0]['id']}" for entry in finds)
    save_figure(figure, path, f"Examples at the left, the most similar images beside them. {best}.")
