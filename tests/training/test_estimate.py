"""The estimates before a run: a model that does not fit is refused, with what would make it fit."""

from types import SimpleNamespace

import psutil
import pytest

from biovfm_hf.errors import UserError
from training import objectives
from training.config_file import load_config
from training.estimate import check_memory
from training.settings.architecture import biovfm_config


@pytest.mark.parametrize(
    ("name", "remedy"), [("dino", "model.size, fewer dino.prototypes, or"), ("mae", "model.size, or")]
)
def test_a_model_that_does_not_fit_is_refused_with_settings_of_its_own_objective(monkeypatch, name, remedy):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2**20))
    config = load_config(f"{name}_smoke", {"run.device": "cpu"})
    with pytest.raises(UserError, match=f"this machine has 0.0; choose a smaller {remedy} spread them"):
        check_memory(objectives.method_of(name), config, biovfm_config(config))
