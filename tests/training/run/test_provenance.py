"""The mark of private sources goes from dataset and first weights to the model; nothing is pushed unasked."""

import pytest

from biovfm_hf.cards.provenance import Provenance, write_provenance
from biovfm_hf.errors import UserError
from training.config_file import config_from_tree
from training.run.provenance import run_provenance
from training.setup import _check_public


def settings(**words):
    return config_from_tree({"method": "mae", **words})


def test_data_and_first_weights_are_both_counted(tmp_path):
    for name in ("data", "weights"):
        (tmp_path / name).mkdir()
        write_provenance(tmp_path / name, Provenance((f"clinic of {name}",)))
    config = settings(data={"path": str(tmp_path / "data")}, model={"init_from": str(tmp_path / "weights")})
    assert run_provenance(config).private_sources == ("clinic of data", "clinic of weights")


def test_the_licence_of_dinov3s_weights_goes_with_what_continues_from_them(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "dinov3_vit"}')
    assert run_provenance(settings(model={"init_from": str(tmp_path)})).licences == ("dinov3-license",)
    _check_public(settings(model={"init_from": str(tmp_path)}, run={"push_to_hub": "me/model"}))


def test_models_of_private_data_are_not_pushed_while_they_are_trained(tmp_path):
    words = {"data": {"path": str(tmp_path)}, "run": {"push_to_hub": "me/model"}}
    _check_public(settings(**words))
    write_provenance(tmp_path, Provenance(("clinic",)))
    with pytest.raises(UserError, match=r"private access \(sources: clinic\).*--private-sources-ok"):
        _check_public(settings(**words))
