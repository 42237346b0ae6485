"""Tiny dataset, run, model and results folders in the formats of the other stages."""

import io
import json
import os
import random
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from evaluation.statistics.metrics import hub_names, titles
from tests.hub_server.server import HubServer
from tests.preloaded import with_torch

ROOT = Path(__file__).parents[2]
BIOVFM = "import sys; from biovfm_hf.cli import main; sys.exit(main(sys.argv[1:]))"
IMAGES = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})}


def encoded_image(shade: int, size: int = 48) -> bytes:
    from PIL import Image

    picture = Image.new("L", (size, size))
    picture.putdata([(x * shade + y * 3) % 256 for y in range(size) for x in range(size)])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def write_dataset(folder: Path, hostile: str = "") -> Path:
    """90 images of three sources and a manifest with two kinds of drops."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    layout = [
        ("chest-a", "X-Ray", "chest", 40),
        ("oct-b", "OCT", "retina", 30),
        ("us-c" + hostile, "Ultrasound", None, 20),
    ]
    for source, modality, anatomy, amount in layout:
        for index in range(amount):
            name = f"{source}/{index}{hostile}.png"
            rows.append(
                {
                    "image": {"bytes": encoded_image(len(rows) % 17 + 1), "path": name},
                    "source": source,
                    "modality": modality,
                    "anatomy": anatomy,
                    "subject": f"{source}-{index // 2}",
                    "view": "2d",
                    "index": None,
                    "path": name,
                    "width": 48,
                    "height": 48,
                    "sha256": f"{len(rows):064x}",
                    "phash": f"{len(rows):016x}",
                }
            )
    (folder / "data").mkdir(parents=True)
    for part, start in enumerate(range(0, len(rows), 50)):
        table = pa.Table.from_pylist(rows[start : start + 50]).replace_schema_metadata(IMAGES)
        pq.write_table(table, folder / "data" / f"train-{part:05d}.parquet", row_group_size=16)
    manifest = [{"source": row["source"], "path": row["path"], "outcome": "kept"} for row in rows]
    manifest += [{"source": "chest-a", "path": f"x{n}", "outcome": "nearly uniform"} for n in range(7)]
    manifest += [
        {"source": "oct-b", "path": f"y{n}", "outcome": "duplicate of a benchmark test image"} for n in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(manifest), folder / "manifest.parquet")
    guard = {
        "options": {"leakage": "strict"},
        "benchmark_images": 1200,
        "benchmark_matches": {"oct-b in oct-bench": 3},
    }
    overlap = {
        "source": "oct-b",
        "benchmark": "oct-bench",
        "relation": "same_images",
        "note": "p. 4",
        "verified": False,
    }
    licences = {"chest-a": "CC0-1.0", "oct-b": "CC-BY-NC-4.0", "us-c": None}
    (folder / "build.json").write_text(json.dumps({**guard, "licences": licences, "overlaps": [overlap]}))
    (folder / "README.md").write_text("---\nlicense: other\n---\n# Data\n")
    return folder


def write_run(folder: Path, steps: int = 300, seed: int = 0, name: str = "loss") -> Path:
    """A DINOv2-like log with a falling loss."""
    noise = random.Random(seed)
    folder.mkdir(parents=True)
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, steps + 1):
            falling = 8 * 0.99**step + 3 + noise.gauss(0, 0.1)
            record = {
                "step": step,
                "images": step * 64,
                name: falling,
                "dino_loss": falling * 0.6,
                "ibot_loss": falling * 0.4,
                "lr": 1e-4 * step / steps,
                "momentum": 0.99 + 0.01 * step / steps,
                "grad_norm": 1 + noise.random(),
                "images_per_second": 128.0,
                "rankme": 40 + 10 * step / steps,
                "teacher_entropy": 5 - step / steps,
            }
            file.write(json.dumps(record) + "\n")
    (folder / "config.yaml").write_text(
        "data:\n  path: /home/somebody/secret/data\nbatch:\n  size: 64\n"
        "augment:\n  global_count: 2\n  global_size: 224\n  local_count: 8\n  local_size: 96\n"
    )
    (folder / "crops.png").write_bytes(encoded_image(5, 256))
    return folder


def write_model(folder: Path) -> Path:
    """A tiny model and processor, saved with save_pretrained."""
    import torch

    from biovfm_hf import BioVFMConfig, BioVFMImageProcessor, BioVFMModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    config = BioVFMConfig(**sizes, layerscale_value=1.0)  # from 1e-5 the class token would hardly see the image
    BioVFMModel(config).save_pretrained(folder)
    BioVFMImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def results_rows(
    model: str, tasks: list[str], method: str = "linear", protocol: str = "fast", shift: float = 0.0
) -> list:
    rows = []
    for number, task in enumerate(tasks):
        auc = 0.8 + 0.01 * number + shift
        metrics = {
            metric: {"value": auc - lower, "low": auc - lower - 0.03, "high": auc - lower + 0.03}
            for metric, lower in (
                ("auc", 0),
                ("accuracy", 0.02),
                ("balanced_accuracy", 0.05),
                ("mcc", 0.2),
                ("f1_macro", 0.1),
            )
        }
        rows.append(
            {
                "model": model,
                "revision": "",
                "task": task,
                "method": method,
                "protocol": protocol,
                "seed": 0,
                "kind": "multi-class",
                "primary": "auc",
                "titles": titles(metrics),
                "hub_names": hub_names(metrics),
                "metrics": metrics,
                "n_train": 1000 + number,
                "n_test": 200,
                "seconds": 1.5,
            }
        )
    return rows


def write_results(folder: Path, rows: list, comparisons: list | None = None, figure: str = "pca_map") -> Path:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(rows))
    if comparisons is not None:
        (folder / "comparisons.json").write_text(json.dumps(comparisons))
    (folder / "figures").mkdir()
    (folder / "figures" / f"{figure}.png").write_bytes(encoded_image(7, 300))
    (folder / "figures" / f"{figure}.txt").write_text("PCA map of four images: organs get one colour each")
    return folder


def write_scaling(folder: Path) -> Path:
    folder.mkdir(parents=True)
    summary = {
        "slopes": {"BioVFM-D": {"ChestMNIST": 0.0224, "PathMNIST": 0.0017}, "BioVFM-M": {"ChestMNIST": 0.0452}},
        "mean_slopes": {"BioVFM-D": 0.0088, "BioVFM-M": 0.0191},
        "correlations": {"BioVFM-D": {"num_samples": 0.51}},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "slopes.csv").write_text("family,task,slope\nBioVFM-D,ChestMNIST,0.0224\n")
    (folder / "correlations.csv").write_text("property,BioVFM-D,BioVFM-M\nnum_samples,0.510,0.327\n")
    (folder / "slopes.png").write_bytes(encoded_image(3, 200))
    return folder


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The writers above, each of one kind of folder."""
    return SimpleNamespace(
        dataset=write_dataset,
        run=write_run,
        model=write_model,
        rows=results_rows,
        results=write_results,
        scaling=write_scaling,
        image=encoded_image,
    )


@pytest.fixture(scope="session")
def dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("cards") / "data-folder")


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("cards") / "run-dino")


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("cards") / "tiny-encoder")


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def hub_environment(hub, tmp_path):
    """The environment of a clean process that talks to `hub` as its owner."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return environment | {
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_TOKEN": hub.token,
    }


@pytest.fixture
def interpreter():
    """What runs the code of `client`."""
    return with_torch()


@pytest.fixture
def client(hub_environment, interpreter, tmp_path):
    """Run Python code with words in a clean process that talks to `hub`; `extra` adds to its environment."""

    def run(code, *words, check=True, **extra):
        done = subprocess.run(
            [interpreter, "-c", code, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            env=hub_environment | extra,
            cwd=tmp_path,
            timeout=240,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return run
