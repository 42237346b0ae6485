"""What a step would do on a GPU, told without one by tensors that have a device and a shape but no numbers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from training import objectives
from training.config_file import load_config
from training.data import effects
from training.data.batches import normalise
from training.schedule import StepValues
from training.settings.architecture import biovfm_config
from training.settings.augment import AugmentConfig

VALUES = StepValues(lr=1e-3, last_layer_lr=1e-3, weight_decay=0.1, momentum=0.9, teacher_temp=0.05)
DINO = {"augment.global_size": 64, "augment.local_size": 32, "augment.local_count": 2, "model.drop_path_rate": 0.3}


class Waits(TorchDispatchMode):
    """Collects what makes the host wait for a GPU: numbers read from it, shapes that depend on them, plain copies."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        source, name = next((arg for arg in args if isinstance(arg, Tensor)), None), str(function)
        copied = "_to_copy" in name and not kwargs.get("non_blocking") and source.device != result.device
        if copied or any(word in name for word in ("_local_scalar", "nonzero", "masked_select", "unique")):
            self.found.append(name)
        return result


def waits(step: Callable[[], Any]) -> list[str]:
    """Run `step` on such tensors; tensors on two devices in one operation are an error."""
    with FakeTensorMode(), Waits() as mode:
        step()
    return mode.found


def crops(count: int, side: int) -> Tensor:
    return torch.empty(count, 3, side, side, dtype=torch.uint8, device="cuda")


def test_a_wait_for_the_gpu_is_detected() -> None:
    assert waits(lambda: torch.as_tensor(0.5, device="cuda")) == ["aten._to_copy.default"]


@pytest.mark.parametrize(
    ("method", "extra"),
    [("dino", {"dino.centering": kind}) for kind in ("centering", "sinkhorn_knopp")] + [("mae", {})],
)
def test_the_host_never_waits_within_a_forward_pass(method: str, extra: dict) -> None:
    config = load_config(f"{method}_smoke", {**(DINO if method == "dino" else {}), **extra})
    build = objectives.method_of(method).build
    with torch.device("meta"):
        objective = build(config, biovfm_config(config)).train()
    side = config.augment.global_size

    def step() -> None:
        for module in objective.modules():
            for name, old in module._parameters.items():
                if old is not None:
                    new = torch.empty(old.shape, device="cuda")
                    module._parameters[name] = torch.nn.Parameter(new, old.requires_grad)
            for name, old in module._buffers.items():
                module._buffers[name] = torch.empty(old.shape, device="cuda")
        batch = {"global_crops": crops(8, side)}
        if method == "dino":
            batch |= {"local_crops": crops(8, 32), "masks": torch.zeros(8, 16, dtype=torch.bool, device="cuda")}
            batch["mask_indices"] = torch.zeros(11, dtype=torch.int64, device="cuda")
        else:
            batch["noise"] = torch.empty(8, (side // 16) ** 2, device="cuda")
        for name in batch.keys() & {"global_crops", "local_crops"}:
            batch[name] = normalise(batch[name], config.augment.mean, config.augment.std)
        loss, terms = objective(batch, VALUES)
        assert all(value.device.type == "cuda" and value.dtype == torch.float32 for value in (loss, *terms.values()))
        if method == "dino":
            objective.update_teacher(0.9)

    assert waits(step) == []


def test_looks_are_applied_without_waiting() -> None:
    def step() -> None:
        pixels, change = crops(4, 32).float(), torch.empty(4, 1, 1, 1, device="cuda")
        for operation in effects.JITTER:
            operation.on_batch(pixels, change)
        for effect in effects.EFFECTS:
            effect.on_batch(pixels, change, AugmentConfig())

    assert waits(step) == []
