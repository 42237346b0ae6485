"""The leaderboard: ranks that tests allow, its inputs, and its filters in a browser."""

import json

import pytest

from biovfm_hf.errors import UserError
from model_cards.leaderboard.command import LeaderboardOptions, leaderboard, main
from tests.chromium import Chromium, find_chromium

CHOOSE = """(id, value) => {
  const filter = document.getElementById(id);
  filter.value = value;
  filter.dispatchEvent(new Event('input'));
}"""
SCORES = {"a": (0.95, 0.80), "b": (0.90, 0.81), "<b>c</b>": (0.70, 0.60)}


@pytest.fixture
def results(tmp_path):
    """Three models on two tasks; on the first all differ, on the second a and b are not told apart."""
    folder = tmp_path / "results"
    folder.mkdir()
    records = [
        {"model": model, "task": task, "method": "linear", "protocol": "fast", "primary": "auc", "seconds": 1.5,
         "licence": licence, "metrics": {"auc": {"value": value, "low": value - 0.02, "high": value + 0.02}},
         **({"modality": "ultrasound"} if task == "busi" else {})}
        for model, values in SCORES.items()
        for (task, licence), value in zip((("busi", "CC BY 4.0"), ("bloodmnist", "MIT")), values, strict=True)
    ]  # fmt: skip
    rows = []
    for index, task in enumerate(("busi", "bloodmnist")):
        for first, second in (("a", "b"), ("a", "<b>c</b>"), ("b", "<b>c</b>")):
            p = 0.6 if (task, second) == ("bloodmnist", "b") else 0.001
            gap = SCORES[first][index] - SCORES[second][index]
            rows.append({"task": task, "method": "linear", "protocol": "fast", "metric": "auc", "model_a": first,
                         "model_b": second, "difference": gap, "p": p, "p_holm": p})  # fmt: skip
    (folder / "results.json").write_text(json.dumps(records))
    (folder / "comparisons.json").write_text(json.dumps(rows))
    return folder


def test_ranks_are_those_that_tests_leave_possible(results, tmp_path):
    (board,) = leaderboard(LeaderboardOptions(results=[str(results)], out=tmp_path / "board", export="space"))
    ranks = {key: (cell.rank, cell.first, cell.last) for key, cell in board.cells.items()}
    assert ranks["a", "busi"] == (1, 1, 1) and ranks["b", "busi"] == (2, 2, 2)
    assert ranks["a", "bloodmnist"] == (2, 1, 2) and ranks["b", "bloodmnist"] == (1, 1, 2)
    assert ranks["<b>c</b>", "bloodmnist"] == (3, 3, 3)
    assert board.mean_ranks == {"a": 1.5, "b": 1.5, "<b>c</b>": 3} and board.seconds["a"] == 3
    page = (tmp_path / "board" / "index.html").read_text()
    assert "&lt;b&gt;c" in page and "<b>c</b>" not in page and "rank 1 to 2" in page
    assert "sdk: static" in (tmp_path / "board" / "README.md").read_text()
    rows = json.loads((tmp_path / "board" / "leaderboard.json").read_text())
    assert {row["modality"] for row in rows} == {"ultrasound", "other"}
    assert (tmp_path / "board" / "leaderboard.csv").read_text().count("\n") == 7


def test_without_tests_ranks_are_marked_untested(results, tmp_path):
    (results / "comparisons.json").unlink()
    (board,) = leaderboard(LeaderboardOptions(results=[str(results)], out=tmp_path / "board"))
    assert all(cell.first is None for cell in board.cells.values())
    assert not (tmp_path / "board" / "README.md").exists()


