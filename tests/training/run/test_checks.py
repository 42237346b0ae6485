"""What is told of a run before torch is imported; `tests/test_cli.py` has the mistakes, and that torch is not."""

from pathlib import Path

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from biovfm_hf import BioVFMConfig
from biovfm_hf.errors import UserError
from training.config_file import load_config
from training.objectives.stated import check_initial, run_architecture
from training.run import checks
from training.settings.architecture import biovfm_config
from training.settings.typed import to_yaml


def test_trackers_are_those_of_accelerate_and_have_the_packages_that_it_looks_for() -> None:
    assert set(checks.TRACKERS) == set(LOGGER_TYPE_TO_CLASS)
    usable = {name for name, packages in checks.TRACKERS.items() if any(map(checks.is_installed, packages))}
    assert usable == {str(getattr(tracker, "value", tracker)) for tracker in get_available_trackers()}


def test_a_tracker_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "is_installed", lambda package: package == "tensorboardX")
    checks.check_trackers(["tensorboard"])
    with pytest.raises(UserError, match=r"run\.trackers: trackio is not installed; get it with: pip install trackio"):
        checks.check_trackers(["tensorboard", "trackio"])


@pytest.mark.parametrize("name", ["dino_smoke", "mae_smoke", "dino_v3_small"])
def test_the_architecture_of_a_run_is_the_one_that_it_trains(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    stated, trained = run_architecture(str(tmp_path)), biovfm_config(config)
    assert {key: getattr(trained, key) for key in vars(stated)} == vars(stated)


def test_fields_that_a_folder_of_ours_cannot_have_are_refused_without_its_weights(tmp_path: Path) -> None:
    BioVFMConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=3).save_pretrained(tmp_path)

    def check(**fields: object) -> None:
        given = {"model.init_from": str(tmp_path), **{f"model.{key}": value for key, value in fields.items()}}
        check_initial(load_config("dino_continue", given))

    check(num_attention_heads=3, drop_path_rate=0.2, decoder_hidden_size=99)
    for name, value, theirs in (("hidden_size", 96, 48), ("num_attention_heads", 4, 3), ("qkv_bias", False, True)):
        with pytest.raises(UserError, match=f"has {name} {theirs}, this model {value}; give the model section"):
            check(**{name: value})
    with pytest.raises(UserError, match="image_size 224 is not a multiple of patch_size 9"):
        check(patch_size=9)
