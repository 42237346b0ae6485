"""One part of `gpu.sh`: `gpu.py PART [--dry-run]` measures it and prints its row.

A step is one of the training loop, on a batch that the loader made once: copy to the device, forward, backward,
clipping, AdamW in its fused form, the teacher's mean. Sizes are those of the shipped ViT-L/16 recipes, in bfloat16.
"""

import argparse
import functools
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.distributed.tensor import DTensor

from biovfm_hf import BioVFMConfig, BioVFMImageProcessor, BioVFMModel
from evaluation.encoders.load import load_encoder
from training import objectives
from training.config_file import load_config
from training.data.batches import CropBatches, Share
from training.data.images import open_images
from training.estimate import peak_flops
from training.loop import one_step
from training.settings.config import TrainConfig
from training.setup import Run, start

ROOT = Path(__file__).resolve().parents[2]
IMAGES = {"dino": 64, "mae": 256}  # of a step: what the recipes give one process
SIZES = (64, 96, 128, 192, 256, 384, 512)  # that the largest batch is looked for among
WARM, MEASURED = 3, 10  # steps; the first ones allocate memory, choose kernels and compile
TINY: dict[str, Any] = {
    "model.size": "vit-tiny", "model.num_hidden_layers": 1, "model.hidden_size": 32, "model.num_attention_heads": 2,
    "augment.global_size": 32,
}  # fmt: skip
TINY_OF: dict[str, dict[str, Any]] = {
    "dino": {"augment.local_size": 16, "augment.local_count": 2, "dino.prototypes": 32, "dino.hidden": 16},
    "mae": {"model.decoder_hidden_size": 32, "model.decoder_num_hidden_layers": 1,
            "model.decoder_num_attention_heads": 2},
}  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """The sizes of everything, and the device."""

    dry: bool

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    @property
    def steps(self) -> tuple[int, int]:
        """The number of warm-up steps and of measured steps."""
        return (1, 1) if self.dry else (WARM, MEASURED)


@dataclass(frozen=True)
class Row:
    """Measurements of a part: seconds and images per step, operations per image, and further notes."""

    seconds: float
    images: int
    flops: float | None = None
    note: str = ""
    gib: float | None = field(default_factory=lambda: peak_gib())

    def line(self, name: str) -> str:
        rate, on_gpu = self.images / self.seconds, torch.cuda.is_available()
        peak = peak_flops(torch.cuda.get_device_name()) if on_gpu else None
        share = f"{rate * self.flops / peak:.1%}" if peak and self.flops else ""
        memory = f"{self.gib:.1f}" if self.gib else ""
        return f"| {name} | {1000 * self.seconds:.1f} | {rate:,.1f} | {share} | {memory} | {self.note} |"


def peak_gib() -> float | None:
    """The peak memory of the GPU until now."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


def seconds_of(step: Callable[[], object], scale: Scale) -> float:
    """The median time of a step, the device's work included."""
    warm, measured = scale.steps
    times = []
    for number in range(warm + measured):
        begun = time.perf_counter()
        step()
        if not scale.dry:
            torch.cuda.synchronize()
        if number >= warm:
            times.append(time.perf_counter() - begun)
    return float(np.median(times))