def test_the_hubs_evaluation_results_are_read(tmp_path):
    folder = tmp_path / "model" / ".eval_results"
    folder.mkdir(parents=True)
    (folder / "one.yaml").write_text(
        "- dataset: {id: owner/benchmark, task_id: bloodmnist}\n  value: 0.9\n  notes: linear probe\n"
    )
    (board,) = leaderboard(LeaderboardOptions(results=[str(folder.parent)], out=tmp_path / "board"))
    entry = board.cells["model", "bloodmnist"].entry
    assert entry.score.value == 0.9 and board.method == "owner/benchmark" and entry.modality == "other"
    assert entry.source == "one.yaml: entry 1 (linear probe)"
    (folder / "two.yaml").write_text("- dataset: {id: bloodmnist}\n  value: 0.9\n")
    with pytest.raises(UserError, match=r"model, two.yaml: entry 1 has no dataset.id"):
        leaderboard(LeaderboardOptions(results=[str(folder.parent)], out=tmp_path / "board"))


def test_models_with_cards_bring_their_intervals_into_one_table(results, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "results").mkdir(parents=True)
        (tmp_path / name / "results" / "biovfm.json").write_text((results / "results.json").read_text())
    (board,) = leaderboard(
        LeaderboardOptions(results=[str(tmp_path / "one"), str(tmp_path / "two")], out=tmp_path / "b")
    )
    assert board.models == ["one", "two"] and board.cells["two", "busi"].entry.score.low is not None


def scored(folder, records, pairs=(), means=()):
    """A results folder: records by (model, value, further fields), and significant pairs by (a, b, further fields)."""
    named = {"task": "busi", "method": "knn", "protocol": "fast"}
    rows = [{**named, "primary": "auc", "metrics": {"auc": {"value": value}}, "model": model, **more}
            for model, value, more in records]  # fmt: skip
    paired = {**named, "metric": "auc", "difference": 0.1, "p": 0.001, "p_holm": 0.001}
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(rows))
    (folder / "seeds.json").write_text(json.dumps([{**rows[0], **mean} for mean in means]))
    if not means:
        (folder / "seeds.json").unlink()
    told = [{**paired, "model_a": a, "model_b": b, **more} for a, b, more in pairs]
    (folder / "comparisons.json").write_text(json.dumps(told))
    return str(folder)


def boards_of(tmp_path, *folders):
    return leaderboard(LeaderboardOptions(results=folders, out=tmp_path / "board"))


def test_other_settings_are_another_table_with_ranks_of_their_own(tmp_path):
    mean, both = ({"settings": {"features": name}, "seed": 0} for name in ("mean", "both"))
    records = [("a", 0.8, mean), ("b", 0.7, mean), ("a", 0.6, both), ("b", 0.7, both), ("a", 0.5, {})]
    folder = scored(tmp_path / "r", records, [("a", "b", mean)])
    first, second, unstated = boards_of(tmp_path, folder)
    assert [board.settings for board in (first, second, unstated)] == ["features mean", "features both", ""]
    assert [first.cells[model, "busi"].entry.score.value for model in "ab"] == [0.8, 0.7]
    assert [second.cells[model, "busi"].entry.score.value for model in "ab"] == [0.6, 0.7]
    assert first.cells["a", "busi"].last == 1 and second.cells["a", "busi"].last is None
    assert "knn, fast (features mean): auc" in (tmp_path / "board" / "index.html").read_text()


def test_several_seeds_are_their_mean_with_the_interval_that_holds_them(tmp_path):
    seeds = [(model, value, {"seed": seed}) for model in "ab" for seed, value in enumerate((0.5, 0.9, 0.7))]
    several = {"seed": [0, 1, 2]}
    joint = {"seed": 0, "joined": [0, 1, 2], "metrics": {"auc": {"value": 0.7, "low": 0.6, "high": 0.8}}}
    pairs = [("a", "b", {"seed": 2}), ("b", "a", several)]
    (board,) = boards_of(tmp_path, scored(tmp_path / "r", seeds, pairs, [joint]))
    score = board.cells["a", "busi"].entry.score
    assert (score.value, score.low, score.high) == (0.7, 0.6, 0.8)
    without = board.cells["b", "busi"]  # seeds.json has no mean of b
    assert without.entry.score.value == pytest.approx(0.7) and without.entry.score.low is None
    assert (without.first, without.last) == (1, 1)  # by the comparison over all seeds
    assert (tmp_path / "board" / "index.html").read_text().count("mean of 3 seeds") == 2
    stale = {**joint, "joined": [0, 1]}
    (board,) = boards_of(tmp_path, scored(tmp_path / "s", seeds, pairs, [stale]))
    assert board.cells["a", "busi"].entry.score.low is None


