"""Every section of a report is one entry; an incomplete entry fails here, and a further entry is enough."""

import re

import pytest

from model_cards.inputs.kinds import find_inputs
from model_cards.report import command, sections
from model_cards.report.material import Material, read_material
from model_cards.report.pictures import PictureStore
from model_cards.report.sections import SECTIONS, ReportSection
from model_cards.templating import TEMPLATES


@pytest.fixture(scope="module")
def material(make, dataset_dir, run_dir, saved_model, tmp_path_factory):
    root = tmp_path_factory.mktemp("material")
    results = make.results(root / "results", make.rows("a", ["t"]) + make.rows("b", ["t"]))
    folders = [dataset_dir, run_dir, saved_model, results, make.scaling(root / "scaling")]
    return read_material(find_inputs(folders), PictureStore(10**7), 0, False)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_a_section_has_a_template_a_title_and_answers_with_much_and_with_nothing(section, material):
    assert section.title and [other.name for other in SECTIONS].count(section.name) == 1
    assert (TEMPLATES / "report" / f"{section.name}.html.j2").is_file()
    assert section.variables(Material(PictureStore(0))) is None
    assert section.variables(material)
    page = command.render_report(material, "x", "2026-01-01")
    assert f'<h2 id="{section.name}">{section.title}</h2>' in page and f'<a href="#{section.name}">' in page


def test_no_template_is_left_over():
    named = {"page", "macros", *(section.name for section in SECTIONS)}
    assert {file.name.removesuffix(".html.j2") for file in (TEMPLATES / "report").iterdir()} == named


def test_a_section_is_added_by_one_entry(material, monkeypatch):
    words = ReportSection("model", "Once more", lambda material: {"models": []})
    monkeypatch.setattr(command, "SECTIONS", [*sections.SECTIONS, words])
    page = command.render_report(material, "x", "2026-01-01")
    assert re.search(r"<h2[^>]*>Once more</h2>", page) and ">Once more</a>" in page
