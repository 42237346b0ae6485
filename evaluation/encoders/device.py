"""On which device and in which precision encoders run: what is chosen, and what is refused."""

import os

from biovfm_hf.errors import UserError


def default_device() -> str:
    """`cuda` where there is one (this process' own, of several), else `cpu`."""
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def default_precision(device: str) -> str:
    """`bf16` on a GPU that computes in it, else `fp32`."""
    import torch

    on_gpu = torch.device(device).type == "cuda"
    return "bf16" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def check_device(device: str) -> None:
    """Raise a UserError unless torch can work on `device` here."""
    import torch

    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device {device!r}: torch knows no such kind; give cpu, cuda or cuda:N") from error
    if asked.type == "cuda" and (asked.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device {device}: torch sees {torch.cuda.device_count()} GPUs here; use cpu, or see the driver"
        )
