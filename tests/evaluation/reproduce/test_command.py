"""Every table and figure of both papers, from its recipe to its files, on miniatures."""

import csv
import json

import pytest

from biovfm_hf.errors import UserError
from evaluation.reproduce.command import main, reproduce
from evaluation.reproduce.recipe import find_recipe, recipe_names
from tests.evaluation.reproduce.conftest import LACKING

SCORES = [name for name in recipe_names() if find_recipe(name).kind == "scores"]


def test_every_item_of_both_papers_has_a_recipe():
    tables = [f"radiology-table{number}" for number in range(1, 10)]
    figures = [f"biovfm-figure{n}" for n in range(1, 5)] + [f"radiology-figure{n}" for n in range(1, 7)]
    assert set(recipe_names()) == {"biovfm-table1", *tables, *figures}


@pytest.mark.parametrize("item", SCORES)
def test_every_table_of_scores_is_made_on_miniatures(workplace, item):
    recipe = find_recipe(item)
    outcome, screen = workplace.make(item)
    assert not outcome.failed and f"{item}: {outcome.made} of {outcome.total} made" in screen
    lines = list(csv.DictReader((outcome.folder / "table.csv").open()))
    assert len(lines) == len(recipe.cells) == outcome.total
    made = {(line["row"], line["column"]) for line in lines if line["value"]}
    cells = recipe.cells.items()
    there = {place for place, cell in cells if cell.model in workplace.given(item) and not {*cell.tasks} & {*LACKING}}
    assert made == there and len(made) > 1
    for line in lines:
        assert bool(line["value"]) != bool(line["missing"])
        cell = recipe.printed.get((line["row"], line["column"]))
        assert line["printed"] == ("" if cell is None else str(cell.value))
    table = (outcome.folder / "table.md").read_text()
    assert table.startswith(f"# {item}: {recipe.title}") and all(f"| {row} |" in table for row in recipe.rows)
    assert all(f"- {text}" in table for text in recipe.differs)
    assert ("**Not the recipe's settings**" in table) == bool(workplace.options(item).setting)
    assert r"\begin{tabular}" in (outcome.folder / "table.tex").read_text()
    tests = json.loads((outcome.folder / "item.json").read_text())["tests"]
    assert bool(tests) == bool(recipe.against)
    assert all(test["p_holm"] is None or test["p_holm"] >= test["p"] for test in tests)
    for name in recipe.pictures:
        assert list(outcome.folder.rglob("slopes.csv" if name == "scaling" else f"{name}*.png"))


def test_an_item_that_is_made_again_makes_nothing_anew(workplace, capsys):
    workplace.make("radiology-table8")
    before = {path: path.stat().st_mtime_ns for path in (workplace.out / "records").glob("*.json")}
    _, screen = workplace.make("radiology-table8")
    assert "have  sam-l" in screen and "done " not in screen
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_dataset_is_shown_beside_others_and_without_one_it_says_so(workplace, tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "modality": ["CT", "CT", "MR"],
        "anatomy": ["chest", "head", "head"],
        "outcome": ["kept", "kept", "dup"],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "manifest.parquet")
    without, _ = workplace.make("biovfm-figure1")
    assert (without.made, without.total) == (1, 2) and "give --dataset" in without.missing[0]
    outcome, _ = workplace.make("biovfm-figure1", dataset=tmp_path)
    assert (outcome.made, outcome.missing) == (2, [])
    rows = list(csv.DictReader((outcome.folder / "composition.csv").open()))
    assert [(row["modality"], row["anatomy"], row["images"]) for row in rows] == [
        ("CT", "chest", "1"),
        ("CT", "head", "1"),
    ]
    sizes = list(csv.DictReader((outcome.folder / "sizes.csv").open()))
    assert sizes[0]["dataset"].endswith("(yours)") and sizes[-1]["dataset"] == "BioVFM-21M"
    assert (outcome.folder / "sizes.png").is_file() and (outcome.folder / "composition.png").is_file()


def test_tables_of_facts_stand_beside_the_printed_counts(workplace):
    sets, _ = workplace.make("radiology-table1")
    lines = list(csv.reader((sets.folder / "table.csv").open()))
    nih = next(line for line in lines if line[0].startswith("Chest X-ray, 14 findings"))
    assert nih[2:] == ["14", "14", "120", "120", "112120", "74 / 10 / 36"]
    assert (sets.made, len(sets.missing)) == (9 - len(LACKING), len(LACKING))
    encoders, _ = workplace.make("radiology-table2")
    assert "| dinov2-g | facebook/dinov2-giant | 1136M | 1100M | 1,536 |" in (encoders.folder / "table.md").read_text()


