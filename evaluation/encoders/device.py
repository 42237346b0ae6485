"""Chooses the device and precision of encoders, and refuses impossible ones."""

import os
import re
from typing import Any

from biovfm_hf.errors import UserError
from biovfm_hf.usage import peak_memory as process_peak

_DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d+)?")
PRECISIONS = ("fp32", "bf16")
DEVICE_HELP = "torch device (default: cuda if available, else cpu)"
COMPILE_HELP = (
    "embed through torch.compile; compiling takes seconds for a ViT and longer for a convolutional network, so it can "
    "pay off where a GPU embeds for many minutes; on a CPU it is slower (measured)"
)
BF16_HELP = (
    "bf16 keeps two to three digits of a feature; it was 1.6 to 3.2 times as fast on CPUs with bfloat16 instructions "
    "(AMX, AVX512-BF16), and is slower on others"
)
PRECISION_HELP = f"{BF16_HELP} (default: bf16 on a GPU that has it, else fp32)"


def device_word(word: Any) -> str:
    """A device as torch writes it, which is checked without the import of torch.

    Raises:
        ValueError: no kind of device on which an encoder can run.
    """
    if not _DEVICE.fullmatch(str(word)):  # a torch.device writes itself as its word
        raise ValueError(f"{str(word)!r}: not a kind of device that runs models; give cpu, cuda or cuda:N")
    return str(word)


def default_device() -> str:
    """`cuda` if a GPU is available (with several processes, the GPU of this process), else `cpu`."""
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def default_precision(device: str) -> str:
    """`bf16` on a GPU that supports it, else `fp32`."""
    import torch

    on_gpu = torch.device(device).type == "cuda"
    return "bf16" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def embedding_precision(device: str) -> str:
    """`bf16` also on a CPU that has instructions for it (AMX, AVX512-BF16), for features that are kept as vectors."""
    import torch

    fast = torch.device(device).type == "cpu" and has_bfloat16()
    return "bf16" if fast else default_precision(device)


def has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16 (AMX, AVX512-BF16)."""
    import torch

    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def check_device(device: str) -> None:
    """Raise a UserError if torch cannot use `device` on this machine."""
    try:
        device_word(device)
    except ValueError as error:
        raise UserError(f"device {error}") from error
    import torch

    place = torch.device(device)
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device {device}: torch sees {torch.cuda.device_count()} GPUs here; use cpu, or see the driver"
        )


def reset_peak(device: str) -> None:
    """Start to measure the memory that torch takes on a GPU; on a CPU the peak cannot be reset."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: str) -> dict[str, Any]:
    """The peak memory in MiB (`peak_memory_mib`), and what it was measured of (`memory_of`).

    On a GPU it is torch's memory since `reset_peak`. On a CPU it is the process's memory since its start, None if the
    system does not report it.
    """
    import torch

    if torch.device(device).type == "cuda":
        return {"peak_memory_mib": round(torch.cuda.max_memory_allocated(device) / 2**20), "memory_of": "gpu"}
    peak = process_peak()
    return {"peak_memory_mib": None if peak is None else round(peak / 2**20), "memory_of": "process"}
