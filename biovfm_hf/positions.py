"""Position embeddings: MAE's fixed sine-cosine table, the resize of a table to another patch grid, and DINOv3's
rotations."""

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor


def exporting() -> bool:
    """Whether a graph is being recorded that must serve other sizes too (torch.export, jit.trace, ONNX)."""
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


def sincos_position_embeddings(hidden_size: int, grid: int) -> Tensor:
    """Fixed 2D sine-cosine position embeddings of MAE (`mae/util/pos_embed.py`): (1, 1 + grid * grid, D) float32.

    The first row (class token) is zero. The first half of the channels encodes the column, the second the row,
    as in the released weights.
    """
    frequencies = 1.0 / 10000 ** (torch.arange(hidden_size // 4, dtype=torch.float64) / (hidden_size / 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies  # (grid, D/4)
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, D/2)
    columns = axis.repeat(grid, 1)
    rows = axis.repeat_interleave(grid, dim=0)
    patches = torch.cat([columns, rows], dim=1)  # (grid * grid, D)
    return torch.cat([torch.zeros(1, hidden_size, dtype=torch.float64), patches])[None].float()


def resize_position_embeddings(
    positions: Tensor, grid: tuple[int, int], offset: float = 0.0, antialias: bool = False
) -> Tensor:
    """Bicubic resize of the patch part of (1, 1 + n * n, D) position embeddings to a (rows, columns) grid.

    `offset` > 0 scales by (size + offset) / n instead of to the exact size, as DINOv2's training did with 0.1.
    Computed in float32; the class token's row is kept. It equals `torch.nn.functional.interpolate` to rounding, but
    consists of products only, which every exporter keeps valid for other grids.
    """
    side = math.isqrt(positions.shape[1] - 1)
    if not exporting() and tuple(grid) == (side, side):
        return positions
    indices = [torch.arange(count, dtype=torch.float32, device=positions.device) for count in grid]
    sizes = [index[-1] + 1 for index in indices]  # tensors, so that an exported graph computes them anew
    if offset:  # the table's own grid is taken as it is
        own = (sizes[0] == side) & (sizes[1] == side)
        sizes = [torch.where(own, size, size + offset) for size in sizes]
    rows, columns = (
        bicubic_weights(index, side, side / size, antialias) for index, size in zip(indices, sizes, strict=True)
    )
    patches = positions[0, 1:].reshape(side, side, -1).float()
    with _without_autocast(positions.device.type):
        resized = rows @ (columns @ patches).flatten(1)  # (rows, columns * D)
    resized = resized.reshape(1, -1, positions.shape[2]).to(positions.dtype)
    return torch.cat([positions[:, :1], resized], dim=1)


def bicubic_weights(index: Tensor, side: int, step: Tensor, antialias: bool) -> Tensor:
    """Weights (K, side) of `side` old positions for each new position `index` (K,), as in torch's resize.

    `step` is the distance between new positions, in units of old ones.

    Without antialias, positions beyond the edge repeat the edge (kernel with a = -0.75). With it, the kernel
    (a = -0.5) widens as the grid shrinks, and positions beyond the edge do not count.
    """
    centres = (index[:, None] + 0.5) * step - 0.5
    if antialias:
        places = torch.arange(side, device=index.device)
        weights = _cubic((places - centres) / step.clamp(min=1.0), -0.5)
        return weights / weights.sum(dim=1, keepdim=True)
    places = torch.arange(-2, side + 2, device=index.device)
    on_the_edge = torch.eye(side, device=index.device)[places.clamp(0, side - 1)]
    with _without_autocast(index.device.type):
        return _cubic(places - centres, -0.75) @ on_the_edge


def _cubic(distance: Tensor, a: float) -> Tensor:
    """Keys' cubic convolution kernel (1981)."""
    x = distance.abs()
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x <= 1, inner, torch.where(x < 2, outer, 0.0))


