"""One part of `gpu.sh`: `gpu.py PART [--dry-run]` measures it and prints its row, which says why if it fails.

A step is one of the training loop, on a batch that the loader made once: copy to the device, forward, backward,
clipping, AdamW in its fused form, the teacher's mean. Sizes are those of the shipped ViT-L/16 recipes, in bfloat16.
No GPU has run this yet: on a CPU the dry run takes the same paths, but those of CUDA alone (memory, pinned copies,
Inductor's code, NCCL) are unseen.
"""

import argparse
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.distributed.tensor import DTensor

from biovfm_hf import BioVFMConfig, BioVFMImageProcessor, BioVFMModel
from biovfm_hf.flops import Architecture
from evaluation.encoders import embed
from evaluation.encoders.load import load_encoder
from tests.benchmarks.gpu_row import Row, Scale, forget_peak, matrix_product, peak_of_gpu, reason, show, times
from training import objectives
from training.config_file import load_config
from training.data.batches import CropBatches, Share
from training.data.images import open_images
from training.loop import one_step
from training.settings.config import TrainConfig
from training.setup import Run, start

ROOT = Path(__file__).resolve().parents[2]
NO_GPU = 3  # exit status
IMAGES = {"dino": 64, "mae": 256}  # of a step: what the recipes give one process
SIZES = (64, 96, 128, 192, 256, 384, 512)  # that the largest batch is looked for among
# Blocks and stochastic depth as in the recipe, since the last block has a path of its own
TINY: dict[str, Any] = {
    "model.size": "vit-tiny", "model.num_hidden_layers": 3, "model.hidden_size": 32, "model.num_attention_heads": 2,
    "augment.global_size": 32,
}  # fmt: skip
TINY_OF: dict[str, dict[str, Any]] = {
    "dino": {"model.drop_path_rate": 0.3, "augment.local_size": 16, "augment.local_count": 2, "dino.prototypes": 32,
             "dino.hidden": 16},
    "mae": {"model.decoder_hidden_size": 32, "model.decoder_num_hidden_layers": 1,
            "model.decoder_num_attention_heads": 2},
}  # fmt: skip


def machine(folder: Path, scale: Scale) -> Row:
    """The matrix product, with what everything is measured on. As the first part it also reads all files once."""
    row, peak = matrix_product(scale), peak_of_gpu()
    name = "a CPU" if scale.dry else torch.cuda.get_device_name()
    share = f"; MFU is of {peak / 1e12:.0f} TFLOP/s, dense bf16" if peak else "; no MFU: its peak is not known here"
    return replace(row, note=f"{row.note} on {name}, torch {torch.__version__}, CUDA {torch.version.cuda}{share}")


