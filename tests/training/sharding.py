"""FSDP2 on a CPU, where accelerate never turns it on."""

from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from training import setup
from training.settings.config import TrainConfig


def shard_on_cpu() -> None:
    """Let every run that starts in this process be sharded: FSDP2 is turned on once its accelerator is made."""
    make = setup.make_accelerator

    def sharded_accelerator(config: TrainConfig, out: Path) -> Any:
        accelerator = make(config, out)
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["BioVFMLayer"],
            reshard_after_forward=True,
            cpu_ram_efficient_loading=False,
        )
        if accelerator.mixed_precision != "no":
            plugin.set_mixed_precision(accelerator.mixed_precision)  # as accelerate does on a GPU
        AcceleratorState._shared_state["fsdp_plugin"] = plugin
        for state in (PartialState, AcceleratorState):
            state._shared_state["distributed_type"] = DistributedType.FSDP
        return accelerator

    setup.make_accelerator = sharded_accelerator
