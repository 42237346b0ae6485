"""Applies the looks of whole batches of crops on the training device: `Augmenter.apply` as batched torch operations.

The loader draws the looks from the same seeds as without this module, so a run resumes just as exactly. Grey images go
through colour operations as three equal channels.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..settings.augment import AugmentConfig
from .augment import Look
from .effects import EFFECTS, JITTER, Effect

_WIDTH = 2 * len(JITTER) + len(EFFECTS)


def pack_looks(looks: Sequence[Look]) -> Tensor:
    """Looks as rows (B, 8 + N) of float32: jitter operations (-1 for none), their changes, and N effects' numbers."""
    rows = torch.zeros(len(looks), _WIDTH)
    rows[:, : len(JITTER)] = -1
    for row, look in zip(rows, looks, strict=True):
        for place, (which, change) in enumerate(look.jitter):
            row[place], row[len(JITTER) + place] = which, change
        row[2 * len(JITTER) :] = torch.tensor(look.effects)
    return rows


def apply_drawn_looks(batch: dict[str, Tensor], config: AugmentConfig) -> dict[str, Tensor]:
    """The batch with its `*_looks` applied to its `*_crops` and removed; unchanged if it has none."""
    dressed = {name: tensor for name, tensor in batch.items() if not name.endswith("_looks")}
    for name in batch.keys() - dressed.keys():
        crops = name.replace("_looks", "_crops")
        dressed[crops] = apply_looks(batch[crops], batch[name], config)
    return dressed


def apply_looks(crops: Tensor, looks: Tensor, config: AugmentConfig) -> Tensor:
    """Crops (B, 3, S, S) uint8 on any device, with the looks of `pack_looks`, which stay on the CPU.

    The crops of each operation are looked up on the CPU, so that nothing waits for a GPU.

    Returns:
        (B, 3, S, S) float32 of whole numbers from 0 to 255, on the crops' device.
    """
    pixels = crops.float()
    operations, changes = looks[:, : len(JITTER)], looks[:, len(JITTER) : 2 * len(JITTER)]
    for place in range(len(JITTER)):
        for which, operation in enumerate(JITTER):
            _change(pixels, operations[:, place] == which, changes[:, place], operation.on_batch)
    for effect, values in zip(EFFECTS, looks[:, 2 * len(JITTER) :].T, strict=True):
        _change(pixels, values != effect.nothing, values, partial(_apply, effect, config))
    return pixels.round_()


def _apply(effect: Effect, config: AugmentConfig, pixels: Tensor, values: Tensor) -> Tensor:
    return effect.on_batch(pixels, values, config)


def _change(pixels: Tensor, concerned: Tensor, values: Tensor, operation: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Replace the selected crops by `operation` of them and their values (b, 1, 1, 1), clipped to 0..255."""
    rows = concerned.nonzero().flatten()
    if len(rows):
        here = rows.to(pixels.device, non_blocking=True)
        amount = values[rows].view(-1, 1, 1, 1).to(pixels.device, non_blocking=True)
        pixels[here] = operation(pixels[here], amount).clamp(0, 255)