def test_other_weights_and_data_under_one_name_stay_apart(tmp_path):
    def folder(place, value, **told):
        return scored(tmp_path / place, [("m", value, told), ("n", 0.5, told)], [("m", "n", told)])

    first, other = folder("one", 0.8, revision="1234567890"), folder("two", 0.6, revision="abcdefghij")
    (board,) = boards_of(tmp_path, first, other)
    cells = {row: cell.entry.score.value for (row, _), cell in board.cells.items()}
    assert cells == {"m (one)": 0.8, "m (two)": 0.6, "n (one)": 0.5, "n (two)": 0.5}
    assert all(cell.first is None for cell in board.cells.values())  # no folder compares all four
    (board,) = boards_of(tmp_path, first, folder("x/one", 0.6, revision="abcdefghij"))
    assert {"m (revision 12345678)", "m (revision abcdefgh)"} < set(board.models)
    (board,) = boards_of(tmp_path, first, folder("again", 0.8, revision="1234567890"))
    assert board.models == ["m", "n"] and board.cells["m", "busi"].last == 1
    (board,) = boards_of(tmp_path, *(folder(word, 0.8, revision="r", data=word) for word in ("here", "there")))
    assert board.tasks == ["busi (here)", "busi (there)"] and board.models == ["m", "n"]
    with pytest.raises(UserError, match=r"m is in \S+/old and \S+/y/old, and nothing tells"):
        boards_of(tmp_path, folder("old", 0.8), folder("y/old", 0.6))


def test_the_shorter_distance_has_the_better_rank(tmp_path):
    records = [
        {"model": model, "task": "busi", "method": "segment", "protocol": "fast", "primary": "hd95",
         "metrics": {"hd95": {"value": value}}, "lower_is_better": ["hd95"]}
        for model, value in (("near", 2.0), ("far", 9.0))
    ]  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(records))
    (board,) = leaderboard(LeaderboardOptions(results=[str(tmp_path)], out=tmp_path / "board"))
    assert board.models == ["near", "far"] and board.cells["near", "busi"].rank == 1


