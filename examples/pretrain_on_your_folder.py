# %% [markdown]
# # Pretrain on a folder of images
#
# No labels are needed. A folder of PNG, JPEG, TIFF, DICOM or NIfTI files is enough; a dataset folder from
# `biovfm_hf.build` is better, because duplicates and empty pictures are gone.

# %%
import os
from pathlib import Path

import numpy as np
from PIL import Image

import biovfm_hf

IMAGES = Path(os.environ.get("IMAGES", "my-images"))
STEPS = int(os.environ.get("STEPS", "400"))

# %% [markdown]
# No images at hand? These lines draw some.

# %%
if not IMAGES.is_dir():
    IMAGES.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(64):
        coarse = Image.fromarray(random.integers(0, 256, (6, 6), dtype=np.uint8))
        coarse.resize((96, 96), Image.Resampling.BICUBIC).save(IMAGES / f"{number:02}.png")

# %% [markdown]
# First look at parameters, memory and hours of this configuration, without training.

# %%
print(biovfm_hf.pretrain("mae_smoke", data=IMAGES, overrides={"steps": STEPS}, dry_run=True))

# %% [markdown]
# Then train. `mae_smoke` is small enough for a CPU; the folder `training/configs/` has every size for both methods,
# and `overrides` changes any of their keys. After a stop or kill, the same call continues.

# %%
changes = {"steps": STEPS, "batch.size": 16, "run.checkpoint_every": 100}
model_folder = biovfm_hf.pretrain("mae_smoke", data=IMAGES, out="run", overrides=changes)

# %% [markdown]
# The result is a model folder for transformers, with its image processor.

# %%
import torch
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained(model_folder)
model = AutoModel.from_pretrained(model_folder)
image = Image.open(sorted(IMAGES.iterdir())[0])
with torch.no_grad():
    tokens = model(**processor(image, return_tensors="pt")).last_hidden_state
print(f"{tokens.shape[1] - 1} patch tokens of width {tokens.shape[2]}, after the class token")
