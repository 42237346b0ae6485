"""The report's section on training: the runs' settings side by side, and nothing of the machine that they ran on."""

from dataclasses import replace

import pytest

from biovfm_hf.cards.objective import Objective
from model_cards.inputs.run import RunSummary, summarise_run
from model_cards.report.material import Material
from model_cards.report.pictures import PictureStore
from model_cards.report.training import flattened, settings_rows, training_section


@pytest.fixture(scope="module")
def run(run_dir) -> RunSummary:
    return summarise_run(run_dir)


def test_settings_of_runs_stand_side_by_side(run):
    one = replace(run, config={"method": "dino", "batch": {"size": 64}, "dino": {"prototypes": 256}})
    other = replace(run, config={"method": "mae", "batch": {"size": 32}})
    shared = {"method": "Objective", "batch.size": "Images a step", "steps": "Steps"}
    own = {"dino.prototypes": "Prototypes"}
    one = replace(one, objective=Objective("DINOv2", "self-distillation", "", 1.0, settings=shared | own))
    other = replace(other, objective=Objective("MAE", "masked autoencoding", "", 1.0, settings=shared))
    assert settings_rows([one, other]) == [
        ("Objective", ["DINOv2", "MAE"]),
        ("Images a step", ["64", "32"]),
        ("Prototypes", ["256", "–"]),
    ]


def test_all_settings_are_listed_without_folders_of_the_machine():
    config = {
        "data": {"path": "/home/somebody/secret/data", "modality": [], "workers": 2},
        "model": {"init_from": "/home/somebody/models/old", "size": "vit-tiny"},
        "augment": {"global_scale": [0.2, 1.0]},
        "epochs": None,
    }
    assert flattened(config) == {
        "data.workers": "2",
        "model.init_from": "old",
        "model.size": "vit-tiny",
        "augment.global_scale": "0.2, 1.0",
    }


def test_a_run_without_configuration_has_no_settings(run):
    section = training_section(Material(PictureStore(10**6), runs=[replace(run, config={})]))
    assert section is not None and section["settings"] == section["all_settings"] == []