def test_overlaps_of_pretraining_data_are_flagged(results, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    overlaps = [{"source": "busi_raw", "benchmark": "busi", "relation": "same_images", "verified": True}]
    (data / "build.json").write_text(json.dumps({"overlaps": overlaps, "options": {"leakage": "paper"}}))
    words = [str(results), "--out", str(tmp_path / "board"), "--dataset", f"a={data}"]
    assert main(words) == 0
    page = (tmp_path / "board" / "index.html").read_text()
    assert page.count("overlap: busi_raw: the data of this task; busi_raw: same images") == 1
    with pytest.raises(UserError, match=r"no score is of a model called A; did you mean a\?"):
        main([*words[:-1], f"A={data}"])
    with pytest.raises(UserError, match=r"no build\.json"):
        main([*words[:-1], f"a={tmp_path}"])
    with pytest.raises(UserError, match="does not name a model"):
        LeaderboardOptions(results=["x"], out=tmp_path, dataset=["data"])


def test_what_was_left_out_of_pretraining_is_no_overlap(results, tmp_path):
    """The guard strict left out what records connect with benchmarks; a build tells what it kept of each source."""
    rows = [{"source": "busi", "benchmark": "BreastMNIST", "part": "^a/", "relation": "shares", "verified": True},
            {"source": "raw", "benchmark": "BloodMNIST", "relation": "contains", "verified": True}]  # fmt: skip
    built = {"overlaps": rows, "benchmark_matches": {"raw in busi": 3}}
    kept = {"busi": {"kept": 5}, "raw": {"kept": 5}, "blood_mnist": {"kept": 0, "small": 2}}
    told = {}
    for mode, sources in (("strict", kept), ("paper", {**kept, "busi": {"kept": 0}})):
        build = tmp_path / mode / "build.json"
        build.parent.mkdir()
        build.write_text(json.dumps({**built, "sources": sources, "options": {"leakage": mode}}))
        (board,) = leaderboard(
            LeaderboardOptions(results=[str(results)], out=tmp_path / "board", dataset=[f"a={build.parent}"])
        )
        overlaps = [board.cells["a", task].overlap for task in ("busi", "bloodmnist")]
        told[mode] = [(each.inside, each.left_out) for each in overlaps]
        page = (tmp_path / "board" / "index.html").read_text()
        assert page.count('data-leakage="') == 1 and "3 images by their pixels" in page
    pixels = "3 images by their pixels"
    assert told["strict"] == [("busi: the data of this task", pixels), ("", "all of blood_mnist; raw: contains")]
    assert told["paper"] == [("", f"all of busi; {pixels}"), ("raw: contains", "all of blood_mnist")]


MAKE_BOARD = """
import sys
from huggingface_hub import HfApi
from model_cards.leaderboard.command import main

results, folder, board = sys.argv[1:]
for name, kind in (("owner/ours", "model"), ("owner/data", "dataset")):
    HfApi().create_repo(name, repo_type=kind)
    HfApi().upload_folder(repo_id=name, repo_type=kind, folder_path=f"{folder}/{kind}")
sys.exit(main([results, "owner/ours", "--out", board, "--dataset", "owner/ours=owner/data"]))
"""


def test_results_and_overlaps_are_fetched_from_the_hub(results, tmp_path, hub, client):
    files = {"model/.eval_results/one.yaml": "- dataset: {id: owner/benchmark, task_id: busi}\n  value: 0.9\n",
             "dataset/build.json": json.dumps({"overlaps": [{"source": "raw", "benchmark": "busi"}]})}  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    hub.fail("GET", "/api/datasets/owner/data", status=503)  # once: it is asked for again
    client(MAKE_BOARD, results, tmp_path, tmp_path / "board")
    rows = json.loads((tmp_path / "board" / "leaderboard.json").read_text())
    (ours,) = [row for row in rows if row["model"] == "owner/ours"]
    assert (ours["value"], ours["task"], ours["source"]) == (0.9, "busi", "one.yaml: entry 1")
    assert ours["leakage"].startswith("raw: ")
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "board").iterdir())


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium")
def test_filters_work_on_desktop_and_phone(results, tmp_path):
    leaderboard(LeaderboardOptions(results=[str(results)], out=tmp_path / "board"))
    with Chromium(tmp_path) as browser:
        address = (tmp_path / "board" / "index.html").as_uri()
        for width in (1200, 390):
            browser.open(address, width=width, height=800)
            assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert browser.evaluate("document.getElementById('shown').textContent").startswith("3 rows, 6 scores")
            browser.evaluate(f"({CHOOSE})('modality', 'ultrasound')")
            assert browser.evaluate("document.getElementById('shown').textContent").startswith("3 rows, 3 scores")
            assert browser.evaluate("document.querySelectorAll('th[data-task]:not([hidden])').length") == 1
            browser.evaluate(f"({CHOOSE})('model', 'B')")
            assert browser.evaluate("document.getElementById('shown').textContent").startswith("2 rows, 2 scores")
            browser.evaluate(f"({CHOOSE})('licence', 'MIT')")
            assert browser.evaluate("document.querySelector('section').hidden")
