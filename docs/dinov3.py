"""The demonstrations of docs/dinov3.md on real images: python docs/dinov3.py REAL OUT [--only distil,resume,anchor]

REAL holds the sets of `open_questions.py` beside this file. Models train on its pool. OUT receives everything. After a
stop or kill, the same command continues.
"""

import argparse
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from open_questions import write_pool
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from biovfm_hf.cli import main as biovfm

TASKS = "busi,pneumoniamnist"
STEPS = {"teacher": 250, "student": 200, "resume": 24, "first": 150, "second": 120}
COMMON = ["augment.global_size=64", "model.num_hidden_layers=4", "model.patch_size=8", "data.workers=0",
          "data.cache_mib=1024", "run.device=cpu", "run.precision=bf16", "run.checkpoint_every=60"]  # fmt: skip
EVENLY = ["data.weight_by=modality"]
LARGE = ["model.hidden_size=192", "model.num_attention_heads=3"]
SMALL = ["model.hidden_size=96", "model.num_attention_heads=3", "batch.size=16", "optim.base_lr=0.001",
         "optim.lr_rule=none"]  # fmt: skip
RESUMED = ["augment.global_size=64", "augment.local_size=32", "augment.local_count=2", "batch.size=8",
           "run.device=cpu", "dino.prototypes=256", "dino.ibot_prototypes=256", "dino.hidden=128",
           "dino.ibot_hidden=128", "optim.warmup_steps=4", "data.workers=0", "run.log_every=1",
           "run.checkpoint_every=5", "watch.every=0"]  # fmt: skip
PATCHES = ["augment.global_size=64", "augment.local_size=32", "augment.local_count=2", "model.patch_size=8",
           "dino.prototypes=256", "dino.hidden=128", "dino.bottleneck=64", "optim.lr_rule=none", "batch.size=16",
           "data.workers=0", "data.cache_mib=1024", "run.device=cpu", "run.checkpoint_every=1000", "watch.dense=true",
           "watch.images=64"]  # fmt: skip
TINY = ["model.hidden_size=64", "model.num_attention_heads=2", "model.num_hidden_layers=3"]
# what makes patch tokens decay: the class tokens' loss alone, at three times the learning rate
DEGRADING = ["dino.ibot_weight=0", "dino.koleo_weight=0", "optim.base_lr=0.01"]
WEIGHTS = (2.0, 10.0)
EVERY = 15  # steps between two measurements of the patches
MEASURES = {
    "dense_locality": "locality",
    "dense_patch_cosine": "cosine of two patches",
    "dense_dice": "Dice of vessels",
}


def pretrain(out: Path, config: str, pool: Path, arguments: list[str]) -> Path:
    """Train a run to its end, and return its folder; a finished run stays as it is."""
    if biovfm(["pretrain", config, "--data", str(pool), "--out", str(out), *arguments]):
        raise SystemExit(1)
    return out


def mae(out: Path, pool: Path, arguments: list[str]) -> Path:
    """Train a run with MAE, and return its folder."""
    return pretrain(out, "mae_small_data", pool, [*COMMON, *EVENLY, *arguments])


def train_teacher(out: Path, pool: Path) -> Path:
    """Train the larger encoder, and return its folder."""
    return mae(out / "teacher", pool, [*LARGE, "batch.size=64", f"steps={STEPS['teacher']}"])


def distil(real: Path, out: Path, pool: Path) -> None:
    """Compare a student of a larger encoder with the same architecture trained by MAE from scratch."""
    teacher, steps = train_teacher(out, pool), f"steps={STEPS['student']}"
    scratch = mae(out / "scratch", pool, [*SMALL, steps])
    arguments = [*COMMON, *EVENLY, *SMALL, steps, f"distill.teacher={teacher / 'model'}"]
    student = pretrain(out / "student", "distill_smoke", pool, arguments)
    models = {"student": student, "scratch": scratch, "teacher": teacher}
    arguments = [argument for name, run in models.items() for argument in ("--model", f"{name}={run / 'model'}")]
    arguments += ["--tasks", TASKS, "--data", str(real), "--method", "linear,knn", "--no-figures"]
    if biovfm(["probe", *arguments, "--out", str(out / "results")]):
        raise SystemExit(1)
    (out / "distil.md").write_text(scores(out / "results"))


def scores(results: Path) -> str:
    """A table of AUCs, and of the student's paired differences from the others."""
    lines = ["| task, probe | student | scratch | teacher |", "|---|---|---|---|"]
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in json.loads((results / "results.json").read_text()):
        cells.setdefault((row["task"], row["method"]), {})[row["model"]] = f"{row['metrics']['auc']['value']:.3f}"
    for row in json.loads((results / "comparisons.json").read_text()):
        pair = [row["model_a"], row["model_b"]]
        if row["metric"] == "auc" and "student" in pair:
            values = [row["difference"], row["low"], row["high"]]
            if pair.pop(pair.index("student")) != row["model_a"]:
                values = [-values[0], -values[2], -values[1]]
            points = [f"{100 * value:+.1f}" for value in values]
            difference = f"{points[0]} ({points[1]}, {points[2]}; p {row['p_holm']:.3f})"
            cells[row["task"], row["method"]][pair[0]] += f", student minus it {difference}"
    for (task, method), columns in cells.items():
        lines.append(f"| {task}, {method} | " + " | ".join(columns.values()) + " |")
    return "\n".join(lines) + "\n"


