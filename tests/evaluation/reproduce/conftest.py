"""Sets of both papers in miniature, tiny random encoders under the recipes' names, and one results folder for all."""

import contextlib
import io
from pathlib import Path
from typing import NamedTuple

import pytest

from biovfm_hf.errors import UserError
from evaluation.analysis.scaling import figures
from evaluation.reproduce import scores
from evaluation.reproduce.bench import Bench
from evaluation.reproduce.command import reproduce
from evaluation.reproduce.numbers import Outcome
from evaluation.reproduce.options import ReproduceOptions
from evaluation.reproduce.recipe import find_recipe
from evaluation.tasks import GROUPS, read_records
from tests.evaluation.conftest import save_tiny_model
from tests.evaluation.miniatures import WRITERS, write_medmnist

# Two rows of every table, and sizes enough for a slope.
TINY = ("dinov2-l", "sam-l", "biomedclip", "BioVFM-D-vit-tiny", "BioVFM-M-vit-small", "BioVFM-D-BioVFM-US", "mae-l")
SECOND = ("dinov2-g", "dinov2-l-1024", "BioVFM", "BioVFM-D-vit-small", "in21k-vit-l")
LACKING = ("amos_ct", "msd_heart")  # sets that nobody has fetched yet
SETTINGS = {"epochs": 1, "views": 0, "image_size": 32, "draws": 2}


class Workplace(NamedTuple):
    """The folder of the miniatures, and the encoders that the recipes' names load."""

    data: Path
    out: Path
    models: dict[str, str]

    def given(self, item: str) -> dict[str, str]:
        """The models to load for an item; only two for few-shot curves, which train most."""
        few = ("dinov2-l", "unet") if item == "radiology-figure5" else self.models
        return {name: self.models[name] for name in few}

    def options(self, item: str, **changed) -> ReproduceOptions:
        """The options for an item, with the smallest settings of its methods."""
        known = {name for cell in find_recipe(item).cells.values() for name in Bench.settings_of(cell)}
        own = {
            "data": self.data, "out": self.out, "size": 28, "resamples": 20, "device": "cpu",
            "model": [f"{name}={source}" for name, source in self.given(item).items()],
            "setting": [f"{name}={value}" for name, value in SETTINGS.items() if name in known],
        }  # fmt: skip
        return ReproduceOptions(items=[item], **own | changed)

    def make(self, item: str, **changed) -> tuple[Outcome, str]:
        """The outcome of an item and the output on the screen."""
        screen = io.StringIO()
        with contextlib.redirect_stdout(screen):
            (outcome,) = reproduce(self.options(item, **changed))
        return outcome, screen.getvalue()


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory) -> Workplace:
    root = tmp_path_factory.mktemp("papers")
    for name in set(GROUPS["radiology"]) - set(LACKING):
        WRITERS[name](root / "data" / name)
    for name in GROUPS["medmnist"]:
        write_medmnist(root / "data", read_records()[name])
    folders = {
        "tiny": save_tiny_model(root / "tiny", num_hidden_layers=5),
        "second": save_tiny_model(root / "second", seed=1, registers=2, num_hidden_layers=5),
    }
    models = {name: str(folders["tiny"]) for name in TINY} | {name: str(folders["second"]) for name in SECOND}
    models |= dict.fromkeys(("unet", "transunet"), "scratch:unet-small")
    return Workplace(root / "data", root / "out", models)


@pytest.fixture
def workplace(miniatures, monkeypatch) -> Workplace:
    """The miniatures, where other models have no weights, tests take few resamples, and scaling draws no picture."""
    real = Bench.model

    def model(bench: Bench, name: str, recipe) -> str:
        if name not in bench.options.sources:
            raise UserError("no weights in this test")
        return real(bench, name, recipe)

    monkeypatch.setattr(Bench, "model", model)
    monkeypatch.setattr(scores, "enough_resamples", lambda tests, resamples: resamples)
    monkeypatch.setattr(figures, "write_figures", lambda *_: [])
    return miniatures
