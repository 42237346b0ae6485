"""Segmentation with a frozen encoder: a linear or a U-Net decoder on its grid of patch tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from biovfm_hf.errors import UserError

from ..statistics.metrics import dice, segmentation_counts
from ..tasks import Split
from .logistic import Objective, fit_path, fit_standardiser

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..encoders.embed import TokenStore

MAX_TRAIN_TOKENS = 300_000
UNET_BLOCKS = 5
BATCH_SIZE = 8
MIN_STEPS = 600
WORKING_SIZE = (224, 224)  # of the masks by which the linear decoder's prior shift is chosen
# How far the linear decoder's scores are moved against the classes' frequencies, as shares of the full correction.
PRIOR_SHIFTS = (0.0, 0.25, 0.5, 0.75, 1.0)

# Turns image numbers of one split into class scores (B, K, h, w), for any h and w.
Predictor = Callable[[np.ndarray], "Tensor"]


@dataclass(frozen=True)
class Segmentation:
    """What a segmentation probe answers: voxel counts per test case, and what it chose.

    `counts` (cases, classes, 3), see `metrics.segmentation_counts`; a case is a volume where images are its slices.
    """

    counts: np.ndarray
    chosen: dict[str, Any]
    predict: Predictor


def probe_linear_decoder(
    classes: int, stores: dict[str, "TokenStore"], splits: dict[str, Split], seed: int = 0
) -> Segmentation:
    """One linear layer from each patch token to its class shares, at token resolution, then enlarged bilinearly.

    Masks are pooled to each token's share of every class, so the fit is a convex one (see `logistic`), on at most
    `MAX_TRAIN_TOKENS` tokens drawn with `seed`; regularisation by the validation loss. Since the most likely class is
    not the one with the best Dice where a class is rare, scores are moved against the classes' log frequencies by the
    share among `PRIOR_SHIFTS` that gives the highest validation Dice.

    Args:
        classes: with the background.
        stores: normed patch tokens of `train`, `val`, `test`.
        splits: with the masks.
        seed: of the draw of tokens.
    """
    import torch

    features, targets = {}, {}
    for name in ("train", "val"):
        features[name], targets[name] = _token_samples(classes, stores[name], splits[name], seed)
    standardise = fit_standardiser(features["train"])
    train, val = (Objective(standardise(features[n]), targets[n], False) for n in ("train", "val"))
    weights, chosen = fit_path(train, val)

    prior = targets["train"].mean(0).clamp_min(1e-6).log()

    def score(name: str, shift: float, rows: np.ndarray) -> "Tensor":
        tokens = stores[name].read(rows)[0]
        return torch.matmul(standardise(tokens), weights[:-1]).add(weights[-1] - shift * prior).permute(0, 3, 1, 2)

    small = SmallMasks(splits["val"], classes, WORKING_SIZE)
    reached = {shift: mean_dice(count_cases(classes, partial(score, "val", shift), small)) for shift in PRIOR_SHIFTS}
    shift = max(reached, key=lambda s: reached[s])

    def predict(rows: np.ndarray) -> "Tensor":
        return score("test", shift, rows)

    counts = count_cases(classes, predict, splits["test"])
    told = {"l2": chosen[0], "prior_shift": shift, "val_dice": reached[shift], "train_tokens": len(features["train"])}
    return Segmentation(counts, told, predict)


class SmallMasks:
    """The masks of a split at one size, (N, H, W) uint8 by the nearest pixel, kept in memory for repeated use."""

    def __init__(self, split: Split, classes: int, size: tuple[int, ...]):
        import torch
        from torch.nn import functional

        self.case_of_image = split.case_of_image
        self.masks = np.empty((len(split.images), *size), np.uint8)
        for row in range(len(self.masks)):
            mask = torch.from_numpy(_mask(split, row, classes).astype(np.float32))[None, None]
            self.masks[row] = functional.interpolate(mask, size=tuple(size), mode="nearest-exact")[0, 0].numpy()


def _token_samples(classes: int, store: "TokenStore", split: Split, seed: int) -> tuple["Tensor", "Tensor"]:
    """Tokens (n, D) and the class shares of their patches (n, K), at most `MAX_TRAIN_TOKENS`, evenly over images."""
    import torch

    rng = np.random.default_rng(seed)
    tokens, shares = [], []
    for start in range(0, len(store), BATCH_SIZE):
        rows = np.arange(start, min(start + BATCH_SIZE, len(store)))
        grid = store.read(rows)[0]
        quota = max(1, MAX_TRAIN_TOKENS // len(store))
        for image, row in zip(grid, rows, strict=True):
            share = mask_shares(_mask(split, int(row), classes), classes, image.shape[:2])
            flat, target = image.flatten(0, 1), share.flatten(1).T
            if len(flat) > quota:
                kept = torch.from_numpy(np.sort(rng.choice(len(flat), quota, replace=False)))
                flat, target = flat[kept], target[kept]
            tokens.append(flat)
            shares.append(target)
    return torch.cat(tokens), torch.cat(shares)


def _mask(split: Split | SmallMasks, index: int, classes: int) -> np.ndarray:
    assert split.masks is not None
    mask = split.masks[index]
    if mask.ndim != 2 or (mask.size and (int(mask.min()) < 0 or int(mask.max()) >= classes)):
        raise UserError(
            f"mask {index} has shape {mask.shape} and values up to {mask.max()}; expected (H, W) of 0..{classes - 1}"
        )
    return mask


def mask_shares(mask: np.ndarray, classes: int, grid: tuple[int, ...]) -> "Tensor":
    """The share of each class in each cell of a grid over the mask: (classes, h, w), summing to 1 over classes."""
    import torch
    from torch.nn import functional

    hot = functional.one_hot(torch.from_numpy(mask.astype(np.int64)), classes).permute(2, 0, 1).float()
    if mask.shape[0] < grid[0] or mask.shape[1] < grid[1]:
        return functional.interpolate(hot[None], size=tuple(grid), mode="nearest")[0]
    return functional.adaptive_avg_pool2d(hot[None], (grid[0], grid[1]))[0]


def count_cases(classes: int, predict: Predictor, split: Split | SmallMasks, batch: int = BATCH_SIZE) -> np.ndarray:
    """Voxel counts (cases, classes, 3) of predictions enlarged bilinearly to each mask's own size."""
    total = len(split.masks) if split.masks is not None else 0
    cases = split.case_of_image if split.case_of_image is not None else np.arange(total)
    counts = np.zeros((int(cases.max()) + 1, classes, 3), np.int64)
    for start in range(0, total, batch):
        rows = np.arange(start, min(start + batch, total))
        for scores, row in zip(predict(rows), rows, strict=True):
            truth = _mask(split, int(row), classes)
            counts[cases[row]] += segmentation_counts(decide(scores, truth.shape), truth, classes)
    return counts


