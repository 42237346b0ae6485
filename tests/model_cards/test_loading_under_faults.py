"""Loading by name while the Hub falters: transformers and datasets as users run them, in a clean process."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from model_cards.card import command as card

from .conftest import BIOVFM

LOAD = """
import json, biovfm_hf, datasets
from transformers import AutoImageProcessor, AutoModel
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
model = AutoModel.from_pretrained("owner/tiny")
size = AutoImageProcessor.from_pretrained("owner/tiny").size
rows = [row["path"] for row in datasets.load_dataset("owner/images", "full", split="train", streaming=True)]
print("ANSWER", json.dumps([float(sum(p.abs().sum() for p in model.parameters())), len(rows), len(set(rows))]))
"""
HEADER = "license: other\nconfigs:\n- config_name: full\n  data_files: data/*.parquet\n"


def test_weights_and_rows_arrive_whole(hub, client, saved_model, make, tmp_path):
    """Cut, slow and dropped answers and 429. (transformers passes a 503 on weights to the user, who tries again.)"""
    model, data = shutil.copytree(saved_model, tmp_path / "tiny"), make.dataset(tmp_path / "images")
    card.main([str(model)])
    readme = data / "README.md"
    readme.write_text(readme.read_text().replace("license: other\n", HEADER))
    for folder, name in ((model, "owner/tiny"), (data, "owner/images")):
        client(BIOVFM, "push", folder, name)
    hub.fail("GET", r"/resolve/.*safetensors", cut=True)
    hub.fail("GET", r"/resolve/.*parquet", status=429)
    hub.fail("GET", r"/resolve/.*parquet", drop=True, skip=1)
    hub.fail("GET", r"/resolve/.*parquet", seconds=2, skip=2)
    weights, rows, distinct = json.loads(client(LOAD).stdout.split("ANSWER")[1])
    assert weights == pytest.approx(sum(np.abs(w).sum() for w in load_file(model / "model.safetensors").values()))
    assert rows == distinct == 90 and all(fault.times == 0 for fault in hub.faults)
