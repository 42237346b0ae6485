"""Reading results files: strict about their content, with a message for every problem, compared only if comparable."""

import json

import pytest

from biovfm_hf.errors import UserError
from biovfm_hf.results.published import table1
from model_cards.card.model_index import eval_results
from model_cards.card.render import render_results
from model_cards.inputs import results

TWELVE = table1()["tasks"]


def test_a_record_comes_back_with_its_intervals(make, tmp_path):
    folder = make.results(tmp_path / "r", make.rows("m", ["breastmnist"]))
    (record,) = results.load_results(folder)
    assert (record.model, record.task, record.n_train, record.n_test) == ("m", "breastmnist", 1000, 200)
    assert record.intervals["auc"] == results.Interval(0.8, 0.8 - 0.03, 0.8 + 0.03)


def test_several_seeds_are_their_mean_in_results_and_on_the_card(make, tmp_path):
    rows = [{**row, "seed": seed, "data": "d"} for seed in (0, 1) for row in make.rows("m", ["t", "u"])]
    folder = make.results(tmp_path / "r", rows)
    joined = {"joined": [0, 1], "metrics": {"auc": {"value": 0.7, "low": 0.5, "high": 0.9}}}
    (folder / "seeds.json").write_text(json.dumps([{**rows[0], **joined}, {**rows[1], "joined": [0, 1, 2]}]))
    records = results.load_results(folder)  # the mean of u is of another set of seeds, so it does not count
    assert [(record.task, record.seeds) for record in records] == [("t", [0, 1]), ("u", 0), ("u", 1)]
    assert records[0].intervals["auc"] == results.Interval(0.7, 0.5, 0.9)
    beside = tmp_path / "biovfm.json"
    beside.write_text(json.dumps(results.results_rows(records, "m")))
    assert [(record.seeds, record.data) for record in results.load_results(beside)] == [
        ([0, 1], "d"),
        (0, "d"),
        (1, "d"),
    ]
    card = render_results(records, "m")
    assert "| linear (seeds 0, 1) |" in card and "means over several seeds hold test cases and seeds" in card
    assert [entry.metric_name for entry in eval_results(records[:1])] == ["AUC (linear, fast protocol, seeds 0, 1)"]


def test_the_card_has_all_columns_of_the_tables_and_the_main_metric(make, tmp_path):
    (row,) = make.rows("m", ["t"])
    more = {name: {"value": 0.5} for name in ("seventh", "eighth", "hidden", "main")}
    row |= {"metrics": row["metrics"] | more, "columns": [*row["metrics"], "seventh", "eighth"], "primary": "main"}
    records = results.load_results(make.results(tmp_path / "r", [row]))
    assert results.main_metrics(records)[-3:] == ["seventh", "eighth", "main"]
    assert "| seventh | eighth | main |" in render_results(records, "m")
    beside = tmp_path / "biovfm.json"
    beside.write_text(json.dumps(results.results_rows(records, "m")))
    assert "| seventh | eighth | main |" in render_results(results.load_results(beside), "m")


def test_a_difference_over_seeds_stands_for_those_of_its_seeds(make, tmp_path):
    row = dict(task="t", method="linear", metric="auc", model_a="a", model_b="b", difference=0.1, p=0.02, p_holm=0.02)
    rows = [{**row, "seed": seed} for seed in (0, 1, [0, 1], 2)] + [{**row, "seed": 0, "task": "u"}]
    found = results.load_comparisons(make.results(tmp_path / "r", make.rows("a", ["t"]), rows))
    assert [(each.task, each.seed) for each in found] == [("t", "0, 1"), ("t", "2"), ("u", "0")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "not a results file"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('[{"task": "t", "method": "linear", "metrics": {"auc": {"value": 1}}}]', "no 'model'"),
        ('[{"model": "m", "task": "t", "method": "linear", "metrics": {}}]', "no metrics"),
        ('[{"model": "m", "task": "t", "method": "linear", "metrics": {"auc": {"value": NaN}}}]', "no finite value"),
        ('[{"model": "m", "task": "t", "method": "linear", "metrics": {"auc": {"value": "0.9"}}}]', "no finite value"),
        ('[{"model": "m", "task": "t", "method": "linear", "metrics": {"auc": {}}}]', "no finite value"),
    ],
)
def test_damaged_results_are_refused_with_a_reason(tmp_path, text, said):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match=said):
        results.load_results(tmp_path)


def test_missing_results_say_what_to_run(tmp_path):
    with pytest.raises(UserError, match="biovfm probe"):
        results.load_results(tmp_path)


def test_twelve_tasks_under_the_published_protocol_are_comparable(make, tmp_path):
    folder = make.results(tmp_path / "r", make.rows("m", TWELVE, protocol="biovfm"))
    mean, table, why = results.published_comparison(results.load_results(folder))
    assert why == "" and set(mean) == {"mcc", "balanced_accuracy", "f1_macro", "auc"}
    assert mean["auc"].value == pytest.approx(100 * (0.8 + 0.01 * 5.5))
    assert [row["auc"][0] for row in table["rows"]] == [91.86, 92.26, 91.49, 92.86, 93.52, 94.40]


@pytest.mark.parametrize(
    ("tasks", "method", "protocol", "said"),
    [
        (TWELVE, "linear", "fast", "none of these results"),
        (TWELVE, "knn", "biovfm", "none of these results"),
        (TWELVE[:11], "linear", "biovfm", "11 of them"),
        ([*TWELVE, TWELVE[0]], "linear", "biovfm", "occurs twice"),
    ],
)
def test_anything_else_is_not_set_beside_published_rows(make, tmp_path, tasks, method, protocol, said):
    folder = make.results(tmp_path / "r", make.rows("m", tasks, method, protocol))
    mean, _, why = results.published_comparison(results.load_results(folder))
    assert mean is None and said in why


def test_the_published_table_is_ordered_low_value_high():
    for row in table1()["rows"]:
        for metric in ("mcc", "balanced_accuracy", "f1_macro", "auc"):
            value, low, high = row[metric]
            assert low < value < high


def test_an_undefined_metric_is_left_out_and_the_adjustment_is_kept(make, tmp_path):
    rows = make.rows("a", ["t"])
    rows[0]["metrics"]["auc"] = {"value": None, "low": None, "high": None}
    given = {"task": "t", "method": "linear", "metric": "mcc", "difference": 0.1, "p": 0.02, "p_holm": 0.06}
    without = {**given, "metric": "auc", "difference": None, "p": None, "p_holm": None}
    folder = make.results(tmp_path / "r", rows, [given, {**given, "task": "u"}, without])
    assert "auc" not in results.load_results(folder)[0].intervals
    assert [row.p_holm for row in results.load_comparisons(folder)] == [0.06, 0.06]
    assert results.load_comparisons(tmp_path) == []


def test_macro_averages_of_binary_tasks_are_titled_as_the_positive_class_s(make, tmp_path):
    binary, other = make.rows("m", ["clinic", "organs"])
    binary["positive"] = "disease"
    for rows, title in (([binary], "F1 (positive class)"), ([binary, other], "F1")):
        records = results.load_results(make.results(tmp_path / str(len(rows)), rows))
        text = render_results(records, "m")
        assert f"| {title} |" in text and "of its positive class: disease in clinic." in text
    assert "positive class" not in render_results(records[1:], "m")