def test_patches_are_drawn_in_the_colours_of_their_components(workplace):
    outcome, _ = workplace.make("radiology-figure2")
    assert (outcome.made, outcome.missing) == (3, [])
    assert len(list(outcome.folder.glob("figures/pca_*.png"))) == 3


def test_needs_are_listed_before_anything_runs(miniatures, capsys):
    options = miniatures.options("radiology-table3", out=None, dry_run=True, model=[])
    assert reproduce(options) == []
    screen = capsys.readouterr().out
    assert "there     nih_chestxray14" in screen and "download  dinov2-g" in screen and "1,136 million" in screen
    assert "minutes on one A100 at 30% of its peak" in screen
    assert main(["biovfm-table1", "--data", str(miniatures.data), "--dry-run", "--gpu", "H100"]) == 0
    assert "missing   BioVFM" in (screen := capsys.readouterr().out) and "on one H100" in screen


def test_what_is_trained_from_scratch_needs_nothing_and_a_file_must_be_there(miniatures, capsys, tmp_path):
    weights = f"transunet:{tmp_path / 'R50.npz'}"
    reproduce(miniatures.options("radiology-table6", out=None, dry_run=True, model=[f"transunet={weights}"]))
    screen = capsys.readouterr().out
    assert "there     unet" in screen and "trained from scratch" in screen
    assert "missing   transunet" in screen and weights in screen


def test_missing_parts_are_listed_with_the_reason(miniatures, monkeypatch, tmp_path):
    monkeypatch.setattr("evaluation.reproduce.scores.enough_resamples", lambda tests, resamples: resamples)
    models = [f"sam-l={miniatures.models['sam-l']}", f"dinov2-l-1024={tmp_path}/nowhere"]
    outcome, screen = miniatures.make("radiology-table8", model=models, out=tmp_path / "out")
    assert (outcome.made, outcome.total, outcome.failed) == (2, 4, [])
    assert outcome.missing[0].startswith("dinov2-l-1024: model '") and "no such folder" in screen
    table = (outcome.folder / "table.md").read_text()
    assert "- DINOv2 ViT-L/14 (2 of the numbers): dinov2-l-1024: model" in table and "missing *0.755*" in table
    with pytest.raises(UserError, match=r"nothing could be made, the first because: .*no folder in"):
        miniatures.make("radiology-table8", data=tmp_path, out=tmp_path / "none")


def test_seeds_are_averaged_and_a_failed_record_is_reported(workplace, tmp_path, monkeypatch):
    outcome, _ = workplace.make("radiology-table8", seed=[0, 1], out=tmp_path)
    assert not outcome.failed and len(list((tmp_path / "records").glob("*.json"))) == 8
    monkeypatch.setattr("evaluation.probes.suite.check_validation", _refuse)
    outcome, _ = workplace.make("radiology-table8", out=tmp_path / "failing")
    assert outcome.made == 2 and outcome.failed[0] == "sam-l on chexpert by linear: no validation"


def _refuse(trial):
    if trial.task.name == "chexpert":
        raise UserError("no validation")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ["radiology-table33"],
            "'radiology-table33' is not a table or figure of the papers; did you mean radiology-table3",
        ),
        (["all", "--out", "o", "--setting", "epochs"], "'epochs' is not a pair"),
        (["all", "--out", "o", "--model", "BioVFM"], "'BioVFM' is not a pair"),
        (["all"], "--out: is missing"),
    ],
)
def test_wrong_arguments_end_with_status_2(words, reason, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and reason in " ".join(capsys.readouterr().err.split())


def test_a_setting_of_no_method_is_refused(miniatures):
    with pytest.raises(UserError, match="'steps' is not a setting of the items' methods; these have"):
        reproduce(miniatures.options("radiology-table3", setting=["steps=3"]))


def test_items_are_listed_with_their_needs(capsys):
    assert main(["--list", "--json"]) == 0
    rows = {row["item"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == recipe_names() and rows["radiology-table9"]["models"] == ["dinov2-g"]
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.startswith("biovfm-table1       Average performance")
