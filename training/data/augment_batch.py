"""Applies the looks of whole batches of crops on the training device: `Augmenter.apply` as batched torch operations.

The loader draws the looks from the same seeds as without this module, so a run resumes just as exactly. Pixels stay
floats between operations and are rounded once, while OpenCV rounds to 8 bits each time, so crops agree to a few grey
levels. Grey images go through colour operations as three equal channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .augment import JITTER, LUMA, AugmentConfig, Look

_NUMBERS = tuple(field.name for field in fields(Look) if field.name != "jitter")
_WIDTH = 2 * len(JITTER) + len(_NUMBERS)


def pack_looks(looks: Sequence[Look]) -> Tensor:
    """Looks as rows (B, 8 + N) of float32: jitter operations (-1 for none), their changes, and N other numbers."""
    rows = torch.zeros(len(looks), _WIDTH)
    rows[:, : len(JITTER)] = -1
    for row, look in zip(rows, looks, strict=True):
        for place, (which, change) in enumerate(look.jitter):
            row[place], row[len(JITTER) + place] = which, change
        row[2 * len(JITTER) :] = torch.tensor([float(getattr(look, name)) for name in _NUMBERS])
    return rows


def per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    """(C,) numbers as (1, C, 1, 1) float32 on the device of `like`, without waiting for the GPU's queue."""
    return torch.tensor(values).view(1, -1, 1, 1).to(like.device, non_blocking=True)


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
        for which, operation in enumerate(_OPERATIONS):
            _change(pixels, operations[:, place] == which, changes[:, place], operation)
    drawn = dict(zip(_NUMBERS, looks[:, 2 * len(JITTER) :].T, strict=True))
    for name, effect in EFFECTS.items():
        _change(pixels, drawn[name] != float(getattr(_PLAIN, name)), drawn[name], partial(effect, config=config))
    return pixels.round_()


def _change(pixels: Tensor, concerned: Tensor, values: Tensor, operation: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Replace the selected crops by `operation` of them and their values (b, 1, 1, 1), clipped to 0..255."""
    rows = concerned.nonzero().flatten()
    if len(rows):
        here = rows.to(pixels.device, non_blocking=True)
        amount = values[rows].view(-1, 1, 1, 1).to(pixels.device, non_blocking=True)
        pixels[here] = operation(pixels[here], amount).clamp(0, 255)


def _grey(pixels: Tensor) -> Tensor:
    """(b, 3, S, S) to luminance (b, 1, S, S)."""
    return (pixels * per_channel(LUMA.tolist(), pixels)).sum(dim=1, keepdim=True)


def _brightness(pixels: Tensor, change: Tensor) -> Tensor:
    return pixels * (1 + change)


def _contrast(pixels: Tensor, change: Tensor) -> Tensor:
    return pixels * (1 + change) - change * _grey(pixels).mean(dim=(1, 2, 3), keepdim=True).round()


def _saturation(pixels: Tensor, change: Tensor) -> Tensor:
    return pixels * (1 + change) - change * _grey(pixels)


def _hue(pixels: Tensor, change: Tensor) -> Tensor:
    """Turn the colour circle by `change` of its circumference: RGB to hue, chroma and value, and back."""
    value, least = pixels.amax(dim=1, keepdim=True), pixels.amin(dim=1, keepdim=True)
    chroma = value - least
    red, green, blue = pixels.split(1, dim=1)
    safe = chroma.clamp_min(1e-6)
    from_blue = torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    hue = torch.where(value == red, (green - blue) / safe, from_blue)  # in sixths of the circle
    turned = hue + 6 * change
    # Smith (1978): each channel is value minus chroma times a trapezium of its distance on the circle
    distance = (turned + per_channel([5.0, 3.0, 1.0], pixels)) % 6
    return value - chroma * torch.minimum(distance, 4 - distance).clamp(0, 1)


def _blur(pixels: Tensor, sigma: Tensor, width: int) -> Tensor:
    """Gaussian blur with a sigma for each image, over `width` pixels, mirrored at the edges as OpenCV does."""
    offsets = torch.arange(width, device=pixels.device) - width // 2
    weights = torch.exp(-0.5 * (offsets / sigma.view(-1, 1)) ** 2)
    weights = (weights / weights.sum(dim=1, keepdim=True)).repeat_interleave(pixels.shape[1], 0)  # (b * 3, width)
    images, channels, height, columns = pixels.shape
    flat = F.pad(pixels.reshape(1, images * channels, height, columns), [width // 2] * 4, mode="reflect")
    flat = F.conv2d(flat, weights.view(-1, 1, width, 1), groups=images * channels)
    return F.conv2d(flat, weights.view(-1, 1, 1, width), groups=images * channels).view_as(pixels)


def _solarize(pixels: Tensor, _: Tensor, config: AugmentConfig) -> Tensor:
    whole = pixels.round()
    return torch.where(whole >= config.solarize_threshold, 255 - whole, whole)


_PLAIN = Look()
EFFECTS: dict[str, Callable[..., Tensor]] = {
    "gamma": lambda pixels, exponent, config: 255 * (pixels / 255) ** exponent,
    "grey": lambda pixels, _, config: _grey(pixels).expand_as(pixels),
    "sigma": lambda pixels, widths, config: _blur(pixels, widths, config.blur_kernel),
    "solarize": _solarize,
}
"""Field of `Look` -> what it does to the crops where it is not the default, in this order, after `jitter`."""
_OPERATIONS = (_brightness, _contrast, _saturation, _hue)  # in the order of JITTER
