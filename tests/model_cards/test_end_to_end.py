"""From raw pictures to the Hub and back, through the public commands and over HTTP; nothing is prepared by hand."""

import csv
import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.preloaded import python

from .conftest import BIOVFM, ROOT

RECORD = """
id: scans
name: Scans
modality: Ultrasound
anatomies: [breast]
items: ["**/*.png"]
train: all
subject: {path: '(p\\d+)/'}
licence: CC0-1.0
access: open
"""
TRAINING = [
    "steps=4",
    "model.num_hidden_layers=2",
    "model.hidden_size=32",
    "model.num_attention_heads=2",
    "augment.global_size=32",
    "augment.local_size=16",
    "augment.local_count=2",
    "batch.size=8",
    "dino.prototypes=32",
    "dino.hidden=16",
    "dino.bottleneck=8",
    "data.workers=0",
    "run.device=cpu",
    "run.log_every=1",
]

BY_NAME = """
import json
import biovfm_hf, datasets, yaml
from huggingface_hub import HfApi, ModelCard, hf_hub_download, parse_eval_result_entries
from transformers import AutoBackbone, AutoImageProcessor, AutoModel, pipeline

datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
model = AutoModel.from_pretrained("owner/vit-tiny", revision="v1").eval()
processor = AutoImageProcessor.from_pretrained("owner/vit-tiny")
backbone = AutoBackbone.from_pretrained("owner/vit-tiny")
rows = list(datasets.load_dataset("owner/images", "ultrasound", split="train", streaming=True))
image = rows[0]["image"].convert("RGB")
pixels = processor(image, return_tensors="pt")
board = open(hf_hub_download("owner/vit-tiny", ".eval_results/biovfm.yaml")).read()
image.save("image.png")
print("ANSWER", json.dumps({
    "class_token": model(**pixels).pooler_output[0].tolist(),
    "pipeline": pipeline("image-feature-extraction", model="owner/vit-tiny", pool=True)(image)[0],
    "map": list(backbone(**pixels).feature_maps[0].shape),
    "paths": [row["path"] for row in rows],
    "full": datasets.load_dataset("owner/images", split="train").num_rows,
    "records": json.load(open(hf_hub_download("owner/vit-tiny", "results/biovfm.json"))),
    "board": [[e.dataset_id, e.task_id, e.value] for e in parse_eval_result_entries(yaml.safe_load(board))],
    "card": [r.metric_value for r in ModelCard.load("owner/vit-tiny").data.eval_results if r.metric_type == "roc_auc"],
    "index": HfApi().model_info("owner/vit-tiny").card_data.eval_results[0].metric_value,
}))
"""

WITHOUT_THE_PACKAGE = """
import json, sys
sys.modules["biovfm_hf"] = None  # as if it were not installed
from PIL import Image
from transformers import AutoImageProcessor, AutoModel
words = {"trust_remote_code": True}
processor = AutoImageProcessor.from_pretrained("owner/vit-tiny", **words)
pixels = processor(Image.open("image.png"), return_tensors="pt")
print("ANSWER", json.dumps(AutoModel.from_pretrained("owner/vit-tiny", **words)(**pixels).pooler_output[0].tolist()))
"""


def write_raw(root: Path) -> tuple[Path, Path, Path]:
    """48 pictures of 12 subjects, blobs on speckle: (raw folder, source record, task as CSV: bright blob or dark)."""
    chance = np.random.default_rng(0)
    y, x = np.mgrid[:48, :56]
    rows = []
    for number in range(48):
        top, left, bright = *chance.integers(12, 36, 2), number // 2 % 2
        speckle = chance.normal(110, 25, (48, 56))
        speckle[(y - top) ** 2 + (x - left) ** 2 < 80] += 90 if bright else -90
        file = root / "raw" / "scans" / f"p{number // 4:03d}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(speckle.clip(0, 255).astype(np.uint8)).save(file)
        split = ("train", "train", "val", "test")[number // 4 % 4]
        rows.append([file, ("dark", "bright")[bright], split, file.parent.name])
    (root / "scans.yaml").write_text(RECORD)
    with (root / "blobs.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["image", "label", "split", "subject"], *rows])
    return root / "raw", root / "scans.yaml", root / "blobs.csv"


@pytest.fixture
def interpreter(hub_environment: dict[str, str]) -> str:
    """Ten commands in one environment: all but the first find their imports loaded."""
    return python(hub_environment)


def train(interpreter: str, data: Path, out: Path) -> None:
    words = ["--config", "dino_smoke", "--data", data, "--out", out, *TRAINING]
    launch = [interpreter, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    done = subprocess.run(
        [*launch, str(ROOT / "training" / "pretrain_dino.py"), *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(out.parent / "hf-training")},
        cwd=out.parent,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def card_of(hub, kind: str, name: str) -> str:
    return hub.repos[kind, name].at("main").files["README.md"].data.decode()


@pytest.mark.timeout(600)
def test_what_was_trained_is_found_by_name(hub, client, interpreter, tmp_path):
    raw, source, task = write_raw(tmp_path)
    data, run, results = tmp_path / "images", tmp_path / "run", tmp_path / "results"
    client(BIOVFM, "build", "--raw", raw, "--out", data, "--sources", source, "--size", 32, "--workers", 0)
    train(interpreter, data, run)
    client(BIOVFM, "probe", "--model", run / "model", "--tasks", task, "--out", results, "--resamples", 50)
    words = ["--results", results, "--run", run, "--dataset", data, "--dataset-id", "owner/images"]
    client(BIOVFM, "card", run / "model", *words, "--benchmark", "owner/benchmark", "--repo-id", "owner/vit-tiny")
    said = client(BIOVFM, "push", data, "owner/images").stdout
    said += client(BIOVFM, "push", run / "model", "owner/vit-tiny", "--tag", "v1").stdout
    assert said.count("all hashes agree") == 2 and hub.token not in said
    assert all(repo.private for repo in hub.repos.values())

    (measured,) = json.loads((results / "results.json").read_text())
    auc = measured["metrics"]["auc"]["value"]
    got = json.loads(client(BY_NAME).stdout.split("ANSWER")[1])
    assert got["pipeline"] == pytest.approx(got["class_token"], abs=1e-5) and got["map"] == [1, 32, 2, 2]
    build = json.loads((data / "build.json").read_text())
    assert len(got["paths"]) == got["full"] == build["kept"] > 40 and got["paths"][0] == "scans/p000/0.png"
    (record,) = got["records"]
    assert record["model"] == "owner/vit-tiny" and record["metrics"]["auc"]["value"] == auc
    assert got["board"] == [["owner/benchmark", "blobs", round(auc, 6)]] and got["card"] == [round(auc, 6)]
    assert got["index"] == round(measured["metrics"]["auc"]["value"], 6)
    alone = json.loads(client(WITHOUT_THE_PACKAGE).stdout.split("ANSWER")[1])
    assert alone == pytest.approx(got["class_token"], abs=1e-5)

    for kind, name in (("model", "owner/vit-tiny"), ("dataset", "owner/images")):
        usage = re.findall(r"```python\n(.*?)```", card_of(hub, kind, name), re.DOTALL)
        assert usage and all(name in block for block in usage)
        client("\n".join(usage))
    card = card_of(hub, "model", "owner/vit-tiny")
    assert "| scans | " in card and "CC0-1.0" in card and "Guard strict" in card
    assert str(tmp_path) not in card + json.dumps(got["records"])
