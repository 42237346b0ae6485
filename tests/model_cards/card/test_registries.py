"""Every field and section of a card is one entry; an incomplete entry fails here, and a further entry is enough."""

import dataclasses

import pytest
import yaml

from model_cards.card import fields, render, sections
from model_cards.card.facts import gather
from model_cards.card.fields import FIELDS, Field
from model_cards.card.options import CardOptions
from model_cards.card.sections import SECTIONS, CardSection
from model_cards.templating import TEMPLATES


@pytest.fixture
def bare(saved_model):
    return gather(CardOptions(saved_model))


@pytest.fixture
def full(saved_model, run_dir, dataset_dir, make, tmp_path):
    results = make.results(tmp_path / "results", make.rows(str(saved_model), ["t"]))
    words = {"repo_id": "you/tiny", "dataset_id": ["you/data"], "base_model": "facebook/dinov2-small"}
    words["teacher"] = f"{saved_model}"
    folders = {"results": results, "run": run_dir, "dataset": dataset_dir}
    return gather(CardOptions(saved_model, **folders, **words, watts=500, grid=400))


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_a_field_says_what_it_means_and_answers_with_much_and_with_little(field, bare, full):
    assert field.meaning and [other.name for other in FIELDS].count(field.name) == 1
    values = [field.value(facts) for facts in (bare, full)]
    assert yaml.safe_load(yaml.safe_dump(values)) if field.name != "eval_results" else values[1]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_a_section_has_a_template_and_writes_with_much_and_with_little(section, bare, full):
    assert section.title and [other.name for other in SECTIONS].count(section.name) == 1
    assert (TEMPLATES / "card" / f"{section.name}.md.j2").is_file()
    for facts in (bare, full):
        written = f"\n## {section.title}\n\n" in render.render_card(facts)
        assert written == (section.variables(facts) is not None)
    assert section.variables(full) is not None


def test_a_part_of_the_dataset_is_not_passed_off_as_all_of_it(full):
    assert "the run used of it" not in render.render_card(full)
    data = {"config": "us", "modality": ["CT", "US"], "source": [], "selection": "/home/somebody/list.txt"}
    text = render.render_card(dataclasses.replace(full, run=dataclasses.replace(full.run, config={"data": data})))
    used = "configuration us, modality CT or US, a selection from a list."
    assert f"The tables count the whole folder; the run used of it {used}\n\n| Source" in text


def test_no_template_is_left_over():
    named = {"head", *(section.name for section in SECTIONS)}
    assert {file.name.removesuffix(".md.j2") for file in (TEMPLATES / "card").iterdir()} == named


def test_a_field_and_a_section_are_added_by_one_entry_each(full, monkeypatch, tmp_path):
    monkeypatch.setattr(
        fields, "FIELDS", [*FIELDS, Field("thumbnail", "a picture", lambda facts: f"{facts.name}.png")]
    )
    words = CardSection("licence", "Thanks", lambda facts: {"sentence": f"Thanks for {facts.name}."})
    monkeypatch.setattr(render, "SECTIONS", [*sections.SECTIONS, words])
    text = render.render_card(full)
    assert "thumbnail: you/tiny.png" in text and "\n## Thanks\n\nThanks for you/tiny." in text


def test_facts_are_whole(bare):
    assert {field.name for field in dataclasses.fields(bare)} >= {"model", "run", "dataset", "bases", "licence"}
