"""Images of a task, decoded only when they are read: files, arrays, crops, slices of volumes."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from math import gcd
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from biovfm_hf.decoding.bounds import check_image
from biovfm_hf.errors import UserError
from biovfm_hf.pixels import MAX_PIXELS
from biovfm_hf.reading.image_files import read_uint8
from biovfm_hf.reading.masks import read_mask

JPEG_START = b"\xff\xd8"
END_BYTES = 1 << 16
CHECKSUMMED = {".png", ".gz"}
KEPT_VOLUMES = 2


class Images(Protocol):
    """A sequence of images: `images[i]` is a uint8 array (H, W, 3)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray: ...

    def fingerprint(self) -> str:
        """A hex digest of the content."""
        ...


def to_rgb(array: np.ndarray, origin: object) -> np.ndarray:
    """Convert a grey (H, W), (H, W, 1) or colour (H, W, 3|4) array to uint8 (H, W, 3).

    Arrays that are not uint8 are scaled from their minimum and maximum to 0..255. The channels of a grey image are
    read-only views of one channel (see `is_grey`).

    Raises:
        UserError: `array` has another shape, no pixel, or no finite value; the message names `origin`.
    """
    if array.ndim == 3 and array.shape[-1] in (1, 4):
        array = array[..., 0] if array.shape[-1] == 1 else array[..., :3]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] != 3) or array.size == 0:
        raise UserError(f"{origin}: shape {array.shape} is not an image; give (H, W) or (H, W, 3)")
    if array.dtype != np.uint8:
        array = stretch(array, origin)
    if array.ndim == 2:
        array = np.broadcast_to(array[..., None], (*array.shape, 3))
    return array


def is_grey(image: np.ndarray) -> bool:
    """Whether the channels of an image (H, W, 3) share their memory, so that processing one is enough."""
    return image.strides[-1] == 0


