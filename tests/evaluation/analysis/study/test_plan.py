"""The file of a study: its runs, and what is refused."""

import pytest

from biovfm_hf.errors import UserError
from evaluation.analysis.scaling_command import main
from evaluation.analysis.study.plan import read_study_plan
from tests.evaluation.analysis.study.conftest import STUDY


def test_a_plan_holds_every_combination_with_later_overrides_on_top(plan_file, tmp_path):
    plan = read_study_plan(plan_file())
    assert [run.name for run in plan.runs] == ["DINO_narrow", "DINO_wide", "MAE_narrow", "MAE_wide"]
    steps = {run.name: run.overrides["steps"] for run in plan.runs}
    assert steps == {"DINO_narrow": 5, "DINO_wide": 9, "MAE_narrow": 3, "MAE_wide": 9}
    assert plan.runs[0].data == str(tmp_path / "images")
    assert plan.runs[2].config == str(tmp_path / "own.yaml")
    assert plan.runs[0].changes == {"method": "dino", "steps": 5, "batch.size": 4, "model.hidden_size": 48,
                                    "augment.global_scale": [0.5, 1.0]}  # fmt: skip
    assert "method" not in plan.runs[2].changes


def test_task_paths_are_relative_to_the_study_file_and_names_are_names(plan_file, tmp_path):
    (tmp_path / "busi").mkdir()  # a data folder beside the file is not the task of its name
    (tmp_path / "mine.csv").touch()
    plan = read_study_plan(plan_file(STUDY.replace("[pneumoniamnist, busi]", '"busi, mine.csv"')))
    assert plan.probe["tasks"] == ["busi", str(tmp_path / "mine.csv")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("families: [", "not valid YAML"),
        ("- 1", "not a YAML mapping"),
        (STUDY.replace("overrides:", "override:"), "unknown key override"),
        (STUDY.replace("config: dino_smoke", "objective: [a]"), "needs a config"),
        (STUDY.replace("narrow:", "a/b:"), "cannot name a folder"),
        (STUDY.replace("subsets: {all: images}", "subsets: {}"), "subsets must be a mapping"),
        (STUDY.replace("subsets: {all: images}", "subsets: {all: 3}"), "must be a dataset folder"),
        (STUDY.replace("tasks: [pneumoniamnist, busi], ", ""), "names tasks"),
        (STUDY.replace("{steps: 3,", "{stepz: 3,"), "DINO_narrow: unknown config key stepz; did you mean steps"),
        (STUDY + "launch: all\n", "list of arguments"),
        (STUDY + "axis: bogus\n", "unknown axis 'bogus'; choose one of: given, encoder"),
        (
            STUDY.replace("MAE: {", "MAE: {objective: distill, ") + "axis: compute\n",
            "MAE has the objective 'distill', but axis compute",
        ),
        (STUDY + "axis: compute\n", "MAE has no named objective, but axis compute"),
        (STUDY + "properties: nothing.csv\n", "nothing.csv: no such file"),
        (STUDY.replace("busi]", "bussi]"), "'bussi' is neither a task nor a path that exists; did you mean busi"),
        (STUDY.replace("method: knn", "method: svm"), "method: 'svm' is none of"),
        (STUDY + "metric: nothing\n", "no metric is called nothing"),
        (STUDY + "layers: busi\n", "layers must be a mapping"),
        (STUDY + "layers: {task: busi, depth: 3}\n", "layers: unknown option depth"),
        (STUDY + "layers: {task: busi, max_images: 1}\n", "layers: max_images: 1 must be 4"),
        (STUDY.replace("method: knn", "methode: knn"), "unknown option methode; known are"),
        (STUDY.replace("method: knn", 'seed: "0,x"'), "seed: 'x' is not of type int"),
        (STUDY.replace("method: knn", "size: 99"), "size: 99 is not one of"),
        (STUDY.replace("method: knn", "out: elsewhere"), "out is set by the study"),
    ],
)
def test_unfit_studies_get_a_clear_message(plan_file, text, words):
    with pytest.raises(UserError, match=words) as caught:
        main(["study", str(plan_file(text)), "--out", "nowhere", "--dry-run"])
    assert "study.yaml" in str(caught.value) or "nothing.csv" in str(caught.value)
    assert "\n" not in str(caught.value)