def write_images(folder: Path, count: int = 64) -> None:
    """Grey and coloured noise as PNG of 256 pixels."""
    generator = np.random.default_rng(0)
    for number in range(count):
        pixels = generator.integers(0, 256, (256, 256, 3) if number % 2 else (256, 256), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png", compress_level=1)


def begun(objective: str, folder: Path, scale: Scale, **settings: Any) -> Run:
    """A run of the ViT-L recipe of an objective, as the command starts it."""
    images = folder / "images"
    images.mkdir()
    write_images(images, 8 if scale.dry else 64)
    count = 4 if scale.dry else IMAGES[objective]
    keys = {"data.path": str(images), "data.workers": 0, "steps": 1000, "watch.every": 0, "run.compile": False,
            "batch.size": count, "batch.per_process": count, "run.device": "cpu" if scale.dry else "auto"}  # fmt: skip
    tiny = {**TINY, **TINY_OF[objective]} if scale.dry else {}
    recipe = f"{objective}_{'smoke' if scale.dry else 'vit_large'}"
    given = {key.replace("__", "."): value for key, value in settings.items()}
    config = load_config(recipe, {**keys, **tiny, **given})
    return start(config, objectives.method_of(objective), folder / "run", open_images(config.data))


def one_batch(run: Run, images: int) -> dict[str, Any]:
    return CropBatches(run.images, run.order, run.config, Share(images), run.method.batch_extra(run.config))[0]


def step_of(run: Run, batch: dict[str, Any]) -> Callable[[], object]:
    """A step of the loop on one batch, again and again, in memory as the loader pins it."""
    if run.accelerator.device.type == "cuda":
        batch = {
            name: value.pin_memory() if isinstance(value, torch.Tensor) else value for name, value in batch.items()
        }
    batches: Iterator[dict[str, Any]] = map(dict, repeat(batch))
    return lambda: one_step(run, batches, run.schedule.at(100))


def pretraining(objective: str, folder: Path, scale: Scale, **settings: Any) -> Row:
    run = begun(objective, folder, scale, **settings)
    seconds = seconds_of(step_of(run, one_batch(run, run.share.images)), scale)
    sharded = sum(isinstance(parameter, DTensor) for parameter in run.objective.parameters())
    note = f"{sharded} tensors sharded" if sharded else ""
    return Row(seconds, run.share.images, run.flops_per_image, note)


def on_device(folder: Path, scale: Scale) -> Row:
    """DINOv2's step with the looks of crops applied on the device, and what that saves the loader."""
    run = begun("dino", folder, scale, augment__on_device=True)
    on_the_cpu = replace(run.config, augment=replace(run.config.augment, on_device=False))
    (batch, rate), (_, without) = loaded(run, run.config), loaded(run, on_the_cpu)
    note = f"the loader makes {rate:.0f} images/s a core, {without:.0f} without"
    return Row(seconds_of(step_of(run, batch), scale), run.share.images, run.flops_per_image, note)


def loaded(run: Run, config: TrainConfig) -> tuple[dict[str, Any], float]:
    """A batch and the images per CPU second that it was made at."""
    batches = CropBatches(run.images, run.order, config, run.share, run.method.batch_extra(config))
    started = time.process_time()
    batch = batches[0]
    return batch, run.share.images / (time.process_time() - started)


def packed(folder: Path, scale: Scale) -> Row:
    """The encoder forward and backward on crops of two sizes, packed and in a pass for each."""
    size, images, sides = ("vit-tiny", 1, (32, 16)) if scale.dry else ("vit-large", 32, (224, 96))
    fields = {"num_hidden_layers": 1, "image_size": 32} if scale.dry else {}
    encoder = BioVFMModel(BioVFMConfig.from_size(size, drop_path_rate=0.3, **fields)).to(scale.device).train()
    crops = [torch.randn(count * images, 3, side, side, device=scale.device)
             for count, side in zip((2, 8), sides, strict=True)]  # fmt: skip

    def step(encode: Callable[[], list[torch.Tensor]]) -> None:
        with torch.autocast(scale.device, torch.bfloat16):
            tokens = encode()
        sum(part.float().mean() for part in tokens).backward()
        encoder.zero_grad()

    together = seconds_of(lambda: step(lambda: encoder.forward_packed(crops)), scale)
    apart = seconds_of(lambda: step(lambda: [encoder(batch).last_hidden_state for batch in crops]), scale)
    return Row(together, images, note=f"separate passes {1000 * apart:.1f} ms, {apart / together:.2f} times")


def fsdp2(folder: Path, scale: Scale) -> Row | None:
    """DINOv2's step under the shipped FSDP2 file with one process; plain on a CPU, where accelerate never shards."""
    if scale.dry:
        return pretraining("dino", folder, scale)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "training/launch/fsdp2_8gpu.yaml")]
    words = ["--num_processes", "1", "--main_process_port", port, __file__, "dino", "--name", "fsdp2"]
    subprocess.run([sys.executable, *launch, *words], check=True)
    return None  # the other process has printed it


def embedding(folder: Path, scale: Scale, compiled: bool = False) -> Row:
    size, images, side = ("vit-tiny", 2, 32) if scale.dry else ("vit-large", 256, 224)
    fields = {"num_hidden_layers": 1} if scale.dry else {}
    config = BioVFMConfig.from_size(size, image_size=side, **fields)
    BioVFMModel(config).save_pretrained(folder)
    BioVFMImageProcessor(size=side).save_pretrained(folder)
    encoder = load_encoder(str(folder), scale.device, compiled=compiled)
    pixels = torch.randn(images, 3, side, side)
    return Row(seconds_of(lambda: encoder.encode(pixels), scale), images, note=encoder.precision)


def largest(folder: Path, scale: Scale) -> Row:
    """The largest DINOv2 batch that fits into memory, and its rate."""
    run = begun("dino", folder, scale)
    fitting: Row | None = None
    for count in (2, 4) if scale.dry else SIZES:
        try:
            seconds = seconds_of(step_of(run, one_batch(run, count)), scale)
        except torch.OutOfMemoryError:
            break
        fitting = Row(seconds, count, run.flops_per_image, f"{count} images")
    if fitting is None:
        raise SystemExit(f"not even {SIZES[0]} images fit")
    return fitting


PARTS: dict[str, Callable[[Path, Scale], Row | None]] = {
    "dino": lambda folder, scale: pretraining("dino", folder, scale),
    "dino-compiled": lambda folder, scale: pretraining("dino", folder, scale, run__compile=True),
    "mae": lambda folder, scale: pretraining("mae", folder, scale),
    "mae-compiled": lambda folder, scale: pretraining("mae", folder, scale, run__compile=True),
    "packed": packed,
    "on-device": on_device,
    "fsdp2": fsdp2,
    "embed": embedding,
    "embed-compiled": lambda folder, scale: embedding(folder, scale, compiled=True),
    "largest": largest,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, on a CPU")
    parser.add_argument("--name", help="of the row (default: the part's)")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        sys.exit("no GPU here; --dry-run shows on a CPU that every part runs")
    if options.dry_run:  # graphs are traced, and no code is generated
        torch.compile = functools.partial(torch.compile, backend="eager")
    with tempfile.TemporaryDirectory() as folder:
        row = PARTS[options.part](Path(folder), Scale(options.dry_run))
        if row:
            print(row.line(options.name or options.part), flush=True)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # a process group that is torn down late would hold the next part up
