"""Properties of a task computed from its images: how many, how separable, how compressible, how varied.

Everything streams: only one block of images is in memory, however large the file.

- `num_samples`: training, validation and test images together (this reproduces the paper's correlations).
- `num_classes`: classes, or labels of a multi-label task.
- `dbi`: Davies-Bouldin index (1979) of the classes in pixel space, with images averaged to at most 32 x 32 pixels. The
  paper does not say which features it used. For a multi-label task, the mean over labels of the index of images with
  the label against images without it.
- `gzip`: median over images of compressed bytes over raw bytes; lower means more redundant.
- `entropy`: median over images of the Shannon entropy of the grey-level histogram, in bits (0 to 8).
"""

import gzip
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from biovfm_hf.errors import UserError

from ...tasks import npz
from ...tasks.medmnist import SIZES

SPLITS = ("train", "val", "test")
SIDE = 32
BLOCK = 256
SAMPLED_IMAGES = 2000
Block = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Properties:
    """Properties of one task; see the head of this file."""

    task: str
    num_samples: int
    num_classes: int
    dbi: float
    gzip: float
    entropy: float


def task_of(path: Path) -> tuple[str, int]:
    """Task and pixels by the name of a MedMNIST file: bloodmnist_224.npz is (bloodmnist, 224); no number means 28."""
    name, _, size = path.stem.rpartition("_")
    return (name, int(size)) if name and size in map(str, SIZES) else (path.stem, SIZES[0])


