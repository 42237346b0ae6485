"""Summarises a model folder: architecture, parameter count, processor, and the cost of one image."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from biovfm_hf.cards.objective import Objective, read_objective
from biovfm_hf.cards.origin import folder_name
from biovfm_hf.errors import UserError
from biovfm_hf.flops import Architecture
from biovfm_hf.reading.documents import read_json


@dataclass(frozen=True)
class ModelSummary:
    """A model folder. `parameters` counts the stored weights; `flops_per_image` is one forward pass, or None.

    `objective` is that of its training, None if the folder does not state it.
    """

    name: str
    config: dict[str, Any]
    processor: dict[str, Any]
    parameters: int
    weight_bytes: int
    flops_per_image: float | None
    objective: Objective | None = None

    @property
    def family(self) -> str:
        """The objective's title; of folders that state none, such as converted ones, the family in their config."""
        if self.objective is not None:
            return self.objective.title
        return str(self.config.get("initialization") or self.config.get("model_type") or "not stated")

    @property
    def of_timm(self) -> dict[str, Any] | None:
        """What timm states of how images are prepared, if the folder is of a network of timm."""
        stated = self.config.get("pretrained_cfg")
        return stated if "architecture" in self.config and isinstance(stated, dict) else None

    @property
    def image_size(self) -> Any:
        """The side of its images in pixels; None if the folder does not state it."""
        timm = self.of_timm
        if timm is None:
            return self.config.get("image_size")
        return next(iter(reversed(timm.get("input_size") or ())), None)

    @property
    def normalisation(self) -> tuple[Any, Any] | None:
        """Mean and standard deviation of its pixels; None if the folder does not state them."""
        timm = self.of_timm
        names = ("image_mean", "image_std") if timm is None else ("mean", "std")
        stated = self.processor if timm is None else timm
        mean, std = (stated.get(name) for name in names)
        return (mean, std) if mean else None

    @property
    def dimensions(self) -> list[tuple[str, str]]:
        """Rows of a table: the dimensions that the folder states."""
        config, side = self.config, self.image_size
        rows = []
        if config.get("hidden_size"):
            names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
            rows.append(("Width, blocks, heads", ", ".join(str(config.get(name, "not stated")) for name in names)))
        elif config.get("num_features"):
            rows.append(("Width of its features", str(config["num_features"])))
        if side and config.get("patch_size"):
            rows.append(("Patch and image size", f"{config['patch_size']} and {side} pixels"))
        elif side:
            rows.append(("Image size", f"{side} pixels"))
        return rows


def summarise_model(folder: Path) -> ModelSummary:
    """Read a model folder's config, processor and weight headers; no weight is loaded.

    Raises:
        UserError: no config.json, no safetensors weights, or an unreadable file.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json, so not a model folder; give the model/ of a training run")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise UserError(f"{folder / 'config.json'}: not a JSON object; save the model again with save_pretrained")
    processor = folder / "preprocessor_config.json"
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(f"{folder}: no *.safetensors weights; save the model with save_pretrained")
    settings = read_json(processor) if processor.is_file() else {}
    return ModelSummary(
        name=folder_name(folder),
        config=config,
        processor=settings if isinstance(settings, dict) else {},
        parameters=sum(count_parameters(file) for file in weights),
        weight_bytes=sum(file.stat().st_size for file in weights),
        flops_per_image=forward_flops(config),
        objective=read_objective(folder),
    )


def count_parameters(file: Path) -> int:
    """Number of scalars in a safetensors file, from its header.

    Raises:
        UserError: the header is damaged.
    """
    try:
        with safe_open(file, framework="numpy") as weights:
            return sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: damaged safetensors file ({error}); copy or save it again") from error


def forward_flops(config: dict[str, Any]) -> float | None:
    """Floating-point operations of one forward pass through the encoder for one image, or None without the sizes."""
    try:
        return Architecture.of(config).forward_flops()
    except (UserError, TypeError):
        return None
