"""Files of other authors are not lost: folders, cards and results that a command did not write itself."""

import json
from pathlib import Path
from typing import Any

import pytest

from biovfm_hf.cards.stub import STUB_FIELD
from biovfm_hf.errors import UserError
from model_cards.card import command as card
from model_cards.card import earlier as earlier_card
from model_cards.demo import command as demo
from model_cards.hub.card import name_repository
from model_cards.inputs.kinds import find_inputs
from model_cards.report import command as report

CODE = '```python\nmodel = AutoModel.from_pretrained("facebook/dinov2-base")\n```\n'


def test_an_export_never_replaces_a_folder_of_other_things(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="not an exported Space"):
        demo.main([str(model_dir), "--export", str(tmp_path), "--repo-id", "you/mae"])
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_readme_that_is_no_card_is_kept_below_the_card(model_dir: Path) -> None:
    readme = model_dir / "README.md"
    readme.write_text(f"---\nlicense: mit\n---\n\n# My own words\n{CODE}")
    for _ in range(2):
        assert card.main([str(model_dir)]) == 0
        written, _, kept = readme.read_text().partition(earlier_card.END)
        assert "My own words" in kept and CODE in kept and "My own words" not in written
        assert "license: mit" in written
    assert CODE in name_repository(readme.read_text(), "you/x")
    assert 'from_pretrained("you/x")' in name_repository(readme.read_text(), "you/x").partition(earlier_card.END)[0]


def test_the_stub_of_a_training_run_is_replaced(model_dir: Path) -> None:
    (model_dir / "README.md").write_text(f"---\n{STUB_FIELD}: true\n---\n# vit-tiny\n\nA few facts.\n")
    assert card.main([str(model_dir)]) == 0
    text = (model_dir / "README.md").read_text()
    assert STUB_FIELD not in text and "A few facts." not in text


def test_removed_scores_are_reported(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model_dir / "results").mkdir()
    (model_dir / "results" / "biovfm.json").write_text("[]")
    assert card.main([str(model_dir)]) == 0
    assert "no results were given" in capsys.readouterr().out


@pytest.fixture
def model_dir(make, tmp_path: Path) -> Path:
    return make.model(tmp_path / "tiny-encoder")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--benchmark", "you/board"], "without results"),
        (["--watts", "700"], "without run"),
        (["--grid", "380"], "without watts"),
        (["--watts", "-5"], "above 0"),
        (["--watts", "nan"], "finite"),
        (["--watts", "0"], "above 0"),
        (["--grid", "inf"], "finite"),
    ],
)
def test_wrong_options_and_those_without_effect_are_refused(words: list[str], reason: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        card.main(["model", *words])
    assert ended.value.code == 2 and reason in capsys.readouterr().err


def test_the_run_of_another_objective_is_refused(model_dir: Path, tmp_path: Path) -> None:
    (model_dir / "training_config.yaml").write_text("method: dino\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("method: mae\n")
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    with pytest.raises(UserError, match="made with dino"):
        card.main([str(model_dir), "--run", str(tmp_path / "run")])


def test_a_report_is_written_to_an_html_file_only(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    results.write_text("[]")
    with pytest.raises(UserError, match="is an HTML page"):
        report.ReportOptions(tmp_path, out=results)
    assert results.read_text() == "[]"


def test_everything_in_a_quickstarts_folder_is_found(tmp_path: Path) -> None:
    for place in (
        "runs/dino/metrics.jsonl",
        "models/mae/config.json",
        "models/mae/model.safetensors",
        "results/results.json",
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(json.dumps([]))
    found = find_inputs([tmp_path])
    assert [found.runs, found.models, found.results] == [
        [tmp_path / "runs" / "dino"], [tmp_path / "models" / "mae"], [tmp_path / "results"],
    ]  # fmt: skip


def test_the_label_of_an_indexed_image_is_its_class_not_its_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "benign").mkdir(parents=True)
        (tmp_path / split / "benign" / "a.png").write_bytes(b"x")
    assert {label for _, label, _ in demo.indexed_images(tmp_path, 10, 0)} == {"benign"}
