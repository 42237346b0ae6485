"""A row of the table of `gpu.sh`: the times of steps, the rate beside the GPU's peak, memory; or why there is none."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from training.estimate import peak_flops

WARM, MEASURED = 3, 10  # steps; the first ones allocate memory, choose kernels and compile


@dataclass(frozen=True)
class Scale:
    """Whether sizes are tiny and everything is on a CPU."""

    dry: bool

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"


@dataclass(frozen=True)
class Row:
    """Measurements of a part: seconds of each step, its images and operations, further notes, peak memory."""

    seconds: NDArray[np.float64]
    images: int
    flops: float = 0
    note: str = ""
    gib: float | None = field(default_factory=lambda: peak_gib())

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return float(np.median(self.seconds))

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.flops / self.median

    def cells(self, product: float) -> list[str]:
        """What the table says; `product` is the rate of a matrix product, operations a second."""
        peak = peak_of_gpu()
        return [
            f"{1000 * self.median:.1f} ({1000 * self.seconds.min():.1f}-{1000 * self.seconds.max():.1f})",
            str(self.images or ""),
            f"{self.images / self.median:,.1f}" if self.images else "",
            f"{self.rate / peak:.1%}" if peak and self.flops else "",
            f"{self.rate / product:.1%}" if self.flops else "",
            f"{self.gib:.1f}" if self.gib else "",
            self.note,
        ]


def show(name: str, cells: list[str]) -> None:
    """Print a row. If a part prints several, the last one counts."""
    print("|", " | ".join([name, *(cell.replace("|", "/") for cell in cells)]), "|", flush=True)


def reason(error: BaseException) -> str:
    """Its type and message in one short line; hints that torch adds come last."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def peak_of_gpu() -> float | None:
    return peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def peak_gib() -> float | None:
    """The peak memory of the GPU since `forget_peak`."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


def forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def times(step: Callable[[], object], scale: Scale, warm: int = WARM, measured: int = MEASURED) -> NDArray[np.float64]:
    """Seconds of each measured step, the device's work included; a dry run has one before it, and one of them."""
    warm, measured = (1, 1) if scale.dry else (warm, measured)
    seconds = []
    for _ in range(warm + measured):
        begun = time.perf_counter()
        step()
        if not scale.dry:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return np.array(seconds[warm:])


def matrix_product(scale: Scale) -> Row:
    """A large product of random matrices in bfloat16: a rate that is reached, other than the data sheet's peak."""
    side = 256 if scale.dry else 8192
    left, right = torch.randn(2, side, side, device=scale.device, dtype=torch.bfloat16)
    return Row(times(lambda: left @ right, scale, 20, 20), 0, 2 * side**3, f"{side} x {side} x {side}")
