"""Restrictions go from dataset and weights to the models that are made from them; nothing is pushed unasked."""

import shutil

import pytest

from biovfm_hf.cards.origin import Origin, read_origin
from biovfm_hf.cards.provenance import Provenance, read_provenance, write_provenance
from biovfm_hf.errors import UserError
from training.config_file import config_from_tree
from training.run.provenance import lineages, note_lineages, run_provenance
from training.setup import _check_public

DINOV3 = ("dinov3-license",)


def settings(**words):
    return config_from_tree({"method": "mae", **words})


def marked(folder, *sources):
    folder.mkdir()
    write_provenance(folder, Provenance(sources))
    (folder / "config.json").write_text('{"model_type": "biovfm"}')
    return str(folder)


@pytest.fixture
def dinov3(tmp_path):
    (tmp_path / "dinov3").mkdir()
    (tmp_path / "dinov3" / "config.json").write_text('{"model_type": "dinov3_vit"}')
    return str(tmp_path / "dinov3")


def test_data_and_first_weights_are_both_counted(tmp_path):
    data, weights = (marked(tmp_path / name, f"clinic of {name}") for name in ("data", "weights"))
    found = lineages(settings(data={"path": data}, model={"init_from": weights}))
    assert run_provenance(found).private_sources == ("clinic of data", "clinic of weights")


def test_the_licence_of_dinov3s_weights_goes_with_what_continues_from_them(dinov3):
    marks = run_provenance(lineages(settings(model={"init_from": dinov3})))
    assert marks == Provenance(licences=DINOV3)
    named = settings(method="distill", distill={"teacher": "timm:vit_small_patch16_dinov3.lvd1689m"})
    assert run_provenance(lineages(named)) == Provenance(licences=DINOV3)
    _check_public("me/model", marks)


def test_models_of_private_data_are_not_pushed_while_they_are_trained():
    _check_public("me/model", Provenance())
    with pytest.raises(UserError, match=r"private access \(sources: clinic\).*--private-sources-ok"):
        _check_public("me/model", Provenance(("clinic",)))


@pytest.mark.parametrize("lost", ["moved", "emptied"])
def test_a_run_that_goes_on_keeps_what_it_noted_when_it_began(dinov3, tmp_path, lost, monkeypatch):
    """The weights were named from a folder that looks like a name on the Hub, and the data has moved since."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("training.run.provenance._provenance_on_hub", lambda *_: Provenance())
    base = marked(tmp_path / "base", "clinic")
    shutil.copytree(dinov3, tmp_path / "runs" / "mine")
    words = {"model": {"init_from": "runs/mine"}}
    note_lineages(tmp_path / "out", settings(**words, data={"path": base}), begun=False)
    if lost == "moved":
        shutil.rmtree(tmp_path / "runs")
    else:
        (tmp_path / "runs" / "mine" / "config.json").unlink()
    elsewhere = marked(tmp_path / "data", "ward")
    again = note_lineages(tmp_path / "out", settings(**words, data={"path": elsewhere}), begun=True)
    assert read_provenance(tmp_path / "out") == Provenance(("clinic", "ward"), licences=DINOV3)
    again["model"].write(tmp_path)
    assert (read_origin(tmp_path), read_provenance(tmp_path).licences) == (Origin("mine"), DINOV3)
    fresh = note_lineages(tmp_path / "out", settings(data={"path": elsewhere}), begun=False)
    assert fresh["model"].provenance == read_provenance(tmp_path / "out") == Provenance(("ward",))


def test_each_student_has_the_origin_and_the_restrictions_of_its_own_weights(dinov3, tmp_path):
    teacher, base = marked(tmp_path / "large"), marked(tmp_path / "base", "clinic")
    students = {"small": {"init_from": base}, "conv": {"timm": "resnet18"}}
    config = settings(
        method="distill", model={"init_from": dinov3}, distill={"teacher": teacher, "students": students}
    )
    noted = note_lineages(tmp_path / "run", config, begun=False)
    expected = {
        "model": Provenance(licences=DINOV3),
        "model_small": Provenance(("clinic",)),
        "model_conv": Provenance(),
    }
    assert {name: one.provenance for name, one in noted.items()} == expected
    assert noted["model_small"].origin == Origin(base, (teacher,)) and noted["model_conv"].origin.start is None
    assert run_provenance(noted) == Provenance(("clinic",), licences=DINOV3)

    (tmp_path / "run" / "checkpoints").mkdir()
    words = {"teacher": teacher, "students": {"small": {"init_from": base}, "conv": {"timm": "resnet18"}}}
    later = lineages(settings(method="distill", model={"init_from": str(tmp_path / "run")}, distill=words))
    assert {name: one.provenance for name, one in later.items()} == expected, "the earlier run gives all students"
    assert later["model_conv"].origin.start == str(tmp_path / "run")
