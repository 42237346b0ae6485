"""Which packages a wheel carries: pyproject.toml says everything else.

The four rooms are folders of the checkout, so that `accelerate launch training/pretrain_dino.py`, tests, type checker
and editors find them without installing anything. A wheel carries them inside `biovfm_hf` (as `biovfm_hf.training`
and so on), so that no top-level package named `training` or `evaluation` lands in anybody's site-packages.
"""

import tempfile

from setuptools import find_packages, setup

ROOMS = ("dataset_builder", "training", "evaluation", "model_cards")
DATA = ["**/*.yaml", "**/*.json", "**/*.csv", "**/*.npz", "**/*.md", "**/*.j2", "**/*.css", "py.typed", "*.pyi"]

packages = find_packages(include=["biovfm_hf", "biovfm_hf.*"])
for room in ROOMS:
    packages += [f"biovfm_hf.{name}" for name in find_packages(include=[room, f"{room}.*"])]

# a build folder that stayed from an earlier version would leak removed modules into the wheel
with tempfile.TemporaryDirectory(prefix="biovfm-build-") as build_folder:
    setup(
        packages=packages,
        package_dir={f"biovfm_hf.{room}": room for room in ROOMS},
        package_data={"": DATA},
        include_package_data=False,
        options={"build": {"build_base": build_folder}},
    )
