"""Which packages a wheel carries: pyproject.toml says everything else.

The four rooms are folders of the checkout, so that `accelerate launch training/pretrain_dino.py`, tests, type checker
and editors find them without installing anything. A wheel carries them inside `biovfm_hf` (as `biovfm_hf.training`
and so on), so that no top-level package named `training` or `evaluation` lands in anybody's site-packages. The types
of the front door name classes of the rooms by their place in the checkout, which a wheel changes too.
"""

import re
import tempfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOMS = ("dataset_builder", "training", "evaluation", "model_cards")
DATA = ["**/*.yaml", "**/*.json", "**/*.csv", "**/*.npz", "**/*.md", "**/*.j2", "**/*.css", "py.typed", "*.pyi"]


class BuildModules(build_py):
    """Copies the modules, with the types of the front door as they are in a wheel."""

    def run(self) -> None:
        """Copy all, then rewrite the imports of `biovfm_hf/__init__.pyi`; an editable install copies nothing."""
        super().run()
        if not self.editable_mode:
            stub = Path(self.build_lib, "biovfm_hf", "__init__.pyi")
            text = re.sub(rf"^from ({'|'.join(ROOMS)})\b", r"from .\1", stub.read_text("utf-8"), flags=re.MULTILINE)
            stub.write_text(text, "utf-8")


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
        cmdclass={"build_py": BuildModules},
        options={"build": {"build_base": build_folder}},
    )
