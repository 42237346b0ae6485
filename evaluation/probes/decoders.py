"""Decoders on an encoder's grid of patch tokens: a linear one, and a U-Net."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..statistics.metrics import mean_dice
from ..tasks import Split, Task
from .logistic import Objective, fit_path, fit_standardiser
from .masks import BATCH_SIZE, Segmentation, SmallMasks, checked_mask, count_cases, mask_shares

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..encoders.embed import TokenStore

MAX_TRAIN_TOKENS = 300_000
UNET_BLOCKS = 5
MIN_STEPS = 600
DICE_SMOOTHING = 1e-5  # of the sums over an image, as MONAI's
WORKING_SIZE = (224, 224)  # of the masks by which the linear decoder's prior shift is chosen
# How far the linear decoder's scores are moved against the classes' frequencies, as shares of the full correction.
PRIOR_SHIFTS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class DecoderPlan:
    """How a decoder is trained: highest learning `rate`, `seed` of weights and order, `device`.

    `epochs` are passes over the images; None means 30, or as many as give `MIN_STEPS` steps where images are few.
    """

    epochs: int | None = None
    rate: float = 1e-3
    seed: int = 0
    device: str = "cpu"


def probe_linear_decoder(task: Task, stores: dict[str, "TokenStore"], seed: int = 0) -> Segmentation:
    """One linear layer from each patch token to its class shares, at token resolution, then enlarged bilinearly.

    Masks are pooled to each token's share of every class, so the fit is a convex one (see `logistic`), on at most
    `MAX_TRAIN_TOKENS` tokens drawn with `seed`; regularisation by the validation loss. Since the most likely class is
    not the one with the best Dice where a class is rare, scores are moved against the classes' log frequencies by the
    share among `PRIOR_SHIFTS` that gives the highest validation Dice.

    Args:
        task: a segmentation task.
        stores: normed patch tokens of `train`, `val`, `test`.
        seed: of the draw of tokens.
    """
    import torch

    classes, splits = task.num_outputs, task.splits
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
    return Segmentation(counts, told, predict, weights.numel())


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
            share = mask_shares(checked_mask(split, int(row), classes), classes, image.shape[:2])
            flat, target = image.flatten(0, 1), share.flatten(1).T
            if len(flat) > quota:
                kept = torch.from_numpy(np.sort(rng.choice(len(flat), quota, replace=False)))
                flat, target = flat[kept], target[kept]
            tokens.append(flat)
            shares.append(target)
    return torch.cat(tokens), torch.cat(shares)


def unet_decoder(width: int, classes: int) -> "nn.Module":
    """The model class' U-Net decoder for tokens of any width: maps (B, width, h, w) -> (B, classes, 16h, 16w)."""
    from biovfm_hf.configuration_biovfm import BioVFMConfig
    from biovfm_hf.modeling_biovfm import BioVFMUNetDecoder

    config = BioVFMConfig.from_size("vit-tiny", hidden_size=width, num_attention_heads=1, num_labels=classes)
    return BioVFMUNetDecoder(config)


def dice_loss(logits: "Tensor", target: "Tensor") -> "Tensor":
    """1 - soft Dice, averaged over images and classes, background included. logits (B, K, H, W), target (B, H, W).

    MONAI's `DiceLoss(softmax=True, to_onehot_y=True)`, with which the radiology study (arXiv 2312.02366) trains.
    """
    from torch.nn import functional

    probability = logits.softmax(1)
    truth = functional.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2).to(logits.dtype)
    both = (probability * truth).sum((2, 3))
    total = (probability + truth).sum((2, 3))
    return (1 - (2 * both + DICE_SMOOTHING) / (total + DICE_SMOOTHING)).mean()


def dice_ce_loss(logits: "Tensor", target: "Tensor") -> "Tensor":
    """Cross-entropy plus `dice_loss`: MONAI's `DiceCELoss`. logits (B, K, H, W), target (B, H, W) classes."""
    from torch.nn import functional

    return functional.cross_entropy(logits, target) + dice_loss(logits, target)


def probe_unet_decoder(task: Task, stores: dict[str, "TokenStore"], plan: DecoderPlan) -> Segmentation:
    """A U-Net decoder on the last five blocks of the frozen encoder, trained with AdamW and a cosine schedule.

    The loss is cross-entropy plus soft Dice at sixteen times the token resolution; the epoch with the highest mean
    validation Dice is kept.

    Args:
        task: a segmentation task.
        stores: tokens of the last five blocks of `train`, `val`, `test`; of fewer, the oldest is repeated.
        plan: how the decoder is trained.
    """
    import torch

    torch.manual_seed(plan.seed)
    decoder = unet_decoder(stores["train"].read(np.arange(1))[0].shape[-1], task.num_outputs).to(plan.device)

    def run(name: str, rows: np.ndarray) -> "Tensor":
        maps = [grid.permute(0, 3, 1, 2).to(plan.device) for grid in stores[name].read(rows)]
        return decoder([maps[0]] * (UNET_BLOCKS - len(maps)) + maps)

    chosen = train_decoder(decoder, run, task, plan)

    def predict(rows: np.ndarray) -> "Tensor":
        with torch.inference_mode():
            return run("test", rows).cpu()

    trained = sum(parameter.numel() for parameter in decoder.parameters())
    return Segmentation(count_cases(task.num_outputs, predict, task.splits["test"]), chosen, predict, trained)


def train_decoder(
    module: "nn.Module",
    run: Callable[[str, np.ndarray], "Tensor"],
    task: Task,
    plan: DecoderPlan,
) -> dict[str, Any]:
    """Train `module`, whose scores for rows of a split `run` gives; leave it at its best epoch, which is told."""
    import torch
    from tqdm import tqdm

    classes, splits, device = task.num_outputs, task.splits, plan.device
    rng = np.random.default_rng(plan.seed)
    count = len(splits["train"].images)
    steps = -(-count // BATCH_SIZE)
    epochs = plan.epochs or max(30, -(-MIN_STEPS // steps))
    optimizer = torch.optim.AdamW(module.parameters(), lr=plan.rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.rate, total_steps=steps * epochs, pct_start=0.1)
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
