# %% [markdown]
# # Compare two encoders honestly
#
# Overlapping intervals do not show that two models are equal, and separate intervals are not a test either, because
# both models saw the same test images. So compare them image by image, on the same resamples, and correct for the
# number of comparisons. `biovfm_hf.probe` does this for every pair of models.

# %%
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

import biovfm_hf

MODEL = os.environ.get("MODEL", "dinov2-s")
OTHER_MODEL = os.environ.get("OTHER_MODEL", "dinov2-b")
TASK = Path(os.environ.get("TASK", "my-task"))

# %% [markdown]
# No task at hand? These lines make one as a folder `{train,val,test}/{class}/IMAGE`.

# %%
if not TASK.exists():
    random = np.random.default_rng(0)
    for split, count in {"train": 30, "val": 15, "test": 30}.items():
        for label, waves in {"coarse": 4, "fine": 6}.items():
            folder = TASK / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                small = Image.fromarray(random.integers(0, 256, (waves, waves), dtype=np.uint8))
                small.resize((96, 96), Image.Resampling.BICUBIC).save(folder / f"{number:02}.png")

# %% [markdown]
# Three seeds show how much the probe itself varies. Every comparison needs a model without pretraining: its score
# shows how easy the task is.

# %%
models = [f"first={MODEL}", f"second={OTHER_MODEL}"]
records = biovfm_hf.probe(model=models, tasks=TASK, method="knn", seed=(0, 1, 2), out="comparison")

# %% [markdown]
# Print each difference, its interval, and its p after Holm's correction. If the interval includes 0, say only that
# these images do not show a difference.

# %%
for row in json.loads(Path("comparison/comparisons.json").read_text()):
    if row["metric"] == "auc":
        interval = f"{100 * row['difference']:+.1f} ({100 * row['low']:+.1f}, {100 * row['high']:+.1f})"
        verdict = "no difference shown" if row["low"] <= 0 <= row["high"] else "a difference"
        print(f"{row['model_a']} minus {row['model_b']}: {interval} points of AUC: {verdict}")
