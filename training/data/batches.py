"""Makes batches of crops from numbered images, in the configured order.

A batch is a pure function of (configuration, batch number): workers only compute and have no state. So the order does
not depend on their number, and resuming is exact.
"""

import logging
import os
import signal
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from biovfm_hf.errors import UserError
from biovfm_hf.nearest import did_you_mean

from ..settings.augment import AugmentConfig, CropSizes
from ..settings.config import DataConfig, TrainConfig
from .augment import Augmenter, pack
from .augment_batch import pack_looks
from .decode import Image, read_image
from .effects import per_channel
from .images import TRIES, Images
from .order import SampleOrder
from .stream import StreamedImages
from .stream_order import StreamOrder, WeightedStreamOrder

logger = logging.getLogger(__name__)


Order = SampleOrder | StreamOrder | WeightedStreamOrder


def sample_order(images: Images, config: TrainConfig) -> Order:
    """The configured order of the images.

    Raises:
        UserError: weights for groups that do not exist, negative ones, or all zero.
    """
    data, batch = config.data, config.batch.size
    if data.weight_by is None:
        if not isinstance(images, StreamedImages):
            return SampleOrder(len(images), config.seed)
        sizes = np.array([group.size for group in images.groups])
        return StreamOrder(sizes, config.seed, batch, data.stream_lanes)
    groups = images.group_by(data.weight_by)
    weights = _weights(config, list(groups))
    if not isinstance(images, StreamedImages):
        return SampleOrder(len(images), config.seed, list(groups.values()), weights)
    return WeightedStreamOrder(list(groups.values()), weights, images.starts, config.seed, batch, data.stream_lanes)


def _weights(config: TrainConfig, groups: list[str]) -> list[float]:
    """The weight of each group."""
    for name in config.data.weights:
        if name not in groups:
            raise UserError(f"data.weights: no image has {config.data.weight_by} {name!r}{did_you_mean(name, groups)}")
    weights = [config.data.weights.get(name, 1.0) for name in groups]
    if min(weights) < 0 or sum(weights) <= 0:
        raise UserError("data.weights must be zero or more, and not all zero")
    return weights


@dataclass(frozen=True)
class Share:
    """The part of the sequence of positions that a process reads.

    Micro-batch `m` (counting forward passes) of process `rank` takes positions
    (m * processes + rank) * images ... + images.
    """

    images: int
    processes: int = 1
    rank: int = 0

    def positions(self, micro_batch: int) -> NDArray[np.int64]:
        """Positions of one micro-batch."""
        first = (micro_batch * self.processes + self.rank) * self.images
        return np.arange(first, first + self.images, dtype=np.int64)


