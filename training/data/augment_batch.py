"""Applies the looks of whole batches of crops on the training device: `Augmenter.apply` as batched torch operations.

The loader draws the looks from the same seeds as without this module, so a run resumes just as exactly. Grey images go
through colour operations as three equal channels.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from ..settings.augment import AugmentConfig
from .augment import Look
from .effects import EFFECTS, JITTER, Effect

# crops (b, 3, S, S) and their numbers (b, 1, 1, 1) -> crops
Change = Callable[[Tensor, Tensor], Tensor]
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
    """Crops (B, 3, S, S) uint8 on any device, with the looks of `pack_looks`, which are on the CPU.

    The crops of each operation are looked up on the CPU, so that nothing waits for a GPU. The result of an operation
    is clipped to 0..255.

    Returns:
        (B, 3, S, S) float32 of whole numbers from 0 to 255, on the crops' device.
    """
    pixels, numbers = crops.float(), looks.to(crops.device, non_blocking=True)
    changes = list(_changes(looks, config))
    rows = torch.cat([concerned for concerned, _, _ in changes]).to(crops.device, non_blocking=True)  # in one copy
    parts = rows.split([len(concerned) for concerned, _, _ in changes])
    for here, (_, column, operation) in zip(parts, changes, strict=True):
        if len(here):
            amount = numbers[here, column].view(-1, 1, 1, 1)
            pixels[here] = operation(pixels[here], amount).clamp(0, 255)
    return pixels.round_()


def _changes(looks: Tensor, config: AugmentConfig) -> Iterator[tuple[Tensor, int, Change]]:
    """In order, each operation with the crops that it changes and the column of `looks` that has its numbers."""
    for place in range(len(JITTER)):
        for which, jitter in enumerate(JITTER):
            yield (looks[:, place] == which).nonzero().flatten(), len(JITTER) + place, jitter.on_batch
    for column, effect in enumerate(EFFECTS, 2 * len(JITTER)):
        yield (looks[:, column] != effect.nothing).nonzero().flatten(), column, partial(_apply, effect, config)


def _apply(effect: Effect, config: AugmentConfig, pixels: Tensor, values: Tensor) -> Tensor:
    return effect.on_batch(pixels, values, config)