def write_images(folder: Path, count: int = 64) -> None:
    """Grey and coloured noise as PNG of 256 pixels."""
    generator = np.random.default_rng(0)
    for number in range(count):
        pixels = generator.integers(0, 256, (256, 256, 3) if number % 2 else (256, 256), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png", compress_level=1)


def begun(objective: str, folder: Path, scale: Scale, **settings: Any) -> Run:
    """A run of the ViT-L recipe of an objective, as the command starts it, but for random weights made on the GPU."""
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
    with torch.device(scale.device):  # a core would draw 0.7 billion numbers for seconds
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


def row_of(run: Run, seconds: NDArray[np.float64], images: int, note: str = "") -> Row:
    """The row of a training step; the operations are those that the run's estimate counts."""
    counted = f"{run.flops_per_image / 1e9:,.1f} GFLOP an image"
    return Row(seconds, images, images * run.flops_per_image, f"{counted}; {note}" if note else counted)


def pretraining(objective: str, folder: Path, scale: Scale, **settings: Any) -> Row:
    run = begun(objective, folder, scale, **settings)
    images = run.share.images
    return row_of(run, times(step_of(run, one_batch(run, images)), scale), images)


def on_device(folder: Path, scale: Scale) -> Row:
    """DINOv2's step with the looks of crops applied on the device, and what that saves the loader."""
    run = begun("dino", folder, scale, augment__on_device=True)
    on_the_cpu = replace(run.config, augment=replace(run.config.augment, on_device=False))
    (batch, rate), (_, without) = loaded(run, run.config), loaded(run, on_the_cpu)
    note = f"the loader makes {rate:.0f} images/s a core, {without:.0f} without"
    return row_of(run, times(step_of(run, batch), scale), run.share.images, note)


def loaded(run: Run, config: TrainConfig) -> tuple[dict[str, Any], float]:
    """A batch and the images per CPU second that it was made at."""
    batches = CropBatches(run.images, run.order, config, run.share, run.method.batch_extra(config))
    started = time.process_time()
    batch = batches[0]
    return batch, run.share.images / (time.process_time() - started)


def packed(folder: Path, scale: Scale) -> Row:
    """The encoder forward and backward on crops of two sizes, packed and in a pass for each."""
    size, images, sides = ("vit-tiny", 1, (32, 16)) if scale.dry else ("vit-large", 32, (224, 96))
    fields: dict[str, Any] = {"num_hidden_layers": 3, "image_size": 32} if scale.dry else {}
    with torch.device(scale.device):
        encoder = BioVFMModel(BioVFMConfig.from_size(size, drop_path_rate=0.3, **fields)).train()
    crops = [torch.randn(count * images, 3, side, side, device=scale.device)
             for count, side in zip((2, 8), sides, strict=True)]  # fmt: skip

    def step(encode: Callable[[], list[torch.Tensor]]) -> None:
        with torch.autocast(scale.device, torch.bfloat16):
            tokens = encode()
        torch.stack([part.float().mean() for part in tokens]).sum().backward()
        encoder.zero_grad()

    apart = Row(times(lambda: step(lambda: [encoder(batch).last_hidden_state for batch in crops]), scale), images)
    forget_peak()
    together = Row(times(lambda: step(lambda: encoder.forward_packed(crops)), scale), images)
    memory = f" and {apart.gib:.1f} GiB" if apart.gib else ""
    ratio = f"{apart.median / together.median:.2f} times"
    return replace(together, note=f"separate passes {1000 * apart.median:.1f} ms{memory}, {ratio}")


def fsdp2(folder: Path, scale: Scale) -> Row:
    """DINOv2's step under the shipped FSDP2 file, in this one process.

    It has the variables that `accelerate launch` gives a process, without the launcher, whose process has a session of
    its own: it would outlive the limit, and its error would not be seen.
    """
    os.environ.update(launched("fsdp2_8gpu.yaml"))
    if scale.dry:
        from tests.training.sharding import shard_on_cpu

        shard_on_cpu()
    run = begun("dino", folder, scale)
    sharded = sum(isinstance(parameter, DTensor) for parameter in run.objective.parameters())
    images = run.share.images
    return row_of(run, times(step_of(run, one_batch(run, images)), scale), images, f"{sharded} tensors sharded")


def launched(file: str) -> dict[str, str]:
    """The environment that `accelerate launch` gives the only process of a file of training/launch."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    words = ["--config_file", str(ROOT / "training/launch" / file), "--num_processes", "1"]
    options = launch_command_parser().parse_args([*words, "--main_process_port", "0", __file__])
    variables = prepare_multi_gpu_env(_validate_launch_command(options)[0])
    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    return {**variables, **rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": options.master_port}


def embedding(folder: Path, scale: Scale, compiled: bool = False) -> Row:
    """A batch of `biovfm embed`: to the GPU, through the encoder, its summaries back."""
    size, images, side = ("vit-tiny", 2, 32) if scale.dry else ("vit-large", embed.BATCH_SIZE, 224)
    fields: dict[str, Any] = {"num_hidden_layers": 3} if scale.dry else {}
    config = BioVFMConfig.from_size(size, image_size=side, **fields)
    with torch.device(scale.device):
        BioVFMModel(config).save_pretrained(folder)
    BioVFMImageProcessor(size=side).save_pretrained(folder)
    encoder = load_encoder(str(folder), scale.device, compiled=compiled)
    pixels = embed.pinned(torch.randn(images, 3, side, side), encoder)
    forget_peak()  # another model was there to be saved

    def step() -> list[torch.Tensor]:
        return [vector.cpu() for vector in embed.summarise(encoder, pixels).values()]

    flops = images * Architecture.of(config).forward_flops()
    return Row(times(step, scale), images, flops, encoder.precision)


def largest(folder: Path, scale: Scale) -> Iterator[Row]:
    """The largest DINOv2 batch that fits into memory, and its rate; a row for each that does."""
    run = begun("dino", folder, scale)
    fitting: Row | None = None
    for count in (2, 4) if scale.dry else SIZES:
        try:
            seconds = times(step_of(run, one_batch(run, count)), scale, 1, 3)
        except RuntimeError as error:  # memory that is short has many names: torch's, cuBLAS's, cuDNN's
            if fitting is None:
                raise
            yield replace(fitting, note=f"{fitting.note}, {count} do not ({reason(error)[:60]})")
            return
        fitting = row_of(run, seconds, count, f"{count} images fit")
        yield fitting
        forget_peak()


PARTS: dict[str, Callable[[Path, Scale], Row | Iterator[Row]]] = {
    "product": machine,
    "dino": lambda folder, scale: pretraining("dino", folder, scale),
    # A compiled block of the student has a symbolic number of tokens, since packed crops have two; whether
    # torch._dynamo.mark_static would gain time is not known.
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


def measure(part: str, scale: Scale) -> None:
    """Print the row of a part, or in its place why there is none."""
    try:
        rate = matrix_product(scale).rate
        forget_peak()
        with tempfile.TemporaryDirectory() as folder:
            found = PARTS[part](Path(folder), scale)
            for row in [found] if isinstance(found, Row) else found:
                show(part, row.cells(rate))
    except Exception as error:
        show(part, [""] * 6 + [f"failed: {reason(error)}"])
        raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, on a CPU")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        print("torch sees no GPU here; --dry-run shows on a CPU that every part runs", file=sys.stderr)
        sys.exit(NO_GPU)
    if options.dry_run:  # graphs are traced, and no code is generated
        torch.compile = functools.partial(torch.compile, backend="eager")
    measure(options.part, Scale(options.dry_run))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # a process group that is torn down late would hold the next part up
