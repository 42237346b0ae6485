"""The leakage guard: drops sources that overlap with benchmarks, and pictures that match benchmark images.

`strict` leaves out sources whose records mention a benchmark, in whole or part. `paper` keeps the paper's list
unchanged. Both drop pictures that match an image of the given benchmark files: first by perceptual hash,
then by the texture of thumbnails, in three framings (whole, centre crop, padded).

Measured on 1,512 real images, half of them planted as benchmark images in 36 ways: recall at least 0.9987, one wrong
decision in 54,432 (docs/dataset.md).
"""

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from biovfm_hf.decoding.files import PICTURE_SUFFIXES
from biovfm_hf.errors import UserError
from biovfm_hf.fitting import centred
from biovfm_hf.pixels import decode, to_uint8
from biovfm_hf.progress import progress_bar

from .hashing import SIMILARITY, THUMBNAIL, Rows, fingerprint, reduced, sha256_of_file, textures
from .near_hashes import neighbours

MODES = ("strict", "paper")
RADIUS = 8  # bits by which the perceptual hashes of a picture and its small copy may differ
SQUARE = 1.02  # largest ratio of the sides of a picture that counts as square
_KINDS = "MedMNIST .npz files, images, or folders of them"


def framings(content: np.ndarray) -> list[np.ndarray]:
    """The framings in which a benchmark may show a picture: whole; if not square, also its centre crop and padded.

    `content`: uint8 (h, w) without padding.
    """
    height, width = content.shape[:2]
    side, longest = min(height, width), max(height, width)
    if longest <= SQUARE * side:
        return [content]
    top, left = (height - side) // 2, (width - side) // 2
    return [content, content[top : top + side, left : left + side], centred(content, (longest, longest))]


class Benchmarks(NamedTuple):
    """Fingerprints of benchmark images: `hashes` uint64 (n,), `thumbnails` uint8 (n, THUMBNAIL ** 2), `names` (n,)."""

    hashes: np.ndarray
    thumbnails: np.ndarray
    names: np.ndarray


def read_benchmarks(paths: Iterable[Path]) -> Benchmarks:
    """Fingerprint benchmark files: MedMNIST .npz files (validation and test images), image files, folders of both.

    Raises:
        UserError: a path does not exist, or a file there cannot be read as such.
    """
    hashes: list[int] = []
    thumbnails: list[np.ndarray] = []
    names: list[str] = []
    files = benchmark_files(paths)
    for path in progress_bar(iterable=files, disable=not files, unit="files", desc="reading benchmarks"):
        for name, image in _images(path):
            code, thumbnail = fingerprint(reduced(image))
            hashes.append(code)
            thumbnails.append(thumbnail)
            names.append(name)
    stacked = np.stack(thumbnails) if thumbnails else np.empty((0, THUMBNAIL**2), np.uint8)
    return Benchmarks(np.array(hashes, np.uint64), stacked, np.array(names, dtype=str))


def matches(hashes: np.ndarray, thumbnails: Rows, benchmarks: Benchmarks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (i, j) of a framing i and a benchmark image j that show the same, and their correlation.

    `hashes`: uint64 (n,); `thumbnails`: uint8 (n, THUMBNAIL ** 2). The pairs are ordered by i, then j.
    """
    blocks = list(_alike(hashes, thumbnails, benchmarks))
    if not blocks:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    i, j, correlation = (np.concatenate(part) for part in zip(*blocks, strict=True))
    order = np.lexsort((j, i))
    return i[order], j[order], correlation[order]


def _alike(
    hashes: np.ndarray, thumbnails: Rows, benchmarks: Benchmarks
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Results of `matches` in blocks, in no order: for many pictures with near hashes, only matches stay in memory."""
    for pictures, images in neighbours(hashes, benchmarks.hashes, RADIUS):
        order = np.lexsort((images, pictures))
        for start in range(0, len(order), 2**16):
            piece = order[start : start + 2**16]
            i, j = pictures[piece], images[piece]
            rows, row_of = np.unique(i, return_inverse=True)
            columns, column_of = np.unique(j, return_inverse=True)
            left, right = textures(thumbnails[rows]), textures(benchmarks.thumbnails[columns])
            correlation = np.einsum("nk,nk->n", left[row_of], right[column_of])
            same = correlation >= SIMILARITY
            yield i[same], j[same], correlation[same]


def benchmark_files(paths: Iterable[Path]) -> list[Path]:
    """The benchmark files that `paths` name, in the order in which they are read.

    Folders are searched, except for hidden files.

    Raises:
        UserError: a path does not exist, or a folder holds no such file.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"--benchmarks {path}: no such file or folder; give {_KINDS}")
        named = (p for p in path.rglob("[!.]*") if p.suffix.lower() in (".npz", *PICTURE_SUFFIXES))
        below = sorted(p for p in named if p.is_file())
        if path.is_dir() and not below:
            raise UserError(f"--benchmarks {path}: holds no benchmark image; give {_KINDS}")
        files += below if path.is_dir() else [path]
    return files


def identities(files: Iterable[Path]) -> list[list[str]]:
    """Name and SHA-256 of the content of each benchmark file; messages name its images by it.

    Raises:
        UserError: a file cannot be read.
    """
    pairs = []
    for file in files:
        try:
            pairs.append([file.name, sha256_of_file(file)])
        except OSError as error:
            raise UserError(f"--benchmarks {file}: cannot be read ({error.strerror}); give {_KINDS}") from error
    return pairs


def _images(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    if path.suffix.lower() == ".npz":
        yield from _npz(path)
    else:
        yield path.name, to_uint8(decode(path))


def _npz(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    splits = [(split, _array(path, f"{split}_images")) for split in ("val", "test")]
    if all(images is None for _, images in splits):
        raise UserError(f"{path}: has neither val_images nor test_images; give {_KINDS}")
    for split, images in splits:
        if images is None:
            continue
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] != 3):
            raise UserError(f"{path}: {split}_images has shape {images.shape}; only 2D MedMNIST files are read")
        for number, image in enumerate(images):
            yield f"{path.stem}/{split}/{number}", image


def _array(path: Path, name: str) -> np.ndarray | None:
    """One array of an .npz file, None if it has none of that name."""
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("not an .npz file")
        with np.load(path, allow_pickle=False) as arrays:
            return arrays.get(name)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); give {_KINDS}") from error
