"""The studies of docs/open-questions.md on real images: python docs/open_questions.py REAL OUT [--only mixture]

REAL holds BUSI, BCCD, fundus vessels, ROSSA, PneumoniaMNIST at 28 pixels and NIfTI volumes; OUT receives everything.
After a stop or kill, the same command continues.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor

from biovfm_hf import BioVFMConfig, BioVFMModel
from biovfm_hf.cli import main as biovfm
from evaluation.tasks import open_task

DENSE = "fundus_vessels"
MIXTURE = """
data: POOL
by: modality
config: mae_smoke
overrides: {steps: 100, batch.size: 64, model.hidden_size: 64, model.num_attention_heads: 2, model.patch_size: 8,
  model.num_hidden_layers: 4, model.decoder_hidden_size: 64, augment.global_size: 48, data.workers: 0,
  run.log_every: 50, run.checkpoint_every: 1000, data.cache_mib: 1024}
design: {lattice: 2}
held_out: 4
replicates: 4
epochs: 15
confirm: 3
probe: {tasks: [busi, pneumoniamnist], data: REAL, method: linear, no_figures: true, resamples: 200}
"""
SCALING = """
families:
  DINO: {objective: dino, config: dino_smoke, augment.local_size: 24, augment.local_count: 2, batch.size: 32,
    steps: 80}
  MAE: {objective: mae, config: mae_smoke, model.decoder_hidden_size: 64, batch.size: 64, steps: 40}
sizes:
  w48: {model.hidden_size: 48, model.num_attention_heads: 2}
  w192: {model.hidden_size: 192, model.num_attention_heads: 6}
subsets: {all: POOL}
overrides: {model.num_hidden_layers: 4, model.patch_size: 8, augment.global_size: 48, data.workers: 0,
  run.log_every: 40, run.checkpoint_every: 1000, data.cache_mib: 1024}
probe: {tasks: [busi, fundus_vessels], data: REAL, method: "linear,segment", no_figures: true}
layers: {task: busi, max_images: 156, attention_images: 8}
"""
BOXES_ENCODER = """steps=200 batch.size=64 model.hidden_size=64 model.num_attention_heads=2 model.patch_size=8
  model.num_hidden_layers=4 model.decoder_hidden_size=64 augment.global_size=96 data.workers=0 run.log_every=20
  run.checkpoint_every=40 data.cache_mib=1024"""
BOXES_PROBE = "--tasks bccd_boxes --method detect --image-size 96 --mirror --batch-size 4"


def pool_images(real: Path) -> Iterator[tuple[Image.Image, str, str]]:
    """Images to pretrain on, with modality and source: only training splits of the tasks."""
    for row, image in enumerate(_task_images(real, "busi")):
        yield image, "ultrasound", f"busi {row}"
    for image in _files(real / "bccd", "JPEGImages", real / "bccd" / "BCCD" / "ImageSets" / "Main" / "train.txt"):
        yield from ((tile, "blood", "bccd") for tile in tiles(image, 2))
    for image in _task_images(real, DENSE):
        yield from ((tile, "eye", "fundus") for tile in tiles(image, 3))
    for path in sorted((real / "rossa").rglob("train_manual/image/*.png")):
        yield Image.open(path).convert("RGB"), "eye", "rossa"
    for image in _task_images(real, "pneumoniamnist")[::5]:
        yield image, "radiology", "pneumoniamnist"
    for image in volume_slices(real / "volumes"):
        yield image, "radiology", "volumes"


def _task_images(real: Path, name: str) -> list[Image.Image]:
    images = open_task(name, real).splits["train"].images
    return [Image.fromarray(np.ascontiguousarray(images[index])) for index in range(len(images))]


def _files(root: Path, folder: str, listing: Path) -> list[Image.Image]:
    place = next(root.rglob(folder))
    return [Image.open(place / f"{name}.jpg").convert("RGB") for name in listing.read_text().split()]


def tiles(image: Image.Image, side: int) -> list[Image.Image]:
    """An image cut into side x side parts."""
    width, height = image.width // side, image.height // side
    return [image.crop((x * width, y * height, (x + 1) * width, (y + 1) * height))
            for x in range(side) for y in range(side)]  # fmt: skip


def volume_slices(folder: Path) -> Iterator[Image.Image]:
    """Every second axial slice with content of the CT and MR volumes, between their 1st and 99th percentile."""
    import nibabel

    for path in sorted(folder.glob("*.nii.gz")):
        volume = np.asarray(nibabel.load(path).dataobj, np.float32)
        volume = volume[..., 0] if volume.ndim == 4 else volume
        low, high = np.percentile(volume, [1, 99])
        scaled = (np.clip((volume - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
        for index in range(0, scaled.shape[2], 2):
            if scaled[..., index].std() > 20:
                yield Image.fromarray(np.rot90(scaled[..., index])).convert("RGB")


def write_pool(real: Path, out: Path) -> None:
    """The pool as a Parquet dataset with the column `modality`; images reduced to 128 pixels on the shorter side."""
    import datasets

    if (out / "train.parquet").exists():
        return
    images, modalities, sources = [], [], []
    for image, modality, source in pool_images(real):
        scale = 128 / min(image.size)
        image = image.convert("RGB")
        images.append(image.resize((round(image.width * scale), round(image.height * scale))) if scale < 1 else image)
        modalities.append(modality)
        sources.append(source)
    columns = {"image": images, "modality": modalities, "source": sources}
    datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image()).to_parquet(str(out / "train.parquet"))


def run(out: Path, name: str, text: str, command: list[str], places: dict[str, Path]) -> None:
    """Write a plan, with paths in place of the names in `places`, and run a command on it."""
    for placeholder, path in places.items():
        text = text.replace(placeholder, str(path.resolve()))
    (out / f"{name}.yaml").write_text(text)
    call([*command, str(out / f"{name}.yaml"), "--out", str(out / name)])


def call(arguments: list[str]) -> None:
    """Run a command, and stop if it fails."""
    if status := biovfm(arguments):
        raise SystemExit(status)


def boxes(real: Path, out: Path, pool: Path, epochs: str) -> None:
    """Train a detector of blood cells on a small MAE, and one on its twin with random weights."""
    trained, twin = out / "mae" / "model", out / "random"
    call(["pretrain", "mae_smoke", "--data", str(pool), "--out", str(out / "mae"), *BOXES_ENCODER.split()])
    if not (twin / "preprocessor_config.json").exists():
        torch.manual_seed(1)
        BioVFMModel(BioVFMConfig.from_pretrained(trained)).save_pretrained(twin)
        AutoImageProcessor.from_pretrained(trained).save_pretrained(twin)
    models = ["--model", f"mae={trained}", "--model", f"random={twin}"]
    places = ["--data", str(real), "--out", str(out / f"epochs-{epochs}"), "--cache", str(out / "cache")]
    call(["probe", *models, *places, *BOXES_PROBE.split(), "--epochs", epochs])


def main() -> None:
    """Run the parts named by `--only`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("real", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="mixture,scaling,boxes")
    parser.add_argument("--epochs", default="12", help="of the detectors")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pool = options.out / "pool"
    write_pool(options.real, pool)
    places = {"POOL": pool, "REAL": options.real}
    parts = options.only.split(",")
    if "mixture" in parts:
        run(options.out, "mixture", MIXTURE, ["scaling", "mixture", "run"], places)
    if "scaling" in parts:
        run(options.out, "scaling", SCALING, ["scaling", "study"], places)
    if "boxes" in parts:
        boxes(options.real, options.out / "boxes", pool, options.epochs)


if __name__ == "__main__":
    main()
