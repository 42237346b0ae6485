"""What reports say of settings and logged values names keys that a run has."""

import yaml

from training.config_file import load_config
from training.settings.architecture import biovfm_config
from training.settings.reported import LOGGED, MAIN_SETTINGS
from training.settings.typed import flat, to_yaml


def test_main_settings_are_keys_of_a_configuration() -> None:
    config = load_config("dino_smoke", {"model.hidden_size": 96, "model.patch_size": 16})
    assert biovfm_config(config).hidden_size == 96
    assert set(MAIN_SETTINGS) <= set(flat(yaml.safe_load(to_yaml(config))))


def test_facts_have_the_settings_of_all_objectives_and_then_ones_own() -> None:
    facts = load_config("dino_smoke").facts(1.0)
    assert list(facts.settings)[: len(MAIN_SETTINGS)] == list(MAIN_SETTINGS)
    assert facts.settings["dino.prototypes"] == "Prototypes"
    assert facts.logged["teacher_temp"].group == "schedule" and facts.logged["teacher_entropy"].note
    assert facts.logged.keys() > LOGGED.keys()
