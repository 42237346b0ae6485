# %% [markdown]
# # Add a source of your own
#
# A source is one YAML record: what the files are, which of them are for training, and how to find the patient in a
# path. The builder reads it by its path; nothing is registered.

# %%
import os
from pathlib import Path

import numpy as np
from PIL import Image

import biovfm_hf

RAW = Path(os.environ.get("RAW", "raw"))

# %% [markdown]
# Here is a small source as a hospital might store it: `raw/clinic/PATIENT/VIEW.png`. Two patients are for testing, one
# picture is empty, and one was stored twice.

# %%
random = np.random.default_rng(0)
for patient in range(8):
    folder = RAW / "clinic" / f"{'test' if patient > 5 else 'train'}-p{patient}"
    folder.mkdir(parents=True, exist_ok=True)
    for view in ("left", "right"):
        coarse = Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8))
        coarse.resize((128, 96), Image.Resampling.BICUBIC).save(folder / f"{view}.png")
Image.new("L", (128, 96)).save(RAW / "clinic" / "train-p0" / "empty.png")
(RAW / "clinic" / "train-p1" / "copy.png").write_bytes((RAW / "clinic" / "train-p1" / "left.png").read_bytes())

# %% [markdown]
# This is the record. `dataset_builder/catalog/source.py` describes every field. A mistake gives an error with the
# file, the key and the nearest word.

# %%
RECORD = """\
id: clinic
name: Breast ultrasound of our clinic
modality: Ultrasound
anatomies: [breast]
items: ["*/*.png"]
train: {path: "^train-"}
subject: {path: "(p[0-9]+)/"}
"""
Path("clinic.yaml").write_text(RECORD)

# %% [markdown]
# Build it in this process. `manifest.parquet` lists each picture: kept, or why not.

# %%
summary = biovfm_hf.build(raw=RAW, out="dataset", sources="clinic.yaml", workers=0)
print(summary["outcomes"])

# %%
from datasets import load_dataset

rows = load_dataset("dataset", "full", split="train")
print(len(rows), "rows;", len(set(rows["subject"])), "patients, as salted hashes; size", rows[0]["image"].size)