def _substitutes(index: int, count: int) -> list[int]:
    """The image itself, the next ones, then ever farther ones, since damage can affect a whole part of a file."""
    offsets = [*range(TRIES // 2), *(TRIES // 2 << step for step in range(TRIES // 2))]
    return list(dict.fromkeys((index + offset) % count for offset in offsets))


@dataclass(frozen=True)
class Drawn:
    """The images behind a batch.

    Attributes:
        positions: (B,) of its images in the run's endless sequence.
        images: (B,) numbers in the data of the images that were read.
        side: of its global crops, in pixels.
    """

    positions: NDArray[np.int64]
    images: NDArray[np.int64]
    side: int


@dataclass(frozen=True)
class Cutters:
    """The augmenters for one set of crop sizes.

    Attributes:
        sizes: the sizes.
        crops: cuts the global and local crops.
        anchors: cuts the copies of the global crops at `anchor_size`, from the same draws; None if there are none.
    """

    sizes: CropSizes
    crops: Augmenter
    anchors: Augmenter | None

    @classmethod
    def of(cls, config: AugmentConfig, sizes: CropSizes) -> "Cutters":
        """The cutters of a configuration for these of its sizes."""
        config, anchors = config.with_sizes(sizes), None
        if sizes.anchor_size is not None:
            anchors = Augmenter(replace(config, global_size=sizes.anchor_size, local_count=0))
        return cls(sizes, Augmenter(config), anchors)


def _by_view(views: list[list[Any]]) -> list[Any]:
    """Per image its V views, to all images' first, all images' second and so on."""
    return [image[number] for number in range(len(views[0])) for image in views]


class CropBatches(Dataset):
    """Batch number -> `global_crops` (G * B, 3, S, S) uint8, `local_crops`, and what `extra` adds.

    With `augment.on_device` the crops are only cut and flipped; `global_looks` and `local_looks` hold the remaining
    operations (`augment_batch.apply_looks`).

    Crops are stacked view by view: the first B global crops are every image's first one. `skipped` lists (number of an
    unreadable image, number of its substitute, why).
    """

    def __init__(
        self,
        images: Images,
        order: Order,
        config: TrainConfig,
        share: Share,
        extra: Callable[[Drawn, np.random.Generator], dict[str, torch.Tensor]] | None = None,
    ) -> None:
        self.images = images
        self.order = order
        self.config = config
        self.share = share
        self.extra = extra
        self.cutters = [Cutters.of(config.augment, sizes) for sizes in config.augment.sizes]
        self.passes = max(config.batch.size // (share.images * share.processes), 1)  # of a step
        self._cache: dict[int, tuple[Image, str | None]] = {}
        self._room = 0

    def set_cache(self, mebibytes: int) -> None:
        """Keep decoded images, or row groups of a stream, in memory, up to this limit in each reading process."""
        if isinstance(self.images, StreamedImages):
            self.images.set_cache(mebibytes)
        else:
            self._room = mebibytes * 2**20

    def __getitem__(self, micro_batch: int) -> dict[str, Any]:
        """The batch of one forward pass."""
        positions = self.share.positions(micro_batch)
        cutters = self.draw_cutters(micro_batch)
        skipped: list[tuple[int, int, str]] = []
        views: list[tuple[list[Any], list[Any]]] = []
        anchors: list[list[Image]] = []
        draw = cutters.crops.draw if self.config.augment.on_device else cutters.crops.views
        indices = self.order.indices(positions)
        for place, position in enumerate(positions.tolist()):
            image, modality, indices[place] = self.read(int(indices[place]), skipped)
            random = Random((self.config.seed << 64) + position)
            views.append(draw(image, random, modality))
            if cutters.anchors is not None:  # drawn from the same seed, so boxes and flips are the same
                again = cutters.anchors.draw(image, Random((self.config.seed << 64) + position), modality)[0]
                anchors.append([view for view, _ in again])
        batch: dict[str, Any] = self._stacked("global", [large for large, _ in views])
        if self.config.augment.local_count:
            batch |= self._stacked("local", [small for _, small in views])
        if anchors:
            batch["anchor_crops"] = torch.from_numpy(pack(_by_view(anchors)))
        batch["skipped"] = skipped
        if self.extra is not None:
            seed = (self.config.seed, micro_batch, self.share.rank)
            drawn = Drawn(positions, indices, cutters.sizes.global_size)
            batch.update(self.extra(drawn, np.random.default_rng(seed)))
        return batch

    def draw_cutters(self, micro_batch: int) -> Cutters:
        """The cutters of the batch's step, the same for all of its passes and processes."""
        if len(self.cutters) == 1:
            return self.cutters[0]
        weights = np.array([cutters.sizes.weight for cutters in self.cutters])
        generator = np.random.default_rng((self.config.seed, 2, micro_batch // self.passes))
        return self.cutters[generator.choice(len(weights), p=weights / weights.sum())]

    def _stacked(self, name: str, views: list[list[Any]]) -> dict[str, torch.Tensor]:
        """Per image its V views of one size, to crops (V * B, 3, S, S) view by view, and the looks not yet applied."""
        ordered = _by_view(views)
        if not self.config.augment.on_device:
            return {f"{name}_crops": torch.from_numpy(pack(ordered))}
        crops, looks = zip(*ordered, strict=True)
        return {f"{name}_crops": torch.from_numpy(pack(list(crops))), f"{name}_looks": pack_looks(looks)}

    def read(self, index: int, skipped: list[tuple[int, int, str]]) -> tuple[Image, str | None, int]:
        """The decoded image `index`, its modality and number, or a readable substitute, which is noted in `skipped`.

        Raises:
            UserError: the image and all its substitutes are unreadable.
        """
        first: Exception | None = None
        candidates = _substitutes(index, len(self.images))
        for candidate in candidates:
            if candidate in self._cache:
                decoded = self._cache[candidate]
            else:
                try:
                    data, name, modality = self.images.fetch(candidate)
                    decoded = (read_image(data, name, self.config.data.max_side), modality)
                except (UserError, cv2.error) as failure:
                    first = first or failure
                    continue
                self._remember(candidate, decoded)
            if candidate != index:
                skipped.append((index, candidate, str(first)))
            return *decoded, candidate
        raise UserError(
            f"{len(candidates)} images beginning with number {index} cannot be read, the first because: {first}"
        ) from first

    def _remember(self, index: int, decoded: tuple[Image, str | None]) -> None:
        if decoded[0].nbytes <= self._room:
            self._room -= decoded[0].nbytes
            self._cache[index] = decoded


def normalise(crops: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """(B, 3, S, S) uint8 to float32, (x / 255 - mean) / std per channel."""
    scale = per_channel([1 / (255 * s) for s in std], crops)
    shift = per_channel([-m / s for m, s in zip(mean, std, strict=True)], crops)
    return torch.addcmul(shift, crops.float(), scale)


def loader(
    dataset: CropBatches, batches: Sequence[int], workers: int, pin: bool
) -> Generator[dict[str, Any], None, None]:
    """The batches of these numbers, in this order, computed ahead by `workers` processes.

    Raises:
        UserError: the data cannot be read; raised on every process that meets it, since each reads its own part.
    """
    cv2.setNumThreads(1)
    ready = iter(
        DataLoader(
            dataset,
            sampler=batches,
            batch_size=None,
            num_workers=workers,
            pin_memory=pin,
            prefetch_factor=2 if workers else None,
            worker_init_fn=_quiet_worker,
        )
    )
    try:
        while True:
            try:
                batch = next(ready)
            except StopIteration:
                return
            except UserError as error:  # from a worker it arrives with a traceback as its text
                reason = str(error).strip().splitlines()[-1].removeprefix("biovfm_hf.errors.UserError: ")
                if dataset.share.rank:
                    logger.error("process %d: %s", dataset.share.rank, reason)
                raise UserError(reason) from error
            yield batch
    finally:  # however the run ended: Python's exit would wait forever for workers that ignore SIGTERM
        if workers:
            ready._shutdown_workers()  # type: ignore[attr-defined]


def _quiet_worker(_: int) -> None:
    # Ctrl-C, torchrun and schedulers signal the whole group; the main process saves its step and then ends its workers
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def choose_workers(config: DataConfig, processes_here: int) -> int:
    """Loader processes for one training process: as configured, else the free cores, at most 12."""
    if config.workers >= 0:
        return config.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(12, cores // processes_here - 1))
