# %% [markdown]
# # Probe an encoder on your CSV
#
# A probe measures how much a frozen encoder knows about your labels. The task is a CSV file with the columns `image`,
# `label`, `split` (train, val, test) and, if patients have several images, `subject`.

# %%
import os
from pathlib import Path

import numpy as np
from PIL import Image

import biovfm_hf

TASK = Path(os.environ.get("TASK", "my-task.csv"))
MODEL = os.environ.get("MODEL", "dinov2-s")

# %% [markdown]
# No task at hand? These lines make one: small and large discs, two images of each of 60 patients.

# %%
if not TASK.is_file():
    Path("discs").mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:96, :96]
    lines = ["image,label,split,subject"]
    for patient in range(60):
        split = ("train", "train", "val", "test")[patient % 4]
        for image in range(2):
            large = patient // 4 % 2
            radius, height = random.normal(14 + 8 * large, 4), random.integers(40, 56)
            inside = (rows - height) ** 2 + (columns - 48) ** 2 < radius**2
            path = Path("discs", f"{patient:02}-{image}.png").resolve()
            Image.fromarray((random.integers(0, 120, (96, 96)) + 100 * inside).astype(np.uint8)).save(path)
            lines.append(f"{path},{'large' if large else 'small'},{split},patient{patient:02}")
    TASK.write_text("\n".join(lines))

# %% [markdown]
# `knn` takes seconds, `linear` is the usual choice, `segment` is for tasks with masks. The 95 % intervals resample
# whole patients. Features are cached, so a second method on the same model costs little.

# %%
records = biovfm_hf.probe(model=MODEL, tasks=TASK, method="knn,linear", out="my-results")
for record in records:
    auc = record.intervals["auc"]
    print(f"{record.method:<8} AUC {auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f})")

# %% [markdown]
# `my-results` has `results.json`, a table in three forms, figures, and the test scores of each record. Scores can be
# evaluated again, for instance with another number of resamples.

# %%
again = biovfm_hf.score(Path("my-results") / records[0].scores, task="binary-class", resamples=200)
print({name: round(metric["value"], 3) for name, metric in again["metrics"].items()})
