"""The radiology study's training of decoders on a frozen encoder (arXiv 2312.02366, protocol `radiology`).

One decoder for each of seven learning rates is trained on the same batches. The rate with the best validation score is
taken, and a new decoder is trained with it on training and validation images together. The study then reports the
epoch that is best on test; here the last epoch is reported, which needs no choice. The study's training length is not
published.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR
from tqdm import tqdm

from biovfm_hf.errors import UserError

from ...statistics.masks import pooled_scores, segmentation_counts
from ..probe import Answer, Trial
from ..tuning.optimisation import count_weights, shuffled
from .augment import augmentation
from .decoders import DECODER_BLOCKS, make_decoder
from .feeds import Feed, PixelFeed, TokenFeed
from .judging import judge_masks
from .losses import dice_loss
from .networks import read_maps, token_width
from .problem import MaskProblem, Segmentation, batches, decide, join_splits
from .settings import MaskProbe
from .setup import Setup, surface_rule
from .training import MaskRecipe

RATES = (1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1)
BATCH = 128
EPOCHS = 10
MOMENTUM = 0.9
NONE = "none"  # no augmentation


def probe_study(probe: MaskProbe, trial: Trial) -> Answer:
    """Train decoders as the study does, and score with its metric first, counted at the size of the images."""
    setup = Setup.of(probe, trial)
    answer = judge_masks(trial, setup.whole(fit_study(setup)), surface_rule(probe), setup.size)
    return answer._replace(primary="radiology")


def fit_study(setup: Setup, join: bool = True) -> Segmentation:
    """Choose the learning rate on validation, then train the decoder that is scored.

    Args:
        setup: the problem and settings.
        join: train the last decoder on the validation images too; few-shot training uses the shots alone.
    """
    encoder, seed = setup.trial.encoder, setup.trial.run.seed
    if encoder.network is not None:
        raise UserError(
            f"protocol radiology has no recipe for {encoder.name}, since the study published none; use protocol fast"
        )
    rates = RATES if setup.probe.rate is None else (setup.probe.rate,)
    feed = _feed(setup, setup.problem)
    torch.manual_seed(seed)
    tried, _ = _train(setup, feed, rates)
    scores = _validation_scores(feed, tried, rates)
    rate = max(rates, key=lambda one: scores[one])
    torch.manual_seed(seed)
    last = _feed(setup, _joined(setup.problem)) if join else feed
    network, steps = _train(setup, last, (rate,))
    chosen: dict[str, Any] = {"rate": rate, "val_radiology": scores[rate], "steps": steps}
    chosen["tried"] = {f"{one:g}": score for one, score in scores.items()}

    def predict(rows: np.ndarray) -> list[Tensor]:
        with torch.inference_mode():
            return list(network(last.inputs("test", rows))[0].float().cpu())

    return Segmentation(predict, chosen, count_weights(network.decoders))


class SideBySide(nn.Module):
    """Several decoders of one frozen encoder: inputs of a feed -> scores of each decoder."""

    def __init__(self, setup: Setup, count: int) -> None:
        super().__init__()
        encoder, decoder = setup.trial.encoder, setup.probe.decoder
        width, classes = token_width(encoder, setup.size), setup.problem.classes
        self.about, self.blocks = encoder, DECODER_BLOCKS[decoder]
        made = (make_decoder(decoder, width, classes, standardise=False) for _ in range(count))
        self.decoders = nn.ModuleList(made).to(encoder.device)

    def forward(self, inputs: Tensor | list[Tensor]) -> list[Tensor]:
        """Scores (B, K, h, w) of each decoder, from pixels or maps."""
        maps = (
            read_maps(self.about, self.about.module, inputs, self.blocks, gradients=False)
            if isinstance(inputs, Tensor)
            else inputs
        )
        return [decoder(maps) for decoder in self.decoders]


def _feed(setup: Setup, problem: MaskProblem) -> Feed:
    """A feed of augmented images, or of their tokens without augmentation."""
    encoder, augment = setup.trial.encoder, str(setup.probe.augment)
    if augment == NONE:
        return TokenFeed(problem, _joined_readers(setup, problem), (setup.size, setup.size), setup.trial.run.device)
    return PixelFeed(problem, setup.size, encoder.mean, encoder.std, augmentation(augment), setup.trial.run.device)


def _joined(problem: MaskProblem) -> MaskProblem:
    """The problem with training and validation images joined for training."""
    return problem.with_splits(train=join_splits(problem.splits["train"], problem.splits["val"]))


def _joined_readers(setup: Setup, problem: MaskProblem) -> dict[str, Any]:
    """Token readers; the one for `train` continues with the validation images if the problem joins them."""
    readers = setup.readers()
    first = len(setup.problem.splits["train"].images)
    if len(problem.splits["train"].images) == first:
        return readers
    train, val = readers["train"], readers["val"]

    def read(rows: np.ndarray) -> list[Tensor]:
        early = rows < first
        order = np.argsort(np.concatenate([np.flatnonzero(early), np.flatnonzero(~early)]))
        parts = [reader(part) for reader, part in ((train, rows[early]), (val, rows[~early] - first)) if len(part)]
        return [torch.cat(grids)[order] for grids in zip(*parts, strict=True)]

    return {**readers, "train": read}


def _train(setup: Setup, feed: Feed, rates: tuple[float, ...]) -> tuple[SideBySide, int]:
    """Train a decoder at each rate, all on the same batches. Returns the decoders and the number of steps."""
    network, count = SideBySide(setup, len(rates)), len(feed.problem.splits["train"].images)
    batch = min(BATCH, count)
    each = -(-count // batch)
    steps = MaskRecipe(setup.probe.epochs).passes(each, EPOCHS) * each
    groups = [{"params": d.parameters(), "lr": rate} for d, rate in zip(network.decoders, rates, strict=True)]
    optimizer = SGD(groups, momentum=MOMENTUM, weight_decay=0)
    schedule = CosineAnnealingLR(optimizer, steps)
    orders = list(shuffled(count, batch, steps, setup.trial.run.seed))
    bar = tqdm(
        feed.training(orders, [setup.trial.run.seed]), feed.problem.name, steps, False, unit="step", disable=None
    )
    network.train()
    for inputs, masks in bar:
        loss = torch.stack([dice_loss(*_resized(scores, masks)) for scores in network(inputs)]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval(), steps


def _resized(scores: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (B, K, h, w) resized bicubically to the size of the masks (B, H, W), as in the study, on one device."""
    if scores.shape[-2:] != masks.shape[-2:]:
        scores = functional.interpolate(scores, size=masks.shape[-2:], mode="bicubic", align_corners=False)
    return scores, masks.to(scores.device)


def _validation_scores(feed: Feed, network: SideBySide, rates: tuple[float, ...]) -> dict[float, float]:
    """{rate: the study's score of its decoder on the validation images}, -1 for a decoder that diverged."""
    masks, classes = feed.targets("val"), feed.problem.classes
    counts = np.zeros((len(rates), classes, 4), np.int64)
    diverged = np.zeros(len(rates), bool)
    for rows in batches(len(masks.masks)):
        with torch.inference_mode():
            answers = network(feed.inputs("val", rows))
        for number, scores in enumerate(answers):
            diverged[number] |= not bool(scores.isfinite().all())
            for one, row in zip(scores.float().cpu(), rows, strict=True):
                decided = decide(one, masks.size, "bicubic")
                counts[number] += segmentation_counts(decided, masks.masks[row], classes)
    values = np.where(diverged, -1.0, np.nan_to_num(pooled_scores(counts)["radiology"]))
    return dict(zip(rates, values.tolist(), strict=True))
