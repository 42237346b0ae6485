"""The model card: from files to README.md, its usage lines executed, nothing invented."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from biovfm_hf.errors import UserError
from model_cards import formats
from model_cards.card import command as card
from model_cards.card import numbers as card_numbers
from tests.preloaded import python

TASKS = ["pneumoniamnist", "breastmnist"]


@pytest.fixture
def model_dir(saved_model, tmp_path):
    return shutil.copytree(saved_model, tmp_path / "tiny-encoder")


@pytest.fixture
def full_card(model_dir, make, run_dir, dataset_dir, tmp_path):
    """The text of a card written from every kind of input."""
    folder = make.results(tmp_path / "results", make.rows(str(model_dir), TASKS))
    words = ["--results", folder, "--run", run_dir, "--dataset", dataset_dir, "--watts", 500, "--grid", 400]
    assert card.main([str(word) for word in [model_dir, *words]]) == 0
    return (model_dir / "README.md").read_text()


def test_metadata_hold_every_result_as_measured(full_card):
    data = ModelCard(full_card).data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "unknown",
        "transformers",
        "image-feature-extraction",
    )
    auc = {r.dataset_type: r for r in data.eval_results if r.metric_type == "roc_auc"}
    assert {task: r.metric_value for task, r in auc.items()} == {"pneumoniamnist": 0.8, "breastmnist": 0.81}
    assert auc["breastmnist"].metric_args == {"ci_low": 0.78, "ci_high": 0.84, "ci_level": 0.95}
    assert len(data.eval_results) == 10


def test_body_says_what_the_files_say(full_card):
    assert "| chest-a | 40 | CC0-1.0 |" in full_card
    assert "| us-c | 20 | not stated |" in full_card
    assert "| duplicate of a benchmark test image | 3 |" in full_card
    assert "- Guard strict: sources whose records mention a benchmark were left out, in whole or part" in full_card
    assert "every image was compared with 1,200 images of benchmarks." in full_card
    assert "- Found by their pixels and left out: 3 images of oct-b in oct-bench." in full_card
    assert "| oct-b | oct-bench | same images; p. 4 (not verified) |" in full_card
    assert "| Optimisation steps | 300 |" in full_card and "| Images seen | 19,200 |" in full_card
    assert "| breastmnist | linear | fast | 1,001 / 200 | 0.610 [0.580, 0.640] |" in full_card
    assert "![PCA map of four images: organs get one colour each](figures/pca_map.png)" in full_card


def test_results_travel_with_the_model_and_never_outlive_the_card(full_card, model_dir, tmp_path):
    from model_cards.inputs.results import load_results, results_rows

    words = ["--results", str(tmp_path / "results"), "--repo-id", "you/tiny", "--benchmark", "you/benchmark"]
    assert card.main([str(model_dir), *words]) == 0
    carried, measured = (
        load_results(place) for place in (model_dir / "results" / "biovfm.json", tmp_path / "results")
    )
    assert results_rows(carried, "m") == results_rows(measured, "m")
    assert {record.model for record in carried} == {"you/tiny"}
    assert (model_dir / ".eval_results" / "biovfm.yaml").is_file()
    assert card.main([str(model_dir)]) == 0
    assert not (model_dir / "results" / "biovfm.json").exists() and not list(model_dir.glob(".eval_results/*"))


def test_an_edited_score_is_not_pushed(full_card, model_dir):
    from model_cards.hub import command as push

    card_numbers.check_numbers(full_card, model_dir)
    (model_dir / "README.md").write_text(full_card.replace("value: 0.81\n", "value: 0.91\n"))
    with pytest.raises(UserError, match=r"states AUC \(linear, fast protocol, seed 0\) 0\.91 on breastmnist"):
        push.push(push.PushOptions(model_dir, "you/tiny"))
    (model_dir / "README.md").write_text(full_card)
    (model_dir / "results" / "biovfm.json").unlink()
    with pytest.raises(UserError, match="--results DIR"):
        push.push(push.PushOptions(model_dir, "you/tiny"))


def test_changed_tables_are_noticed_and_added_text_is_not(full_card, model_dir):
    row = "| breastmnist | linear | fast | 1,001 / 200 | 0.610 [0.580, 0.640] |"
    assert row in full_card and not card_numbers.changed_tables(full_card, model_dir)
    for wrong in (
        row.replace("0.610", "0.910"),
        row.replace("[0.580", "[0.600"),
        row + "\n" + row.replace("breast", "x"),
    ):
        assert card_numbers.changed_tables(full_card.replace(row, wrong), model_dir)
    assert card_numbers.changed_tables(full_card.replace(row, ""), model_dir)
    for free in (full_card + "\n| my | table |\n", full_card.replace("For research:", "For my research:")):
        assert not card_numbers.changed_tables(free, model_dir)
    assert not card_numbers.changed_tables("---\nlicense: mit\n---\n# A card of my own\n", model_dir)


def test_every_table_is_found_again_under_another_name(model_dir, make, tmp_path):
    from biovfm_hf.results.published import table1
    from model_cards.hub.card import name_repository

    rows = make.rows(str(model_dir), table1()["tasks"], protocol="biovfm")
    rows.append({**rows[0], "task": "a|b _c_", "kind": "segmentation", "metrics": {"dice": 0.7}, "n_train": None})
    card.main(
        [str(model_dir), "--results", str(make.results(tmp_path / "results", rows)), "--known-as", str(model_dir)]
    )
    text = (model_dir / "README.md").read_text()
    assert "Beside published rows" in text and "### Segmentation" in text
    assert not card_numbers.changed_tables(name_repository(text, "you/tiny"), model_dir)
    assert card_numbers.changed_tables(text.replace("94.40 [93.90", "94.00 [93.90"), model_dir)


def test_an_edited_leaderboard_score_is_not_pushed(model_dir, make, tmp_path):
    folder = make.results(tmp_path / "results", make.rows(str(model_dir), TASKS))
    card.main([str(model_dir), "--results", str(folder), "--benchmark", "you/benchmark"])
    text, board = (model_dir / "README.md").read_text(), model_dir / ".eval_results" / "biovfm.yaml"
    card_numbers.check_numbers(text, model_dir)
    board.write_text(board.read_text().replace("value: 0.81", "value: 0.91"))
    with pytest.raises(UserError, match=r"biovfm\.yaml: states 0\.91 on breastmnist"):
        card_numbers.check_numbers(text, model_dir)
    board.write_text("- just words")
    with pytest.raises(UserError, match="not a list of results"):
        card_numbers.check_numbers(text, model_dir)


def test_segmentation_has_a_table_of_its_own(model_dir, make, tmp_path):
    rows = make.rows(str(model_dir), TASKS)
    dice = {"value": 0.7, "low": 0.6, "high": 0.8}
    rows.append({**rows[0], "task": "busi", "kind": "segmentation", "metrics": {"dice": dice}})
    card.main([str(model_dir), "--results", str(make.results(tmp_path / "results", rows))])
    text = (model_dir / "README.md").read_text()
    assert "### Segmentation" in text and "| busi | linear | fast | 1,000 / 200 | 0.700 [0.600, 0.800] |" in text
    assert "–" not in text.split("## Results")[1].split("### Beside")[0]


def test_pictures_are_of_this_model_two_of_a_kind(model_dir, make, tmp_path):
    mine, other = str(model_dir), "timm/vit_b"
    results = make.results(tmp_path / "results", make.rows(mine, TASKS) + make.rows(other, TASKS))
    word = re.sub(r"[^A-Za-z0-9.-]+", "-", mine).strip("-")
    for name in ("attention_timm-vit-b_t", f"attention_{word}_t", "pca_timm-vit-b_t", f"pca_{word}_t", "roc_t_linear"):
        for number in range(3):
            (results / "figures" / f"{name}{number}.png").write_bytes(make.image(3, 40))
            (results / "figures" / f"{name}{number}.txt").write_text(name)
    words = [str(model_dir), "--results", str(results)]
    assert card.main(words) == 0
    shown = re.findall(r"\]\(figures/(.*?)\.png\)", (model_dir / "README.md").read_text())
    assert shown[0] == "pca_map" and len(shown) == 6 and not any("vit-b" in name for name in shown)
    assert {name.split("_")[0] for name in shown} == {"pca", "roc", "attention"}
    (results / "figures" / "pca_map.txt").unlink()
    assert card.main(words) == 0 and not (model_dir / "figures" / "pca_map.png").exists()


def test_energy_is_arithmetic_on_stated_figures(full_card):
    kilowatt_hours = 150 * 500 / 3.6e6  # 19,200 images at 128 per second, 500 W
    assert f"about {kilowatt_hours:.3g} kWh (estimate" in full_card
    assert ModelCard(full_card).data["co2_eq_emissions"]["emissions"] == round(kilowatt_hours * 400, 3)


def test_a_published_card_names_no_folder_of_the_machine(full_card, tmp_path):
    assert "/home/somebody" not in full_card and str(tmp_path) not in full_card


def test_usage_lines_run_on_16_bits(full_card, model_dir):
    ramp = np.linspace(600, 9000, 48 * 48).reshape(48, 48).astype(np.uint16)  # at 255 all of it would be white
    Image.fromarray(ramp).save(model_dir.parent / "image.png")
    np.save(model_dir.parent / "ramp.npy", ramp)
    blocks = re.findall(r"```python\n(.*?)```", full_card, re.DOTALL)
    script = "".join(blocks[:2])
    script += "assert class_token.shape == (1, 32) and patch_tokens.shape == (1, 16, 32)\n"
    script += "import numpy as np\n"
    script += "right = model(**processor(np.load('ramp.npy'), return_tensors='pt')).pooler_output\n"
    script += "right = right.tolist(); assert np.allclose(features, right, atol=1e-4), (features, right)\n"
    script += "assert np.allclose(class_token.tolist(), right, atol=1e-4), (class_token, right)\n"
    environment = {**os.environ, "PYTHONPATH": str(Path(card.__file__).parents[2])}
    done = subprocess.run(
        [python(), "-c", script],
        cwd=model_dir.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_without_files_no_number_appears(model_dir):
    assert card.main([str(model_dir)]) == 0
    text = (model_dir / "README.md").read_text()
    assert "None: no results file was given" in text and "model-index" not in text
    assert text.count("Not recorded here") == 2 and "Energy: not estimated" in text


def test_numbers_of_another_model_are_refused(model_dir, make, tmp_path):
    folder = make.results(tmp_path / "results", make.rows("somebody/else", TASKS))
    with pytest.raises(UserError, match="only of: somebody/else"):
        card.main([str(model_dir), "--results", str(folder)])
    assert not (model_dir / "README.md").exists()
    assert card.main([str(model_dir), "--results", str(folder), "--known-as", "somebody/else"]) == 0


def test_results_of_several_weights_are_refused(model_dir, make, tmp_path):
    rows = make.rows(str(model_dir), ["t", "u"])
    folder = make.results(tmp_path / "results", [rows[0], {**rows[1], "revision": "trained on"}])
    with pytest.raises(UserError, match="of several weights under this name"):
        card.main([str(model_dir), "--results", str(folder)])


def test_only_this_models_records_are_taken(model_dir, make, tmp_path):
    rows = make.rows("timm/other", TASKS, shift=0.1) + make.rows(str(model_dir), TASKS)
    card.main([str(model_dir), "--results", str(make.results(tmp_path / "results", rows))])
    values = [r.metric_value for r in ModelCard.load(model_dir / "README.md").data.eval_results]
    assert max(values) == 0.81


@pytest.mark.parametrize("missing", ["--results", "--run"])
def test_a_folder_without_the_files_is_refused(model_dir, tmp_path, missing):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        card.main([str(model_dir), missing, str(tmp_path / "empty")])


def test_text_below_the_last_line_and_the_licence_survive(model_dir):
    card.main([str(model_dir), "--license", "cc-by-nc-4.0"])
    readme = model_dir / "README.md"
    readme.write_text(readme.read_text() + "\n## Acknowledgements\n\nThe patients.\n")
    card.main([str(model_dir), "--repo-id", "you/biovfm-tiny"])
    text = readme.read_text()
    assert text.endswith("## Acknowledgements\n\nThe patients.\n") and text.count("The patients.") == 1
    assert ModelCard(text).data.license == "cc-by-nc-4.0" and 'model="you/biovfm-tiny"' in text


def test_beside_published_rows_when_comparable(model_dir, make, tmp_path):
    from biovfm_hf.results.published import table1

    rows = make.rows(str(model_dir), table1()["tasks"], protocol="biovfm")
    card.main([str(model_dir), "--results", str(make.results(tmp_path / "results", rows))])
    text = (model_dir / "README.md").read_text()
    assert "| **tiny-encoder (this card)** |" in text and "| RAD-DINO, trained on chest X-rays |" in text
    assert "94.40 [93.90, 94.84]" in text


def test_rows_of_several_settings_say_which(model_dir, make, tmp_path):
    rows = [{**row, "settings": {"features": name}} for name in ("both", "class")
            for row in make.rows(str(model_dir), ["t"])]  # fmt: skip
    card.main([str(model_dir), "--results", str(make.results(tmp_path / "results", rows))])
    text = (model_dir / "README.md").read_text()
    assert "| linear (features both) |" in text and "| linear (features class) |" in text


def test_every_figure_for_the_hub_says_how_it_was_measured(model_dir, make, tmp_path):
    held = {"features": "both", "precision": "fp32"}
    rows = [{**row, "seed": seed, "settings": held} for seed in (0, 1) for row in make.rows(str(model_dir), ["t"])]
    rows.append({**rows[0], "method": "fewshot-4", "few_shot": True})
    words = ["--results", str(make.results(tmp_path / "results", rows)), "--benchmark", "you/bench"]
    card.main([str(model_dir), *words])
    text = (model_dir / "README.md").read_text()
    entries = {r.metric_name: r for r in ModelCard(text).data.eval_results if r.metric_type == "roc_auc"}
    linear = [f"AUC (linear, fast protocol, features both, precision fp32, seed {seed})" for seed in (0, 1)]
    assert list(entries) == [*linear, linear[0].replace("linear", "fewshot-4")]
    assert set(entries[linear[0]].metric_args) == {"ci_low", "ci_high", "ci_level"}
    assert set(entries[linear[0].replace("linear", "fewshot-4")].metric_args) == {
        "draws_low", "draws_high", "draws_level"
    }  # fmt: skip
    board = (model_dir / ".eval_results" / "biovfm.yaml").read_text()
    assert "linear, fast protocol, features both, precision fp32, seed 0" in " ".join(board.split())
    assert "| linear (seed 0) |" in text and "| linear (seed 1) |" in text
    assert "for few-shot probes they are the range of 95% of the draws" in text
    earlier = re.sub(r", features both,\s+precision fp32,\s+seed \d\)", ")", text)
    assert earlier != text
    card_numbers.check_numbers(earlier, model_dir)  # a card that does not say it yet is no edited one


def test_hostile_names_stay_text(model_dir, make, tmp_path):
    nasty = "a|b\n# x <script>alert(1)</script> `c` [d](javascript:e)"
    folder = make.results(tmp_path / "results", make.rows(str(model_dir), [nasty]))
    data = make.dataset(tmp_path / "data", hostile=nasty.replace("/", ""))
    card.main([str(model_dir), "--results", str(folder), "--dataset", str(data)])
    body = (model_dir / "README.md").read_text().split("\n---\n", 1)[1]
    assert "<script" not in body and "\n# x" not in body and "[d](javascript" not in body
    assert ModelCard.load(model_dir / "README.md").data.eval_results[0].dataset_type == nasty


@pytest.mark.parametrize("words", [{"repo_id": "a/b/c"}, {"dataset_id": ("../x",)}])
def test_wrong_hub_names_are_explained(model_dir, words):
    with pytest.raises(UserError, match="write OWNER/NAME"):
        card.CardOptions(model_dir, **words)


def test_the_function_and_the_command_write_the_same(model_dir, make, tmp_path):
    folder = make.results(tmp_path / "results", make.rows(str(model_dir), TASKS))
    written = card.card(card.CardOptions(str(model_dir), results=str(folder), license="mit"))
    text = written.path.read_text()
    assert (written.results, written.pictures) == (2, 1)
    assert card.main([str(model_dir), "--results", str(folder), "--license", "mit"]) == 0
    assert (model_dir / "README.md").read_text() == text


def test_no_model_folder(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        card.main([str(tmp_path)])


@pytest.mark.parametrize(
    ("seconds", "said"), [(None, "not recorded"), (4.26, "4.3 s"), (200, "3 min 20 s"), (18_120, "5 h 02 min")]
)
def test_durations(seconds, said):
    assert formats.duration(seconds) == said
