"""Run the example scripts of transformers and accelerate, as they are, on model folders of ours.

    python tests/peer/run_example_scripts.py FOLDER      FOLDER holds the scripts, or is given as BIOVFM_EXAMPLES

The scripts (`run_image_classification.py`, `..._no_trainer.py`, `run_mae.py`, `run_mim.py`,
`run_semantic_segmentation.py`, `..._no_trainer.py` of transformers' `examples/pytorch`; `cv_example.py` of accelerate)
are other people's and never committed. Without them this says so and exits with 0. Each runs for two epochs on a few
small images, offline, on tiny models, and so does the same script on a model of transformers' own (the control): a
script that fails on both is not our fault. Needs `pip install evaluate albumentations torchvision`.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from datasets import Dataset, Features, Image
from PIL import Image as Pictures

from biovfm_hf import BioVFMConfig, BioVFMForMaskedAutoencoding, BioVFMImageProcessor, BioVFMModel
from biovfm_hf.conversion.command import ConvertOptions, convert

SIDE = 32
SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": SIDE, "patch_size": 8}
DECODER = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 4}
ROOT = Path(__file__).resolve().parents[2]

# what `evaluate.load` finds offline, by the folder's name
METRIC = """import datasets
import evaluate
import numpy


class Metric(evaluate.Metric):
    def _info(self):
        kind = {kind}
        features = datasets.Features({{"predictions": kind, "references": kind}})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references, **options):
        hits = [numpy.mean(numpy.asarray(p) == numpy.asarray(r)) for p, r in zip(predictions, references)]
        return {result}
"""
METRICS = {
    "accuracy": ('datasets.Value("int64")', '{"accuracy": float(numpy.mean(hits))}'),
    "mean_iou": (
        "datasets.Sequence(datasets.Sequence(datasets.Value('int64')))",
        '{"mean_accuracy": float(numpy.mean(hits)), "per_category_accuracy": numpy.zeros(0), '
        '"per_category_iou": numpy.zeros(0)}',
    ),
}


@dataclass(frozen=True)
class Example:
    """A script, its words for our model folder, and the control that takes the folder's place."""

    script: str
    model: str
    control: str
    words: str


TRAINER = (
    "--do_train --do_eval --num_train_epochs 2 --per_device_train_batch_size 4 --per_device_eval_batch_size 4 "
    "--remove_unused_columns False --report_to none --use_cpu --learning_rate 1e-3 --save_strategy no"
)
EXAMPLES = [
    Example("run_image_classification.py", "dino", "vit", f"--train_dir pictures {TRAINER} --ignore_mismatched_sizes"),
    Example(
        "run_image_classification_no_trainer.py",
        "dino",
        "vit",
        "--dataset_name pictures --num_train_epochs 2 --per_device_train_batch_size 4 --ignore_mismatched_sizes",
    ),
    Example("run_mae.py", "dino-mae", "vit_mae", f"--dataset_name scans --base_learning_rate 1e-3 {TRAINER}"),
    Example("run_mim.py", "dino", "vit", f"--dataset_name scans --mask_patch_size 16 {TRAINER}"),
    Example("run_semantic_segmentation.py", "dino", "segformer", f"--dataset_name peers/maps {TRAINER}"),
    Example(
        "run_semantic_segmentation_no_trainer.py",
        "dino",
        "segformer",
        "--dataset_name peers/maps --num_train_epochs 2 --per_device_train_batch_size 4",
    ),
]


def write_models(folder: Path) -> None:
    """Our folders, one of them converted to transformers' MAE, and the controls."""
    processor = BioVFMImageProcessor(size=SIDE)
    BioVFMModel(BioVFMConfig(**SIZES, use_mask_token=True)).save_pretrained(folder / "dino")
    processor.save_pretrained(folder / "dino")
    fields = {"family": "mae", **SIZES, **DECODER}
    BioVFMForMaskedAutoencoding(BioVFMConfig.from_size("vit-tiny", **fields)).save_pretrained(folder / "mae")
    processor.save_pretrained(folder / "mae")
    convert(ConvertOptions(source=str(folder / "mae"), to=folder / "dino-mae", format="vit_mae"))
    vit = transformers.ViTConfig(**SIZES, intermediate_size=96, encoder_stride=8)
    mae = transformers.ViTMAEConfig(**SIZES, **DECODER, intermediate_size=96, decoder_intermediate_size=64)
    segformer = transformers.SegformerConfig(depths=[1] * 4, hidden_sizes=[8, 16, 16, 16], decoder_hidden_size=16)
    size = {"height": SIDE, "width": SIDE}
    for name, model, its in (
        ("vit", transformers.ViTModel(vit), transformers.ViTImageProcessor),
        ("vit_mae", transformers.ViTMAEForPreTraining(mae), transformers.ViTImageProcessor),
        ("segformer", transformers.SegformerModel(segformer), transformers.SegformerImageProcessor),
    ):
        model.save_pretrained(folder / name)
        its(size=size).save_pretrained(folder / name)


