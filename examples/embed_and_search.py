# %% [markdown]
# # Embed your images and search them
#
# An encoder turns each image into a vector; images that look alike have vectors that point alike. Change the two
# names below to your folder and to any encoder: a folder, a Hub repository, or a short name such as `dinov2-s`.

# %%
import os
from pathlib import Path

import numpy as np
from PIL import Image

import biovfm_hf

IMAGES = Path(os.environ.get("IMAGES", "my-images"))
MODEL = os.environ.get("MODEL", "dinov2-s")

# %% [markdown]
# No images at hand? These lines draw some: bright discs of five sizes on noise.

# %%
if not IMAGES.is_dir():
    IMAGES.mkdir(parents=True)
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:96, :96]
    for number in range(40):
        inside = (rows - 48) ** 2 + (columns - 48) ** 2 < (6 * (number % 5 + 1)) ** 2
        noise = random.integers(0, 60, (96, 96))
        Image.fromarray((noise + 150 * inside).astype(np.uint8)).save(IMAGES / f"disc{number % 5}-{number:02}.png")

# %% [markdown]
# Embedding writes one row for each image. Unreadable files are left out and listed with the reason.

# %%
features = biovfm_hf.embed(model=MODEL, images=str(IMAGES), out="features.parquet")
print(f"{len(features.names)} images, {features.vectors.shape[1]} numbers for each; left out: {features.left_out}")

# %% [markdown]
# The example itself comes first, then its neighbours. `alike/` has the answer as JSON, and a contact sheet of the
# pictures.

# %%
example = sorted(IMAGES.iterdir())[3]
(answer,) = biovfm_hf.search(
    model=MODEL, features="features.parquet", query=example, images=IMAGES, out="alike", top=6
)
for neighbour in answer["found"]:
    print(f"{neighbour['similarity']:.3f}  {neighbour['id']}")
