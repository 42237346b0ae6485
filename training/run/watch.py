"""Measures during training whether the encoder learns, because the loss alone does not show it.

It measures kNN accuracy on a small labelled task and RankMe (the number of dimensions that the features use), and
warns of the two ways in which self-distillation collapses.
"""

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from biovfm_hf import BioVFMModel
from biovfm_hf.errors import UserError

from ..data.augment import pack, resize
from ..data.batches import normalise
from ..data.decode import Image, read_image
from ..data.files import read_bytes
from ..data.images import Images
from ..data.order import permute
from ..settings.architecture import biovfm_config
from ..settings.config import TrainConfig
from .dense import dense_signs, dense_warnings
from .masks import MaskedImages, dense_dice, load_masks
from .watched import task_files

_BATCH = 64
Features = Callable[[Tensor, int], Tensor]  # (B, tokens, D), where patches begin -> (B, D)
_WINDOW = 10  # logged steps that must agree before there is a warning of a collapse
_MEASURES = ("rankme", "dense_locality", "dense_dice")  # of the watch, which warnings read


@dataclass(frozen=True)
class LabelledImages:
    """(N, 3, S, S) uint8 images and (N,) int64 labels, for training and test."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: list[str]


def load_task(folder: Path, size: int, limit: int) -> LabelledImages:
    """Load a classification folder in the forms of `task_files`.

    Args:
        folder: the task.
        size: side that images are resized to.
        limit: most images of each split, spread evenly over the sorted files.

    Raises:
        UserError: as `task_files`, or an image cannot be read.
    """
    classes, parts = task_files(folder)
    splits = []
    for files in parts:
        chosen = [files[place] for place in np.linspace(0, len(files) - 1, min(limit, len(files))).astype(int)]
        pixels = [_square(read_image(read_bytes(path), path), size) for path, _ in chosen]
        splits.append((torch.from_numpy(pack(pixels)), torch.tensor([label for _, label in chosen])))
    return LabelledImages(splits[0], splits[1], classes)


def sample_images(images: Images, count: int, size: int, seed: int) -> Tensor:
    """Up to `count` readable images of the training data, (n, 3, S, S) uint8, always the same for a seed."""
    chosen = []
    for index in permute(np.arange(min(count, len(images))), len(images), seed).tolist():
        try:
            chosen.append(_square(read_image(*images.fetch(index)[:2]), size))
        except (UserError, cv2.error):
            continue
    if not chosen:
        raise UserError("none of the images drawn for the watch can be read; raise watch.images")
    return torch.from_numpy(pack(chosen))


@torch.no_grad()
def embed(model: BioVFMModel, images: Tensor, config: TrainConfig, features_of: Features) -> Tensor:
    """(n, 3, S, S) uint8 -> (n, D) float32 features."""
    device = next(model.parameters()).device
    features = []
    for part in images.split(_BATCH):
        tokens = model(normalise(part.to(device), config.augment.mean, config.augment.std)).last_hidden_state
        first_patch = 1 + model.config.num_register_tokens
        features.append(features_of(tokens, first_patch).float())
    return torch.cat(features)


@torch.no_grad()
def measure_dice(model: BioVFMModel, masked: MaskedImages, config: TrainConfig) -> float:
    """`dense_dice` of a model."""

    def patches(tokens: Tensor, first_patch: int) -> Tensor:
        return tokens[:, first_patch:]

    parts = [(embed(model, images, config, patches), masks) for images, masks in (masked.train, masked.test)]
    side = masked.train[0].shape[-1] // model.config.patch_size
    return dense_dice(parts[0], parts[1], (side, side), masked.classes)


@torch.no_grad()
def measure_dense(model: BioVFMModel, images: Tensor, config: TrainConfig) -> dict[str, float]:
    """`dense_signs` of the first `_BATCH` of (n, 3, S, S) uint8 images, which have enough patches."""
    pixels = images[:_BATCH].to(next(model.parameters()).device)
    tokens = model(normalise(pixels, config.augment.mean, config.augment.std)).last_hidden_state
    side = images.shape[-1] // model.config.patch_size
    return dense_signs(tokens, 1 + model.config.num_register_tokens, (side, side))


def rankme(features: Tensor) -> float:
    """Effective rank of (n, D) features: exp of the entropy of their normalised singular values (arXiv 2210.02885).

    It lies between 1 (all features have one direction) and min(n, D).

    Raises:
        UserError: a feature is not finite.
    """
    if not features.isfinite().all():
        raise UserError(
            "the model's features are no longer finite; with another --out, try a lower optim.base_lr or a longer "
            "optim.warmup_steps"
        )
    values = torch.linalg.svdvals(features.double().cpu())
    shares = values / values.sum() + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def knn_accuracy(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int, neighbours: int, temperature: float
) -> float:
    """Balanced accuracy of a weighted kNN on (features (n, D), labels (n,)), as DINO weighs votes.

    Cosine similarity, votes exp(similarity / temperature) of the nearest `neighbours`; the mean recall over classes.
    """
    similarity = torch.nn.functional.normalize(test[0]) @ torch.nn.functional.normalize(train[0]).T
    nearest = similarity.topk(min(neighbours, len(train[0])), dim=1)
    labels = train[1].to(similarity.device)[nearest.indices]
    votes = torch.zeros(len(similarity), classes, device=similarity.device)
    votes.scatter_add_(1, labels, ((nearest.values - 1) / temperature).exp())
    right = votes.argmax(dim=1).cpu() == test[1].cpu()
    recalls = [right[test[1].cpu() == label].float().mean() for label in test[1].unique().cpu()]
    return float(torch.stack(recalls).mean())


@dataclass(frozen=True)
class Watch:
    """The images to measure the encoder on: some of the training data, and labelled ones if given."""

    sample: Tensor
    task: LabelledImages | None
    masks: MaskedImages | None = None


def open_watch(config: TrainConfig, images: Images) -> Watch | None:
    """Read the images to watch with, or None when `watch.every` is 0.

    Raises:
        UserError: the task, or the masks, cannot be read.
    """
    watch = config.watch
    if not watch.every:
        return None
    size = config.augment.global_size
    task = load_task(Path(watch.task).expanduser(), size, watch.images) if watch.task else None
    masks = None
    if watch.masks:
        patch_size = biovfm_config(config).patch_size
        masks = load_masks(Path(watch.masks).expanduser(), size, patch_size, watch.images)
    return Watch(sample_images(images, watch.images, size, config.seed), task, masks)


def measure(
    watch: Watch,
    config: TrainConfig,
    encoder: Any,
    tensors: dict[str, Tensor],
    features_of: Features,
    device: Any,
) -> dict[str, float]:
    """`rankme`, `knn` if there is a task, `dense_dice` if there are masks, and the values of `watch.dense`.

    Args:
        watch: the images.
        config: the run's.
        encoder: the `BioVFMModel` inside the objective; only its configuration is read, so it may be sharded.
        tensors: its state, whole.
        features_of: the objective's features.
        device: where to compute.
    """
    with torch.device("meta"):
        model = BioVFMModel(encoder.config)
    model.load_state_dict(tensors, assign=True)
    model.to(device).eval()
    values = {"rankme": rankme(embed(model, watch.sample, config, features_of))}
    if config.watch.dense:
        values |= measure_dense(model, watch.sample, config)
    if watch.masks is not None:
        values["dense_dice"] = measure_dice(model, watch.masks, config)
    if watch.task is not None:
        parts = (watch.task.train, watch.task.test)
        train, test = ((embed(model, images, config, features_of), labels) for images, labels in parts)
        neighbours, temperature = config.watch.neighbours, config.watch.temperature
        values["knn"] = knn_accuracy(train, test, len(watch.task.classes), neighbours, temperature)
    return values


@dataclass
class History:
    """What warnings read of a run's logged metrics, oldest first.

    Attributes:
        recent: the last records.
        measured: the watch's values, of all records that have some.
        warned: kinds of warnings that were given; each is given once.
    """

    recent: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    measured: list[dict[str, Any]] = field(default_factory=list)
    warned: set[str] = field(default_factory=set)

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a record of `metrics.jsonl`."""
        self.recent.append(record)
        if "rankme" in record:
            self.measured.append({name: record[name] for name in ("step", *_MEASURES) if name in record})

    def values(self, name: str, settled: int) -> list[float]:
        """A measure of the watch in all records from the step `settled` on."""
        return [record[name] for record in self.measured if name in record and record["step"] >= settled]

    def warnings(
        self, settled: int, continued: bool, collapse: Callable[[Sequence[Mapping[str, Any]]], str | None]
    ) -> list[str]:
        """Warnings for the user of a kind that was not given before.

        Args:
            settled: steps before which nothing is concluded (warm-up).
            continued: whether the run starts from weights; its patch tokens are then compared with theirs.
            collapse: the objective's own check: the last records -> what they show and what to try, or None.
        """
        messages = self._collapse(settled, collapse)
        begin = 0 if continued else settled
        messages |= dense_warnings(self.values("dense_locality", begin), self.values("dense_dice", begin))
        new = {kind: message for kind, message in messages.items() if kind not in self.warned}
        self.warned |= new.keys()
        return [f"step {self.recent[-1]['step']}: {message}" for message in new.values()]

    def _collapse(self, settled: int, collapse: Callable[[Sequence[Mapping[str, Any]]], str | None]) -> dict[str, str]:
        if len(self.recent) < _WINDOW or self.recent[0]["step"] < settled:
            return {}
        if message := collapse(self.recent):
            return {"collapse": message}
        ranks = self.values("rankme", 0)
        if len(ranks) < 2 or ranks[-1] >= 2:
            return {}
        return {
            "rankme": f"RankMe is {ranks[-1]:.1f}: the features hardly use more than one dimension. Lower "
            "optim.base_lr, or raise batch.size (for DINOv2 also dino.koleo_weight)"
        }


def read_history(metrics: Path) -> History:
    """What a run that continues logged before, from its `metrics.jsonl`."""
    history = History()
    if metrics.is_file():
        for line in metrics.read_text(encoding="utf-8").splitlines():
            history.add(json.loads(line))
    return history


def _square(image: Image, size: int) -> Image:
    """The central square of `image`, resized."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return resize(image[top : top + side, left : left + side], size)