def decide(scores: "Tensor", size: tuple[int, ...]) -> np.ndarray:
    """Enlarge class scores (K, h, w) bilinearly to `size` and take the best class: (H, W) uint8."""
    from torch.nn import functional

    full = functional.interpolate(scores[None], size=tuple(size), mode="bilinear", align_corners=False)[0]
    return full.argmax(0).byte().numpy()


def unet_decoder(width: int, classes: int) -> "nn.Module":
    """The model class' U-Net decoder for tokens of any width: maps (B, width, h, w) -> (B, classes, 16h, 16w)."""
    from biovfm_hf.configuration_biovfm import BioVFMConfig
    from biovfm_hf.modeling_biovfm import BioVFMUNetDecoder

    config = BioVFMConfig.from_size("vit-tiny", hidden_size=width, num_attention_heads=1, num_labels=classes)
    return BioVFMUNetDecoder(config)


def dice_ce_loss(logits: "Tensor", target: "Tensor") -> "Tensor":
    """Cross-entropy plus 1 - soft Dice over the foreground classes. logits (B, K, H, W), target (B, H, W) classes."""
    from torch.nn import functional

    entropy = functional.cross_entropy(logits, target)
    probability = logits.softmax(1)[:, 1:]
    truth = functional.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2)[:, 1:].float()
    both = (probability * truth).sum((0, 2, 3))
    total = (probability + truth).sum((0, 2, 3))
    return entropy + 1 - ((2 * both + 1) / (total + 1)).mean()