def one_per_task(files: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """The smallest file of each task, sorted, and the other files. A task is measured once, usually at 28 pixels."""
    smallest: dict[str, Path] = {}
    others = []
    for file in sorted(files, key=task_of):
        if smallest.setdefault(task_of(file)[0], file) != file:
            others.append(file)
    return list(smallest.values()), others


def measure(
    path: str | Path, sampled: int = SAMPLED_IMAGES, progress: Callable[[int], object] | None = None
) -> Properties:
    """Measure a MedMNIST-style .npz: `train_images`, `train_labels`, and the same for `val` and `test`.

    Args:
        path: the file; its name contains the task's name, see `task_of`.
        sampled: number of evenly spaced images for the medians of `gzip` and `entropy`; 0 takes all.
        progress: called with the number of images done, over both passes.

    Raises:
        UserError: the file is missing, its arrays are missing or do not match, it holds volumes, or it has fewer than
            two classes.
    """
    path = Path(path)
    task = task_of(path)[0]
    total = _count(path)
    labels = np.concatenate([npz.read(path, f"{split}_labels").reshape(n, -1) for split, n in _sizes(path)])
    step = max(1, total // sampled) if sampled else 1
    ratios: list[float] = []
    entropies: list[float] = []

    def first_pass() -> Iterator[Block]:
        seen = 0
        for images, marks in _blocks(path):
            for image in images[(-seen) % step :: step]:
                ratios.append(gzip_ratio(image))
                entropies.append(entropy(image))
            seen += len(images)
            yield _seen(images, marks, progress)

    def second_pass() -> Iterator[Block]:
        for images, marks in _blocks(path):
            yield _seen(images, marks, progress)

    columns = labels.shape[1]
    dbi = davies_bouldin(first_pass(), second_pass, multilabel=columns > 1)
    classes = columns if columns > 1 else int(labels.max()) + 1
    if not np.isfinite(dbi):
        raise UserError(f"{path}: fewer than two classes have images, so the Davies-Bouldin index is undefined")
    return Properties(task, total, classes, dbi, float(np.median(ratios)), float(np.median(entropies)))


def as_row(properties: Properties) -> dict[str, object]:
    """The row of a properties file."""
    return asdict(properties)


def gzip_ratio(image: np.ndarray) -> float:
    """Compressed over raw bytes of one image's pixels, with gzip at its highest level."""
    raw = np.ascontiguousarray(image).tobytes()
    return len(gzip.compress(raw, 9, mtime=0)) / len(raw)


def entropy(image: np.ndarray) -> float:
    """Shannon entropy in bits of an 8-bit image's grey-level histogram (all channels together)."""
    counts = np.bincount(image.reshape(-1), minlength=256)
    share = counts[counts > 0] / image.size
    return float(-(share * np.log2(share)).sum()) + 0.0


def pooled(images: np.ndarray) -> np.ndarray:
    """8-bit images (n, H, W[, C]) as float32 rows, averaged over the smallest blocks that leave at most 32 a side."""
    images = images if images.ndim == 4 else images[..., None]
    n, height, width, channels = images.shape
    steps = [next(k for k in range(1, side + 1) if side % k == 0 and side // k <= SIDE) for side in (height, width)]
    if steps == [1, 1]:
        return images.reshape(n, -1).astype(np.float32)
    # Summing strips is ten times faster than a mean over two strided axes; 16 x 16 full pixels stay below 65,536.
    kind = np.uint16 if steps[0] * steps[1] <= 256 else np.uint32
    strips = images.reshape(n, height // steps[0], steps[0], width * channels)
    tall = _sum_strips(strips, 2, kind).reshape(n, height // steps[0], width // steps[1], steps[1], channels)
    return (_sum_strips(tall, 3, kind).astype(np.float32) / (steps[0] * steps[1])).reshape(n, -1)


def _sum_strips(array: np.ndarray, axis: int, kind: type) -> np.ndarray:
    total = np.take(array, 0, axis=axis).astype(kind)
    for k in range(1, array.shape[axis]):
        total += np.take(array, k, axis=axis)
    return total


def davies_bouldin(first: Iterable[Block], second: Callable[[], Iterable[Block]], multilabel: bool = False) -> float:
    """Davies-Bouldin index of labelled feature rows in two passes over blocks; the same as scikit-learn's.

    Args:
        first: blocks of (features (n, d), labels (n, k)).
        second: returns the same blocks for the second pass.
        multilabel: labels are k columns of 0/1, and each is scored as two clusters; otherwise k = 1 column of classes.

    Returns:
        The index (the mean over labels if multi-label), NaN if fewer than two clusters have members.
    """
    sums: dict[tuple[int, int], np.ndarray] = {}
    counts: dict[tuple[int, int], int] = {}
    for features, labels in first:
        for key, members in _clusters(labels, multilabel):
            part = features[members].sum(axis=0, dtype=np.float64)
            sums[key] = sums[key] + part if key in sums else part
            counts[key] = counts.get(key, 0) + int(members.sum())
    centres = {key: total / counts[key] for key, total in sums.items()}
    spread = dict.fromkeys(centres, 0.0)
    for features, labels in second():
        for key, members in _clusters(labels, multilabel):
            offset = features[members] - centres[key]
            spread[key] += float(np.sqrt(np.einsum("ij,ij->i", offset, offset)).sum())
    spread = {key: value / counts[key] for key, value in spread.items()}
    columns = sorted({column for column, _ in centres})
    each = []
    for column in columns:
        keys = sorted(key for key in centres if key[0] == column)
        each.append(_index([centres[key] for key in keys], [spread[key] for key in keys]))
    defined = [value for value in each if np.isfinite(value)]
    return float(np.mean(defined)) if defined else float("nan")


def _clusters(labels: np.ndarray, multilabel: bool) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Every (column, class) that occurs, with its members as a mask."""
    for column in range(labels.shape[1] if multilabel else 1):
        for value in np.unique(labels[:, column]):
            yield (column, int(value)), labels[:, column] == value


def _index(centres: list[np.ndarray], spread: list[float]) -> float:
    """Mean over clusters of the worst ratio of summed spreads to centre distance."""
    if len(centres) < 2:
        return float("nan")
    stacked, width = np.stack(centres), np.array(spread)
    distance = np.linalg.norm(stacked[:, None] - stacked[None], axis=2)
    if not distance.any() or not width.any():
        return 0.0
    distance[distance == 0] = np.inf
    ratios = (width[:, None] + width[None]) / distance
    np.fill_diagonal(ratios, -np.inf)
    return float(ratios.max(axis=1).mean())


def _seen(images: np.ndarray, marks: np.ndarray, progress: Callable[[int], object] | None) -> Block:
    if progress:
        progress(len(images))
    return pooled(images), marks


def _sizes(path: Path) -> list[tuple[str, int]]:
    names = npz.array_names(path)
    present = [split for split in SPLITS if f"{split}_images" in names]
    if not present:
        raise UserError(f"{path}: holds no train_images, val_images or test_images; is it a MedMNIST file?")
    sizes = []
    for split in present:
        images, labels = npz.header(path, f"{split}_images"), npz.header(path, f"{split}_labels")
        fits = len(images.shape) == 3 or (len(images.shape) == 4 and images.shape[3] in (1, 3))
        if images.dtype != np.uint8 or not fits or min(images.shape[1:]) < 1:
            volumes = "; sets of volumes are not measured, leave them out" if len(images.shape) == 4 else ""
            raise UserError(f"{path}: {split}_images is {images.dtype} {images.shape}; "
                            f"expected uint8 (n, height, width) or (n, height, width, 3){volumes}")  # fmt: skip
        if labels.shape[:1] != images.shape[:1] or len(labels.shape) > 2 or labels.dtype.kind not in "bui":
            raise UserError(f"{path}: {split}_labels is {labels.dtype} {labels.shape}, "
                            f"which does not fit {images.shape[0]} images")  # fmt: skip
        sizes.append((split, images.shape[0]))
    return [(split, n) for split, n in sizes if n]


def _count(path: Path) -> int:
    return sum(n for _, n in _sizes(path))


def count_images(path: str | Path) -> int:
    """Number of images of all splits of a MedMNIST-style .npz.

    Raises:
        UserError: as `measure`.
    """
    return _count(Path(path))


def _blocks(path: Path) -> Iterator[Block]:
    for split, n in _sizes(path):
        labels = npz.read(path, f"{split}_labels").reshape(n, -1).astype(np.int64)
        start = 0
        for images in npz.rows(path, f"{split}_images", BLOCK):
            yield images, labels[start : start + len(images)]
            start += len(images)
