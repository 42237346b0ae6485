"""Recipes: each is complete, names existing things, and has the papers' printed numbers."""

import pytest

from biovfm_hf.errors import UserError
from biovfm_hf.results.published import Cell as Printed
from biovfm_hf.results.published import cells
from evaluation.encoders.lineup import LINEUP
from evaluation.probes.probe import find_probes
from evaluation.reproduce.bench import BASELINES, make_probe
from evaluation.reproduce.command import KINDS
from evaluation.reproduce.pictures import PICTURES
from evaluation.reproduce.recipe import find_recipe, read_recipe, recipe_names, resolve_items
from evaluation.statistics.kinds import SEGMENTATION
from evaluation.tasks import read_records


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_names_existing_encoders_tasks_and_methods(name):
    recipe = find_recipe(name)
    assert recipe.kind in KINDS and recipe.title and recipe.differs
    assert set(recipe.pictures) <= set(PICTURES) and set(recipe.against) <= set(recipe.rows)
    assert all(set(panels) <= set(recipe.panels.values()) for panels in recipe.pictures.values())
    assert set(recipe.tasks) <= set(read_records())
    known = {*LINEUP, *BASELINES, *recipe.sources, *recipe.weights}
    assert set(recipe.models) <= known and set(recipe.weights) <= set(recipe.models)
    for cell in recipe.cells.values():
        kinds = {read_records()[task].kind == SEGMENTATION for task in cell.tasks}
        assert kinds == {"decoder" in cell.settings}
        (probe,) = [
            probe
            for probe in find_probes(cell.method, cell.protocol)
            if {read_records()[task].kind for task in cell.tasks} <= {*probe.kinds}
        ]
        make_probe(probe, dict(cell.settings), {})


def test_scores_that_the_paper_prints_are_between_0_and_1():
    printed = {name: find_recipe(name).printed for name in recipe_names()}
    assert sum(map(len, printed.values())) > 300
    for name, numbers in printed.items():
        for place, number in numbers.items():
            assert find_recipe(name).cells[place].is_cost or 0.4 < number.value < 1


def test_numbers_that_two_items_share_stand_once():
    assert cells("radiology-table3")["DINOv2 ViT-L/14", "NIH Chest X-ray"] == Printed(0.763)
    assert find_recipe("radiology-figure3").printed["MAE ViT-L/16", "CheXpert"] == Printed(0.789)
    assert find_recipe("radiology-figure1").printed["DINOv2 ViT-g/14", "MSD Hipp"] == Printed(0.761)
    assert find_recipe("radiology-table6").printed["DINOv2 ViT-L/14", "AMOS"] == Printed(0.592)
    assert find_recipe("radiology-figure4").printed == {
        ("U-Net", column): Printed(value)
        for column, value in {"MC": 0.974, "MSD Heart": 0.869, "MSD Hipp": 0.789, "MSD Spleen": 0.898}.items()
    }
    assert find_recipe("biovfm-table1").printed["BioVFM", "AUC"] == Printed(0.944, 0.939, 0.9484)
    assert find_recipe("biovfm-figure2").printed["BioVFM-D", "BioVFM-0.2M, ultrasound"] == Printed(0.9275)


def test_papers_and_all_are_names_of_many_items():
    assert resolve_items(("biovfm",)) == [name for name in recipe_names() if name.startswith("biovfm")]
    assert resolve_items(("radiology-table3", "all"))[:2] == ["radiology-table3", "biovfm-table1"]
    assert len(resolve_items(("all", "biovfm"))) == len(recipe_names()) == 20


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("kind: scores", "missing 1 required positional argument: 'title'"),
        ("title: t\nkind: scores\nrow: {}", "unexpected keyword argument 'row'"),
        (
            "title: t\nkind: scores\nrows: {a: {model: m, shape: 3}}\ncolumns: {b: {tasks: [x], method: knn}}",
            "unknown key shape",
        ),
        ("title: t\nkind: scores\nrows: {a: {model: m}}\ncolumns: {b: {method: knn}}", "'tasks'"),
    ],
)
def test_a_broken_recipe_is_named(tmp_path, text, reason):
    path = tmp_path / "biovfm-table9.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="is not a recipe") as caught:
        read_recipe(path)
    assert reason in str(caught.value)