def write_data(folder: Path) -> None:
    """Dark and bright pictures in two folders, the same as a dataset, and with maps of two classes."""
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 120, (SIDE, SIDE, 3), np.uint8) + np.uint8(120 * (n % 2)) for n in range(16)]
    for number, picture in enumerate(pictures):
        place = folder / "pictures" / ("bright" if number % 2 else "dark")
        place.mkdir(parents=True, exist_ok=True)
        Pictures.fromarray(picture).save(place / f"{number}.png")
        (folder / "pets").mkdir(exist_ok=True)
        Pictures.fromarray(picture).save(folder / "pets" / f"{place.name}_{number}.jpg")
    images = [Pictures.fromarray(picture) for picture in pictures]
    maps = [Pictures.fromarray((picture[..., 0] > 120).astype(np.uint8)) for picture in pictures]
    for name, columns in (("scans", {"image": images}), ("peers/maps", {"image": images, "label": maps})):
        (folder / name).mkdir(parents=True)
        rows = Dataset.from_dict(columns, Features(dict.fromkeys(columns, Image())))
        rows.to_parquet(folder / name / "train-00000-of-00001.parquet")
    snapshot = folder / "hub" / "datasets--peers--maps"  # as if it had been downloaded
    (snapshot / "snapshots" / "0").mkdir(parents=True)
    (snapshot / "refs").mkdir()
    (snapshot / "refs" / "main").write_text("0")
    (snapshot / "snapshots" / "0" / "id2label.json").write_text(json.dumps({0: "dark", 1: "bright"}))
    for name, (kind, result) in METRICS.items():
        (folder / name).mkdir()
        (folder / name / f"{name}.py").write_text(METRIC.format(kind=kind, result=result))


# accelerate's example makes a model of timm's; ours stands in for it, with what the script asks of such a model
STAND_IN = """
import timm, torch, transformers
class StandIn(torch.nn.Module):
    default_cfg = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    def __init__(self, name, pretrained, num_classes):
        super().__init__()
        self.model = transformers.AutoModelForImageClassification.from_pretrained("MODEL", num_labels=num_classes)
    def get_classifier(self):
        return self.model.classifier
    def forward(self, pixels):
        return self.model(pixels).logits
timm.create_model = StandIn
"""


def run_accelerates(script: Path, model: str, folder: Path) -> str:
    """Run `cv_example.py`, with `model` in the place of timm's."""
    program = STAND_IN.replace("MODEL", model) + f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
    return execute(f"import biovfm_hf\n{program}", ["--data_dir", "pets", "--cpu"], folder)


def run(script: Path, model: str, words: str, folder: Path) -> str:
    """Run one of transformers' scripts on a model folder."""
    program = f"import biovfm_hf, runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
    out = str(folder / f"out-{script.stem}-{model}")
    return execute(program, ["--model_name_or_path", model, "--output_dir", out, *words.split()], folder)


def execute(program: str, words: list[str], folder: Path) -> str:
    """Run a program offline; say what it reported, or its last line where it failed."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        "HF_HUB_CACHE": str(folder / "hub"), "HF_DATASETS_CACHE": str(folder / "datasets"),
        "HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "1",
    }  # fmt: skip
    command = [sys.executable, "-W", "ignore", "-c", program, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    output = done.stdout + done.stderr
    if done.returncode:
        lines = [line for line in output.splitlines() if line.strip()]
        return f"FAILED: {lines[-1][:200]}"
    figures = re.findall(r"(eval_loss|train_loss|accuracy|epoch \d+)\W+([\d.]+)", output)
    return f"done ({', '.join(f'{name} {value}' for name, value in figures[-3:])})"


def main() -> int:
    folder = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("BIOVFM_EXAMPLES")
    if not folder or not Path(folder).is_dir():
        print("no folder of example scripts is given; they did not run")
        return 0
    scripts = Path(folder).resolve()
    torch.manual_seed(0)
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_models(work)
        write_data(work)
        for example in EXAMPLES:
            if not (scripts / example.script).is_file():
                print(f"{example.script}: not in {scripts}")
                continue
            ours = run(scripts / example.script, example.model, example.words, work)
            control = run(scripts / example.script, example.control, example.words, work)
            failed += ours.startswith("FAILED") and not control.startswith("FAILED")
            print(f"{example.script}\n  ours:    {ours}\n  control: {control}", flush=True)
        if (scripts / "cv_example.py").is_file():
            ours = run_accelerates(scripts / "cv_example.py", "dino", work)
            failed += ours.startswith("FAILED")
            print(f"cv_example.py\n  ours:    {ours}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