def stretch(array: np.ndarray, origin: object, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Scale `array` linearly to uint8: `low` (default its minimum) to 0, `high` (default its maximum) to 255.

    Raises:
        UserError: no value of `array` is finite.
    """
    values = np.asarray(array, np.float32)
    finite = np.isfinite(values)
    if not finite.any():
        raise UserError(f"{origin}: no finite pixel; remove the file or repair it")
    values = np.where(finite, values, values[finite].min())
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    scaled = (values - low) * (255.0 / max(high - low, 1e-12))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def read_image(
    source: Path | bytes,
    shrink_to: int | None = None,
    name: str | None = None,
    frame: int | None = None,
    square: bool = False,
) -> np.ndarray:
    """Decode one 2D image file to uint8 (H, W, 3), whatever its format and depth.

    Args:
        source: path or bytes of the file.
        shrink_to: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size if its sides are divisible and its shorter side
            keeps at least this many pixels.
        name: name in messages; by default the path.
        frame: index of the frame in a file that has several.
        square: resample pixels to squares if the file says that they are not square.

    Raises:
        UserError: the file is missing, broken or too large, or has several slices and none was chosen.
    """
    name = name or str(source)
    file: Path | BytesIO = BytesIO(source) if isinstance(source, bytes) else source
    is_jpeg = source[:2] == JPEG_START if isinstance(source, bytes) else source.suffix.lower() in (".jpg", ".jpeg")
    draft = _draft_jpeg(file, shrink_to, name) if shrink_to and is_jpeg and frame is None else None
    return to_rgb(read_uint8(source, name=name, slice_index=frame, square=square) if draft is None else draft, name)


@lru_cache(maxsize=8)
def _read_kept(path: Path) -> np.ndarray:
    """`read_image`, cached for a file from which several boxes are read in a row."""
    return read_image(path)


def _draft_jpeg(file: Path | BytesIO, shrink_to: int, name: str) -> np.ndarray | None:
    """A JPEG at the smallest of its built-in sizes that is large enough; None if it needs the common decoder.

    A size that does not divide the image's would change the proportions and move the border of a padded square.
    """
    try:
        with Image.open(file) as image:
            upright = image.getexif().get(0x0112, 1) == 1
            if image.format != "JPEG" or image.mode not in ("L", "RGB") or not upright:
                return None
            if image.width * image.height > MAX_PIXELS:
                return None
            check_image(image, name)
            shorter, common = min(image.size), gcd(*image.size)
            part = next((n for n in (8, 4, 2) if common % n == 0 and shorter // n >= shrink_to), 1)
            image.draft(None, (image.width // part, image.height // part))
            return np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


class ImageSize(NamedTuple):
    """Width and height of an image as displayed, and whether its file stores it on its side (EXIF)."""

    width: int
    height: int
    turned: bool = False

    def __str__(self) -> str:
        return f"{self.width} x {self.height}"


def raster_size(path: Path) -> ImageSize | None:
    """The size that a file's header states; None if Pillow cannot read it."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5
            width, height = image.size[::-1] if turned else image.size
            return ImageSize(width, height, turned)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def file_digest(path: Path) -> bytes:
    """A digest of a file: of all its content, or of size and both ends if the format has checksums (PNG, gzip).

    Every record and every encoder asks for it, so a file is read again only if its size or times change.
    """
    try:
        status = path.stat()
        return _content_digest(path, status.st_size, (status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; check the folder or the list that names it") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check it, or leave it out") from error


@lru_cache(maxsize=1 << 18)
def _content_digest(path: Path, size: int, _: tuple[int, int, int]) -> bytes:
    digest = hashlib.sha256()  # in hardware, twice as fast as BLAKE2
    digest.update(size.to_bytes(8, "little"))
    with path.open("rb") as stream:
        if path.suffix.lower() in CHECKSUMMED and size > 2 * END_BYTES:
            digest.update(stream.read(END_BYTES))
            stream.seek(size - END_BYTES)
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.digest()


def combined_digest(parts: Sequence[bytes]) -> str:
    """One hex digest of several digests."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


@dataclass(frozen=True)
class FileImages:
    """Image files, each optionally cropped to a box (left, top, right, bottom) in pixels.

    `shrink_to` is passed on to `read_image`; it must be None with boxes. `frames` has the index of a frame for each
    file with several. `names` are used in messages (default: the paths). `square` resamples pixels to squares, as the
    processor does; not for images whose masks or boxes refer to the file's own pixels.
    """

    paths: Sequence[Path]
    boxes: Sequence[tuple[int, int, int, int]] | None = None
    shrink_to: int | None = None
    frames: Sequence[int | None] | None = None
    names: Sequence[str] | None = None
    square: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        if self.boxes is None:
            frame = None if self.frames is None else self.frames[index]
            name = None if self.names is None else self.names[index]
            return read_image(self.paths[index], self.shrink_to, name, frame, self.square)
        left, top, right, bottom = self.boxes[index]
        crop = _read_kept(self.paths[index])[max(top, 0) : bottom, max(left, 0) : right]
        return to_rgb(crop, f"box {self.boxes[index]} of {self.paths[index]}")

    def fingerprint(self) -> str:
        """A digest of every file's content and every box."""
        digests = {path: file_digest(path) for path in dict.fromkeys(self.paths)}
        parts = [digests[path] for path in self.paths]
        return combined_digest([repr((self.shrink_to, self.boxes, self.frames, self.square)).encode(), *parts])


@dataclass(frozen=True)
class Readable:
    """Images, some of which may be unreadable: those become one black pixel; `reasons` has the reason by index."""

    images: Images
    reasons: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        try:
            return self.images[index]
        except UserError as error:
            self.reasons[index] = str(error)
            return np.zeros((1, 1, 3), np.uint8)

    def fingerprint(self) -> str:
        """The fingerprint of the images, which determines what is readable."""
        return self.images.fingerprint()


@dataclass(frozen=True)
class Joined:
    """Several sequences of images as one, in order."""

    parts: Sequence[Images]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> np.ndarray:
        for part in self.parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)

    def fingerprint(self) -> str:
        """A digest of the parts' fingerprints."""
        return combined_digest([part.fingerprint().encode() for part in self.parts])


@dataclass(frozen=True)
class FileMasks:
    """Mask files: `masks[i]` is an integer array (H, W) of class indices.

    `values` maps file values to classes (0 if a value is not in it). `threshold` turns a grey mask into a two-class
    mask (value > threshold), and a one-bit mask into its set pixels.
    """

    paths: Sequence[Path]
    values: dict[int, int] | None = None
    threshold: int | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        mask = read_mask(self.paths[index])
        if self.threshold is not None:
            return (mask > (self.threshold if mask.max(initial=0) > 1 else 0)).astype(np.uint8)
        if self.values is not None:
            out = np.zeros(mask.shape, np.uint8)
            for value, target in self.values.items():
                out[mask == value] = target
            return out
        return mask

    def fingerprint(self) -> str:
        """A digest of every file's content and of the mapping."""
        return combined_digest([repr((self.values, self.threshold)).encode(), *map(file_digest, self.paths)])


@dataclass
class VolumeSlices:
    """Slices of volumes: image `i` is slice `where[i][1]` of volume `where[i][0]`, along `axis`.

    `load(path)` returns a 3D array; `scale(volume)` converts the whole volume to uint8 once. The last few volumes are
    kept, so that several threads that read slices in order read each volume once.
    """

    paths: Sequence[Path]
    where: Sequence[tuple[int, int]]
    load: Callable[[Path], np.ndarray]
    scale: Callable[[np.ndarray], np.ndarray]
    recipe: str
    axis: int = 2
    _kept: Any = field(default_factory=OrderedDict, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __len__(self) -> int:
        return len(self.where)

    def slice(self, index: int) -> np.ndarray:
        """Slice `index` of the scaled volume, (H, W)."""
        number, position = self.where[index]
        with self._lock:
            if number not in self._kept:
                self._kept[number] = self.scale(self.load(self.paths[number]))
                if len(self._kept) > KEPT_VOLUMES:
                    self._kept.popitem(last=False)
            volume = self._kept[number]
        return np.ascontiguousarray(np.moveaxis(volume, self.axis, 0)[position])

    def __getitem__(self, index: int) -> np.ndarray:
        return to_rgb(self.slice(index), self.paths[self.where[index][0]])

    def fingerprint(self) -> str:
        """A digest of every volume's content, the chosen slices and the intensity settings."""
        return combined_digest([self.recipe.encode(), repr(list(self.where)).encode(), *map(file_digest, self.paths)])


@dataclass
class SliceMasks:
    """Class indices (H, W) of the slices of label volumes: the masks beside `VolumeSlices`."""

    slices: VolumeSlices

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.slices.slice(index)

    def fingerprint(self) -> str:
        """A digest of the label volumes."""
        return self.slices.fingerprint()
