"""Coordinates processes on one results folder, started by `accelerate launch` or `torchrun`."""

import atexit
import os
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState

# How long a process waits for the others: as long as the longest run of any of them may take.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class ProcessGroup:
    """The index of this process and the number of processes."""

    rank: int = 0
    size: int = 1

    def takes(self, number: int) -> bool:
        """Whether piece `number` of shared work belongs to this process."""
        return number % self.size == self.rank

    def wait(self) -> None:
        """Wait until all processes have come this far."""
        if self.size > 1:
            _join().wait_for_everyone()

    def agree(self, value: Any) -> Any:
        """The first process's value, so that all act alike even if their own values differ."""
        if self.size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        _join()
        return broadcast_object_list([value])[0]


def process_group() -> ProcessGroup:
    """The processes that a launcher started together; without a launcher a group of one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ProcessGroup()
    state = _join()
    return ProcessGroup(state.process_index, state.num_processes)


@cache
def _join() -> "PartialState":
    """Join the process group, once. Without a GPU, Accelerate needs a flag, or each process would think it is alone.

    The group is left at exit: gloo's threads would abort a process that ends while they still run.
    """
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    atexit.register(_part)
    return state


def _part() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def make_accelerator(precision: str) -> "Accelerator":
    """Accelerate's training loop on this process's own device, in `fp32` or `bf16`.

    It does not move modules or data, because the device may differ from the one that Accelerate would choose.
    """
    import torch
    from accelerate import Accelerator

    process_group()
    mixed = "bf16" if precision == "bf16" else "no"
    return Accelerator(mixed_precision=mixed, cpu=not torch.cuda.is_available(), device_placement=False)