def probe_unet_decoder(
    classes: int,
    stores: dict[str, "TokenStore"],
    splits: dict[str, Split],
    epochs: int | None = None,
    rate: float = 1e-3,
    seed: int = 0,
    device: str = "cpu",
) -> Segmentation:
    """A U-Net decoder on the last five blocks of the frozen encoder, trained with AdamW and a cosine schedule.

    The loss is cross-entropy plus soft Dice at sixteen times the token resolution; the epoch with the highest mean
    validation Dice is kept.

    Args:
        classes: with the background.
        stores: tokens of the last five blocks of `train`, `val`, `test`; of fewer, the oldest is repeated.
        splits: with the masks.
        epochs: passes over the training images; None as `train_decoder` says.
        rate: the highest learning rate.
        seed: of the initial weights and the order of images.
        device: where the decoder is trained.
    """
    import torch

    torch.manual_seed(seed)
    decoder = unet_decoder(stores["train"].read(np.arange(1))[0].shape[-1], classes).to(device)

    def run(name: str, rows: np.ndarray) -> "Tensor":
        maps = [grid.permute(0, 3, 1, 2).to(device) for grid in stores[name].read(rows)]
        return decoder([maps[0]] * (UNET_BLOCKS - len(maps)) + maps)

    chosen = train_decoder(decoder, run, classes, splits, epochs, rate, seed, device)

    def predict(rows: np.ndarray) -> "Tensor":
        with torch.inference_mode():
            return run("test", rows).cpu()

    return Segmentation(count_cases(classes, predict, splits["test"]), chosen, predict)


def train_decoder(
    module: "nn.Module",
    run: Callable[[str, np.ndarray], "Tensor"],
    classes: int,
    splits: dict[str, Split],
    epochs: int | None,
    rate: float,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """Train `module`, whose scores for rows of a split `run` gives; leave it at its best epoch, which is told.

    `epochs` None means 30, or as many as give `MIN_STEPS` steps where images are few.
    """
    import torch
    from tqdm import tqdm

    rng = np.random.default_rng(seed)
    count = len(splits["train"].images)
    steps = -(-count // BATCH_SIZE)
    epochs = epochs or max(30, -(-MIN_STEPS // steps))
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps * epochs, pct_start=0.1)
    size = tuple(run("train", np.arange(min(2, count))).shape[-2:])
    small = {name: SmallMasks(splits[name], classes, size) for name in ("train", "val")}
    best, best_state, best_epoch = -1.0, None, 0
    for epoch in tqdm(range(epochs), desc="decoder", unit="epoch", disable=None, leave=False):
        module.train()
        order = rng.permutation(count)
        for rows in np.array_split(order, steps):
            target = torch.from_numpy(small["train"].masks[rows]).long().to(device)
            loss = dice_ce_loss(run("train", rows), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        module.eval()
        with torch.inference_mode():
            score = mean_dice(count_cases(classes, lambda rows: run("val", rows).cpu(), small["val"]))
        if score > best:
            best, best_epoch = score, epoch
            best_state = {name: value.clone() for name, value in module.state_dict().items()}
    if best_state is not None:
        module.load_state_dict(best_state)
    module.eval()
    return {"epoch": best_epoch + 1, "epochs": epochs, "val_dice": best}


def mean_dice(counts: np.ndarray) -> float:
    """Mean over cases of the mean Dice of the foreground classes that occur; 0 where none is defined."""
    values = case_scores(dice(counts))
    return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0


def case_scores(per_class: np.ndarray) -> np.ndarray:
    """Mean over the foreground classes (cases, K) -> (cases,); NaN where a case defines none."""
    foreground = per_class[:, 1:]
    defined = np.isfinite(foreground)
    total = np.where(defined, foreground, 0).sum(1)
    return np.divide(total, defined.sum(1), out=np.full(len(total), np.nan), where=defined.any(1))
