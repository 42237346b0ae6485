"""The `biovfm curate` command: chooses images from a pool by their features, and writes a selection to train on."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from biovfm_hf.errors import OptionError, UserError, one_line, require
from biovfm_hf.options import CommandParser, argument, check_options, option, parse_options, required
from biovfm_hf.reading.groups import column_values
from biovfm_hf.reading.rows import row_ids
from biovfm_hf.writing.files import write_text

from .features import open_features
from .hierarchy import build_tree, sample
from .retrieval import retrieve
from .sharing import Sharing, share

DESCRIPTION = """\
Choose N images of a pool by their features from biovfm embed.

Without --like the choice is balanced: the features are clustered level by level (Vo et al. 2024), and the same number
of images is taken from every cluster that has enough. So frequent kinds are thinned out and rare ones stay. With
--like the images nearest to your own are chosen."""
EXAMPLES = """\
examples:
  biovfm embed --model dinov2-b --images dataset/ --config full --out pool.parquet
  biovfm curate pool.parquet --keep 100000 --out curated --dataset dataset/ --config full
  biovfm curate pool.parquet --keep 50000 --like mine.parquet --out like-mine
  biovfm pretrain mae_vit_small --data dataset/ --out run data.config=full data.selection=curated/selection.txt

OUT receives selection.txt (one id per line) and curation.json with the settings and cluster sizes. With --dataset,
curation.json also counts the kept images of each modality, anatomy and source. The features are read in blocks;
OUT/.curate holds a temporary copy of them and the finished work, so that the same command continues after a kill. If
accelerate launch or torchrun starts several processes on one machine, they share the levels of more than 1,024
clusters."""
COLUMNS = ("modality", "source", "anatomy")
BRANCHING = 20  # clusters of a level for each cluster of the next
ROWS_PER_CLUSTER = 75  # at level 1; Vo et al. (2024) have 743M images in 10M clusters


class Selection(NamedTuple):
    """Number of clusters of each level, cluster sizes of the upper levels (None without clusters), and kept rows."""

    clusters: list[int]
    sizes: list[list[int]] | None
    rows: np.ndarray


@dataclass(frozen=True)
class CurateOptions:
    """Options of `biovfm curate`, keywords of `biovfm_hf.curate`. Wrong values raise UserError."""

    features: Path = argument("features file of the pool, from biovfm embed", metavar="FEATURES.parquet")
    keep: int = required("how many images to choose", metavar="N", least=1)
    out: Path = required("folder to write", metavar="DIR")
    clusters: tuple[int, ...] = option(
        (), "clusters of each level, decreasing (default: one per 75 images, then a twentieth each)",
        metavar="K,...", commas=True,
        least=2,
    )  # fmt: skip
    resamplings: int = option(10, "resampling rounds at each level; they spread the centroids evenly", least=0)
    closest: bool = option(False, "take the images nearest to their cluster's centre, instead of random ones")
    like: Path | None = option(None, "features file of your own images, by the same model", metavar="FEATURES.parquet")
    neighbours: int = option(32, "at most this many nearest images for each image of --like", least=1)
    dataset: str | None = option(
        None, "the embedded dataset, to report how its groups were thinned", metavar="DIR_OR_REPO"
    )
    config: str | None = option(None, "configuration of this dataset")
    split: str = option("train", "split of this dataset")
    seed: int = option(0, "random seed", least=0)

    def __post_init__(self) -> None:
        check_options(self)
        if list(self.clusters) != sorted(set(self.clusters), reverse=True):
            raise OptionError("clusters", f"{', '.join(map(str, self.clusters))}; give falling numbers")
        if self.out.is_file():
            raise OptionError("out", f"{self.out} is a file; give a folder")


def main(argv: list[str]) -> int:
    """Run `biovfm curate`. Returns 0; failures are raised as UserError."""
    parser = CommandParser("biovfm curate", description=DESCRIPTION, epilog=EXAMPLES)
    options = parse_options(parser, CurateOptions, argv)
    report = curate(options)
    if not report:
        return 0
    print(f"{report['kept']} of {report['pool']} images in {options.out / 'selection.txt'}")
    if report["kept"] < report["asked"]:
        print(f"{report['asked']} were asked for, but each image of --like gives at most {options.neighbours}; raise "
              "--neighbours for more")  # fmt: skip
    for column, part in report["columns"].items():
        print(f"{column}: entropy {part['entropy_pool']:.3f} in the pool, {part['entropy_kept']:.3f} kept")
        for value, (pool, kept) in part["counts"].items():
            print(f"  {value or '(none)'}: {kept} of {pool}")
    return 0


def curate(options: CurateOptions) -> dict[str, Any]:
    """Choose images, and write `selection.txt` and `curation.json` to `options.out`.

    Returns:
        The content of curation.json: {"pool", "asked", "kept", "seed", "clusters": how many at each level,
        "cluster_sizes": for each level, None with `like`, "columns": {column: {"entropy_pool", "entropy_kept",
        "counts": {value: [pool, kept]}}}}. Entropies are in nats. With several processes, only the first one writes;
        the others return {}.

    Raises:
        UserError: a features file cannot be read or has a value that is not finite, the pool has too few images or two
            of one id, or the dataset does not match the pool.
    """
    with share(options.out, _settings(options)) as sharing:
        names, features = open_features(options.features, sharing, "pool")
        if options.keep > len(features):
            raise OptionError("keep", f"{options.keep} of {len(features)} images in {options.features}; ask for fewer")
        known = _columns(options, names) if names else {}
        _check_ids(options.features, names)
        choose = _balanced if options.like is None else _alike
        clusters, sizes, rows = choose(options, features, sharing)
    if not names:  # not the first process
        return {}
    report = {
        "pool": len(names), "asked": options.keep, "kept": len(rows), "seed": options.seed, "clusters": clusters,
        "cluster_sizes": sizes,
        "columns": {column: thinned(values, rows) for column, values in known.items()},
    }  # fmt: skip
    write_text(options.out / "selection.txt", "".join(f"{names[row]}\n" for row in rows))
    write_text(options.out / "curation.json", json.dumps(report, indent=1) + "\n")
    return report


def _settings(options: CurateOptions) -> dict[str, Any]:
    """The settings that a run must share with a killed run to continue it."""
    files = [path.stat() for path in (options.features, options.like) if path and path.is_file()]
    return {"options": repr(options), "files": [[file.st_size, file.st_mtime_ns] for file in files]}


def _balanced(options: CurateOptions, features: np.ndarray, sharing: Sharing) -> Selection:
    clusters = list(options.clusters) or default_clusters(len(features))
    counts = [len(features), *clusters]
    nearest = [max(counts[level] // counts[level + 1] // 2, 1) for level in range(len(clusters))]
    tree = build_tree(features, clusters, nearest, options.resamplings, options.seed, sharing)
    sizes = [level.tolist() for level in tree.sizes()[1:]]
    return Selection(clusters, sizes, sample(tree, options.keep, options.seed, options.closest))


def _alike(options: CurateOptions, features: np.ndarray, sharing: Sharing) -> Selection:
    assert options.like
    _, queries = open_features(options.like, sharing, "like")
    return Selection([], None, retrieve(features, queries, options.keep, options.neighbours, sharing))


def _check_ids(path: Path, names: list[str]) -> None:
    name, times = next(iter(Counter(names).most_common(1)), ("", 0))
    if times > 1:
        raise UserError(f"{path}: {times} images have the id {name}, and a selection names images by their ids; embed "
                        "every image once")  # fmt: skip


def default_clusters(rows: int) -> list[int]:
    """Clusters of each level: one per 75 rows, then a twentieth per level while 20 or more remain; up to 4 levels."""
    clusters = [max(rows // ROWS_PER_CLUSTER, min(rows, 2))]
    while clusters[-1] // BRANCHING >= BRANCHING and len(clusters) < 4:
        clusters.append(clusters[-1] // BRANCHING)
    return clusters


def _columns(options: CurateOptions, names: list[str]) -> dict[str, np.ndarray]:
    """The dataset's columns, with one value for each image of the pool."""
    if options.dataset is None:
        return {}
    datasets = require("datasets", "eval")
    try:
        table = datasets.load_dataset(options.dataset, options.config, split=options.split)
    except (FileNotFoundError, ValueError, OSError) as error:
        raise UserError(f"{options.dataset}: no dataset that can be opened ({one_line(error)})") from error
    places = {name: row for row, name in enumerate(row_ids(table))}
    lacking = [name for name in names if name not in places]
    if lacking:
        raise UserError(
            f"{options.dataset} has no row {lacking[0]} ({len(lacking)} of {len(names)} are missing); give the "
            "dataset, config and split that were embedded"
        )
    rows = [places[name] for name in names]
    return {name: column_values(table, name)[rows] for name in COLUMNS if name in table.features}


def thinned(values: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """Entropy in nats of a column in the pool and in the kept rows, and how often each value occurs in both."""
    pool, kept = Counter(values.tolist()), Counter(values[rows].tolist())
    return {
        "entropy_pool": _entropy(pool), "entropy_kept": _entropy(kept),
        "counts": {value: [count, kept[value]] for value, count in pool.most_common()},
    }  # fmt: skip


def _entropy(counts: Counter[str]) -> float:
    shares = np.array(list(counts.values())) / max(counts.total(), 1)
    return float(-(shares * np.log(shares)).sum())