def resume(real: Path, out: Path, pool: Path) -> None:
    """Continue from a converted DINOv3 model, once whole and once killed in the middle, and compare the weights."""
    original, converted = out / "dinov3", out / "converted"
    if not converted.is_dir():
        torch.manual_seed(0)
        config = DINOv3ViTConfig(hidden_size=96, intermediate_size=384, num_hidden_layers=4, num_attention_heads=3,
                                 num_register_tokens=4, layerscale_value=1.0)  # fmt: skip
        DINOv3ViTModel(config).save_pretrained(original)
        if biovfm(["convert", str(original), "--to", str(converted)]):
            raise SystemExit(1)
    arguments = [*RESUMED, f"steps={STEPS['resume']}", f"model.init_from={converted}"]
    whole = pretrain(out / "whole", "dino_v3_continue", pool, arguments)
    killed = out / "killed"
    shutil.rmtree(killed, ignore_errors=True)
    kill_after(
        killed, STEPS["resume"] // 2, ["dino_v3_continue", "--data", str(pool), "--out", str(killed), *arguments]
    )
    pretrain(killed, "dino_v3_continue", pool, arguments)
    digests = [digest(run / "model" / "model.safetensors") for run in (whole, killed)]
    (out / "resume.md").write_text(f"whole {digests[0]}\nkilled {digests[1]}\n")
    if digests[0] != digests[1]:
        raise SystemExit(f"the killed run ended with other weights: {digests}")


def kill_after(run: Path, steps: int, arguments: list[str]) -> None:
    """Start a run, and kill it with SIGKILL once it has logged `steps` steps."""
    process = subprocess.Popen([sys.executable, "-m", "biovfm_hf.cli", "pretrain", *arguments])
    log = run / "metrics.jsonl"
    while process.poll() is None and not (log.is_file() and log.read_text().count("\n") >= steps):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise SystemExit(f"{run}: the run ended before it could be killed")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def anchor(real: Path, out: Path, pool: Path) -> None:
    """Run a second stage whose patch tokens decay, without and with Gram anchoring to the first, and plot both."""
    masks = write_masks(real / "rossa", out / "vessels")
    watched = [*PATCHES, *TINY, f"watch.masks={masks}", f"watch.every={EVERY}", f"run.log_every={EVERY}"]
    first = pretrain(out / "first", "dino_smoke", pool, [*watched, "optim.base_lr=0.003", f"steps={STEPS['first']}"])
    arguments = [*watched, *DEGRADING, f"steps={STEPS['second']}", f"model.init_from={first}"]
    runs = {"without": pretrain(out / "alone", "dino_smoke", pool, arguments)}
    for weight in WEIGHTS:
        gram = [f"gram.weight={weight}", f"gram.teacher={first}"]
        runs[f"gram.weight {weight:g}"] = pretrain(
            out / f"anchored{weight:g}", "dino_smoke", pool, [*arguments, *gram]
        )
    draw(runs, out / "anchor.png")


def write_masks(rossa: Path, out: Path) -> Path:
    """ROSSA's OCTA images and vessels as a folder of images and masks, 48 of each split."""
    for part, split in (("train_manual", "train"), ("test", "test")):
        for kind, name in (("image", "images"), ("label", "masks")):
            (out / split / name).mkdir(parents=True, exist_ok=True)
            for path in sorted(rossa.rglob(f"{part}/{kind}/*.png"))[:48]:
                shutil.copyfile(path, out / split / name / path.name)
    return out


def measured(run: Path, measure: str) -> tuple[list[int], list[float]]:
    """Steps and values of one of the monitored measures."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if measure in row], [row[measure] for row in rows if measure in row]


def draw(runs: dict[str, Path], target: Path) -> None:
    """Draw a panel for each measure, with a line for each run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, (measure, title) in zip(figure.subplots(1, len(MEASURES)), MEASURES.items(), strict=True):
        for label, run in runs.items():
            axes.plot(*measured(run, measure), label=label)
        axes.set(title=title, xlabel="step")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(target, dpi=110)


PARTS = {"distil": distil, "resume": resume, "anchor": anchor}


def main() -> None:
    """Run the parts named by `--only`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("real", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default=",".join(PARTS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pool = options.out / "pool"
    pool.mkdir(exist_ok=True)
    write_pool(options.real, pool)
    for part in options.only.split(","):
        PARTS[part](options.real, options.out, pool)


if __name__ == "__main__":
    main()
