"""Computes features of images once, in a cache of safetensors shards keyed by all their inputs."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.memory import keep_freed_memory
from biovfm_hf.progress import progress_bar
from biovfm_hf.threads import in_lanes, torch_lanes

from ..tasks.images import Images, Readable
from .encoder import Encoder, to_square
from .processes import ProcessGroup, process_group
from .shards import TokenStore, read_shards, write_shard
from .tokens import LAST_BLOCKS, SUMMARIES

if TYPE_CHECKING:
    from torch import Tensor


SHARD_IMAGES = 512  # at most this work is lost by a stop: about a minute of ViT-B/16 on two cores
TOKEN_SHARD_BYTES = 64 << 20
BATCH_SIZE = 64
CPU_BATCH = 8  # see `_encode_in_lanes`
FORMAT = "5"  # part of every key; increase it when the meaning of stored data changes


@dataclass(frozen=True)
class Augmentation:
    """The BioVFM authors' training augmentation, drawn anew for each view.

    The image is rotated by up to 30 degrees and padded by 4 of 224 pixels, and a crop of the original size is taken.
    Empty corners are black.
    """

    view: int
    seed: int

    def __call__(self, image: np.ndarray, index: int) -> np.ndarray:
        """Augment the image with index `index`, uint8 (H, W, 3), keeping its shape."""
        from PIL import Image

        rng = np.random.default_rng([self.seed, self.view, index])
        rotated = np.asarray(Image.fromarray(image).rotate(rng.uniform(-30, 30)))
        height, width = image.shape[:2]
        pad = max(1, round(4 * max(height, width) / 224))
        padded = np.pad(rotated, ((pad, pad), (pad, pad), (0, 0)))
        top, left = rng.integers(0, 2 * pad + 1, 2)
        return padded[top : top + height, left : left + width]


def cache_key(encoder: Encoder, images: Images, what: str) -> str:
    """A hex key of everything that features depend on: weights, preprocessing, precision, image content and `what`."""
    parts = (FORMAT, encoder.revision, encoder.preprocessing, encoder.precision, images.fingerprint(), what)
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=12).hexdigest()


def embed_summaries(
    encoder: Encoder,
    images: Images,
    cache: Path,
    augmentation: Augmentation | None = None,
    batch_size: int = BATCH_SIZE,
    label: str = "",
    processes: ProcessGroup | None = None,
) -> dict[str, np.ndarray]:
    """Feature vectors of `images`, from the cache where they exist.

    Features are computed in shards of `SHARD_IMAGES`. Each shard is written when it is finished, so a killed run
    continues with the missing ones. `processes` share the shards; None means the processes of `accelerate launch`.

    Returns:
        {name: (N, D) float32} for each of `tokens.SUMMARIES`, see `encoders.Encoded.summary`.

    Raises:
        UserError: an image cannot be read, or the encoder gives values that are not finite.
    """
    folder = cache / cache_key(encoder, images, f"summaries {augmentation}")
    job = _Job(encoder, images, folder, SHARD_IMAGES, batch_size, label, summarise, encoder.preprocess, augmentation)
    return read_shards(_fill(job, processes or process_group()), SUMMARIES)


def summarise(encoder: Encoder, pixels: "Tensor") -> dict[str, "Tensor"]:
    """Each of `SUMMARIES` of a batch."""
    return encoder.encode(pixels).summary()


def embed_features(
    encoder: Encoder, images: Images, cache: Path, which: str, batch_size: int = BATCH_SIZE, label: str = ""
) -> np.ndarray:
    """One kind of feature vector of `images`, (N, D) float32, from the cache where it exists.

    Args:
        encoder: the encoder.
        images: N images.
        cache: folder of the cached features.
        which: one of `tokens.FEATURES`. `both` is class token and mean patch token side by side; `last4` the class
            tokens of the last four blocks and the mean patch token, as in DINOv2's linear evaluation; `card` the
            vector that the model's card recommends; the others are described in `tokens.Encoded.summary`.
        batch_size: images per batch.
        label: text of the progress bar.

    Raises:
        UserError: as `embed_summaries`, or `last4` is requested of a model without equal blocks.
    """
    which = encoder.vector_kind(which)
    if which != "last4":
        return pick_features(embed_summaries(encoder, images, cache, None, batch_size, label), which)
    folder = cache / cache_key(encoder, images, f"last {LAST_BLOCKS}")
    job = _Job(encoder, images, folder, SHARD_IMAGES, batch_size, label, summarise_blocks, encoder.preprocess)
    return read_shards(_fill(job, process_group()), ("last4",))["last4"]


def summarise_blocks(encoder: Encoder, pixels: "Tensor") -> dict[str, "Tensor"]:
    """`last4` of a batch: class tokens of the last four blocks and the mean patch token, side by side."""
    import torch

    encoded = encoder.encode(pixels, LAST_BLOCKS)
    return {"last4": torch.cat([*encoded.classes, encoded.summary()["mean"]], 1)}


def pick_features(stored: dict[str, np.ndarray], which: str) -> np.ndarray:
    """One of the stored vectors; `both` is class token and mean patch token side by side."""
    if which != "both":
        return stored[which]
    if np.array_equal(stored["class"], stored["mean"], equal_nan=True):
        return stored["mean"]
    return np.concatenate([stored["class"], stored["mean"]], axis=1)


def embed_batch(encoder: Encoder, images: list[np.ndarray], which: str) -> np.ndarray:
    """One kind of feature vector for a few images in memory, (N, D) float32; nothing is cached."""
    pixels, which = encoder.preprocess(images), encoder.vector_kind(which)
    parts = summarise_blocks(encoder, pixels) if which == "last4" else summarise(encoder, pixels)
    return pick_features({name: part.cpu().numpy() for name, part in parts.items()}, which)


def embed_tokens(
    encoder: Encoder, images: Images, cache: Path, size: int, blocks: int = 0, batch_size: int = 16, label: str = ""
) -> "TokenStore":
    """Patch tokens of whole images, in a store on disk; images are resized to `size` x `size`, as their masks are.

    With `blocks` of 0 the store holds one grid per image, the normed tokens. Otherwise it holds the tokens of the last
    `blocks` blocks, oldest first. Tokens are stored in half precision.

    Raises:
        UserError: as `embed_summaries`.
    """

    def tokens(encoder: Encoder, pixels: "Tensor") -> dict[str, "Tensor"]:
        encoded = encoder.encode(pixels, blocks)
        grids = encoded.blocks if blocks else [encoded.patches()]
        return {f"block{i}": grid.half() for i, grid in enumerate(grids)}

    def preprocess(batch: list[np.ndarray]) -> "Tensor":
        return to_square(batch, size, encoder.mean, encoder.std)

    folder = cache / cache_key(encoder, images, f"tokens {size} {blocks}")
    per_image = _token_bytes(encoder, size, blocks)
    shard_images = int(np.clip(TOKEN_SHARD_BYTES // per_image, 1, SHARD_IMAGES))
    job = _Job(encoder, images, folder, shard_images, batch_size, label, tokens, preprocess)
    return TokenStore(_fill(job, process_group()), shard_images, len(images))


def _token_bytes(encoder: Encoder, size: int, blocks: int) -> int:
    image = to_square([np.zeros((size, size, 3), np.uint8)], size, encoder.mean, encoder.std)
    encoded = replace(encoder, compiled=[]).encode(image)
    return 2 * encoded.grid[0] * encoded.grid[1] * encoded.tokens.shape[-1] * max(blocks, 1)


@dataclass(frozen=True)
class _Job:
    """What to compute for which images, and where its shards go."""

    encoder: Encoder
    images: Images
    folder: Path
    shard_images: int
    batch_size: int
    label: str
    compute: Callable[[Encoder, "Tensor"], dict[str, "Tensor"]]
    preprocess: Callable[[list[np.ndarray]], "Tensor"]
    augmentation: Augmentation | None = None

    def rows(self, shard: int) -> range:
        """The image indices of a shard."""
        return range(shard * self.shard_images, min((shard + 1) * self.shard_images, len(self.images)))


def _fill(job: _Job, processes: ProcessGroup) -> list[Path]:
    """Write this process's share of the missing shards. Returns the paths of all shards."""
    count = -(-len(job.images) // job.shard_images)
    paths = [job.folder / f"{number:05d}.safetensors" for number in range(count)]
    try:
        _fill_missing(job, paths, [n for n in range(count) if processes.takes(n) and not paths[n].exists()])
    finally:
        processes.wait()
    if lacking := next((path for path in paths if not path.exists()), None):
        raise UserError(f"{lacking} was not written: another process failed; see its message")
    return paths


def _fill_missing(job: _Job, paths: list[Path], missing: list[int]) -> None:
    if not missing:
        return
    total = sum(len(job.rows(number)) for number in missing)
    with progress_bar(total=total, desc=job.label or "embed", unit="img", leave=False) as bar:
        for number, arrays in _embed_shards(job, missing, bar.update):
            _check_finite(arrays, job.label or job.encoder.name)
            if isinstance(job.images, Readable):
                _blank(arrays, [row for row, image in enumerate(job.rows(number)) if image in job.images.reasons])
            write_shard(paths[number], arrays)


def _embed_shards(
    job: _Job, shards: list[int], progress: Callable[[int], object]
) -> Iterator[tuple[int, dict[str, "Tensor"]]]:
    """The index and features of each shard; images of the next shard load while one is computed."""
    import torch

    def load(batch: range) -> "Tensor":
        decoded = [job.images[i] for i in batch]
        if job.augmentation is not None:
            decoded = [job.augmentation(image, i) for image, i in zip(decoded, batch, strict=True)]
        return pinned(job.preprocess(decoded), job.encoder)

    on_cpu = torch.device(job.encoder.device).type == "cpu" and not job.encoder.compiled
    encode = _encode_in_lanes if on_cpu else _encode_in_turn
    parts: dict[str, list[Tensor]] = {}
    for batch, features in encode(job, load, shards):
        for name, values in features.items():
            parts.setdefault(name, []).append(values)
        progress(len(batch))
        shard = batch.start // job.shard_images
        if batch.stop == job.rows(shard).stop:
            yield shard, {name: torch.cat(values).contiguous() for name, values in parts.items()}
            parts = {}


def pinned(pixels: "Tensor", encoder: Encoder) -> "Tensor":
    """A batch in memory that a GPU reads by itself, if `encoder` is on one, so that `encode` waits for no copy."""
    import torch

    return pixels.pin_memory() if torch.device(encoder.device).type == "cuda" else pixels


Found = Iterator[tuple[range, dict[str, "Tensor"]]]  # batches of images in order, with their features


def _encode_in_turn(job: _Job, load: Callable[[range], "Tensor"], shards: list[int]) -> Found:
    """Features batch by batch; threads load the next batches meanwhile."""
    from torch.nn import functional

    batches = _batches(job, shards, job.batch_size)
    for batch, pixels in zip(batches, prefetch(load, batches), strict=True):
        if job.encoder.compiled and len(batch) < job.batch_size:
            # compiled for one shape, so black images fill up the last batch
            pixels = functional.pad(pixels, (0, 0) * 3 + (0, job.batch_size - len(pixels)))
        yield batch, {name: value[: len(batch)].cpu() for name, value in job.compute(job.encoder, pixels).items()}


def _encode_in_lanes(job: _Job, load: Callable[[range], "Tensor"], shards: list[int]) -> Found:
    """Features in order, on a CPU: a few threads each load and encode small batches.

    No core waits for another within a layer or while images load, and the activations of `CPU_BATCH` images fit the
    core's cache: ViT-T/16 is 1.2 times and ViT-B/16 1.1 times as fast as with two cores on one batch of 32. All lanes
    together hold `job.batch_size` images, at least one each.
    """
    keep_freed_memory()  # otherwise zeroing new memory for activations takes 6 % of the time
    lanes, _ = torch_lanes()
    encoders: SimpleQueue[Encoder] = SimpleQueue()
    for _ in range(lanes):
        encoders.put(job.encoder.twin())

    def work(batch: range) -> dict[str, "Tensor"]:
        encoder = encoders.get()
        try:
            return job.compute(encoder, load(batch))
        finally:
            encoders.put(encoder)

    batches = _batches(job, shards, min(CPU_BATCH, max(job.batch_size // lanes, 1)))
    yield from zip(batches, in_lanes(work, batches), strict=True)


def _batches(job: _Job, shards: list[int], size: int) -> list[range]:
    """Ranges of up to `size` images; none crosses a shard's end."""
    rows = [job.rows(number) for number in shards]
    return [range(i, min(i + size, part.stop)) for part in rows for i in range(part.start, part.stop, size)]


def prefetch(work: Callable[[Any], Any], items: list, ahead: int = 3, threads: int | None = None) -> Iterator[Any]:
    """Yield `work(item)` in order; threads compute it up to `ahead` items in advance."""
    pool = ThreadPoolExecutor(threads or min(ahead, os.cpu_count() or 1))
    try:
        waiting: list[Future] = []
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= ahead:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C or an error, pending work is dropped


def _check_finite(arrays: dict[str, "Tensor"], label: str) -> None:
    for name, values in arrays.items():
        bad = int((~values.isfinite()).sum())
        if bad:
            raise UserError(
                f"{label}: the model gives {bad} features that are not finite ({name}); "
                "check its weights, or run it with --precision fp32"
            )


def _blank(arrays: dict[str, "Tensor"], rows: list[int]) -> None:
    """Set the features of unreadable images to NaN, so that the cache marks them as well."""
    for values in arrays.values():
        values[rows] = float("nan")