def _without_autocast(device: str) -> torch.autocast | nullcontext:
    """Switch autocast off: rounding positions to half precision changes features at other sizes."""
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


@dataclass(frozen=True)
class RotaryDraw:
    """Random changes of the coordinates in training, for one block and one size of crops; None changes nothing.

    Attributes:
        shift: (2,), added to rows and columns.
        jitter: (2,), factors of rows and columns.
        rescale: (1,), factor of both.
    """

    shift: Tensor | None = None
    jitter: Tensor | None = None
    rescale: Tensor | None = None

    def __call__(self, coordinates: Tensor) -> Tensor:
        """(N, 2) -> (N, 2): shift, then jitter, then rescale."""
        if self.shift is not None:
            coordinates = coordinates + self.shift
        for factor in (self.jitter, self.rescale):
            coordinates = coordinates if factor is None else coordinates * factor
        return coordinates


def draw_rotary(shift: float | None, jitter: float | None, rescale: float | None, like: Tensor) -> RotaryDraw:
    """Draw a `RotaryDraw`: a shift within +-`shift`, factors log-uniform within 1/`jitter` to `jitter` (`rescale`)."""

    def uniform(bound: float, count: int) -> Tensor:
        return torch.empty(count, dtype=like.dtype, device=like.device).uniform_(-bound, bound)

    return RotaryDraw(
        None if shift is None else uniform(shift, 2),
        None if jitter is None else uniform(math.log(jitter), 2).exp(),
        None if rescale is None else uniform(math.log(rescale), 1).exp(),
    )


def rotary_periods(
    head: int,
    base: float,
    shortest: float | None = None,
    longest: float | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Tensor:
    """Periods (head / 4,) of DINOv3's rotations (`dinov3/layers/rope_position_encoding.py`), in units of coordinates.

    base ** (2 i / (head / 2)) for i = 0, 1, ...; or geometrically from `shortest` to `longest` if both are given.
    """
    count = head // 4
    if shortest is None or longest is None:
        return base ** (2 * torch.arange(count, dtype=dtype, device=device) / (head // 2))
    ratio = longest / shortest
    return ratio ** torch.linspace(0, 1, count, dtype=dtype, device=device) / ratio * longest


def rotary_coordinates(
    grid: tuple[int, int], normalize: str, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Tensor:
    """Centres of the patches of a (rows, columns) grid, (N, 2) in row-major order, rows first.

    Each side is divided by its own length ("separate"), or both by the longer ("max") or the shorter one ("min"), and
    mapped from 0..1 to -1..1.
    """
    rows, columns = grid
    sides = {"separate": (rows, columns), "max": (max(grid),) * 2, "min": (min(grid),) * 2}[normalize]
    centres = [
        (torch.arange(count, dtype=dtype, device=device) + 0.5) / side for count, side in zip(grid, sides, strict=True)
    ]
    return 2.0 * torch.stack(torch.meshgrid(*centres, indexing="ij"), dim=-1).flatten(0, 1) - 1.0


def rotary_tables(coordinates: Tensor, periods: Tensor) -> tuple[Tensor, Tensor]:
    """Sines and cosines (N, 4 P) of coordinates (N, 2) and periods (P,): the rows' band, the columns', both twice."""
    angles = (2 * math.pi * coordinates[:, :, None] / periods).flatten(1, 2).repeat(1, 2)
    return angles.sin(), angles.cos()


def rotate(tokens: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Turn queries or keys (B, heads, T, d) by tables (N, d): the last N tokens, the patches; the others stay.

    Element i is turned together with element i + d / 2. Computed in the tables' dtype.
    """
    sines, cosines = tables
    moved = tokens.to(sines.dtype)
    first = moved.shape[-2] - sines.shape[-2]
    patches = moved[..., first:, :]
    left, right = patches.chunk(2, dim=-1)
    patches = patches * cosines + torch.cat([-right, left], dim=-1) * sines
    return torch.cat([moved[..., :first, :], patches], dim=-2).to(tokens.dtype)
