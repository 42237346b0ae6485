"""Licences: of sources from `build.json`, and what a model can state that is made of several works."""

import json

import pytest

from model_cards.inputs.licences import hub_licence, joint_licence, read_licences


def test_licences_stand_in_the_builders_summary(tmp_path):
    build = tmp_path / "build.json"
    assert read_licences(build) == {}
    build.write_text(json.dumps({"licences": {"a": "CC BY 4.0", "b": None}}))
    assert read_licences(build) == {"a": "CC BY 4.0"}
    build.write_text(json.dumps({"kept": 3}))
    assert read_licences(build) == {}


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("CC BY 4.0", "cc-by-4.0"),
        ("CC-BY-NC-SA-4.0", "cc-by-nc-sa-4.0"),
        ("CC0", "cc0-1.0"),
        ("CC0 1.0", "cc0-1.0"),
        ("MIT", "mit"),
        ("research agreement of the hospital", "other"),
    ],
)
def test_words_become_the_hubs_ids(text, licence):
    assert hub_licence(text) == licence


@pytest.mark.parametrize(
    ("licences", "joint"),
    [
        ([], "unknown"),
        ([None], "unknown"),
        (["CC BY 4.0", None], "unknown"),
        (["CC BY 4.0", "cc-by-4.0"], "cc-by-4.0"),
        (["CC BY 4.0", "MIT"], "other"),
        (["a hospital's own"], "other"),
        (["mit", "unknown"], "unknown"),
    ],
)
def test_a_work_of_several_takes_their_one_licence_or_none(licences, joint):
    assert joint_licence(licences) == joint
