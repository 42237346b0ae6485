"""Pretraining the models of a study: what a process is given, resuming, and failures."""

import subprocess
from pathlib import Path

import pytest

import biovfm_hf
from biovfm_hf.errors import UserError
from biovfm_hf.reading.documents import read_yaml
from evaluation.analysis.study import pretraining
from evaluation.analysis.study.pretraining import PretrainingRun, named_models, planned_lines, pretrain, run_files

OVERRIDES = {"steps": 9, "model.hidden_size": 48, "optim.base-lr": "1e-3", "data.weight_by": "modality",
             "data.weights": {"X-Ray": 0.5}}  # fmt: skip


def make_run(name="narrow", **changed):
    settings = {"objective": "", "config": "mae_smoke", "data": "images", "overrides": OVERRIDES}
    settings["plan"] = Path("study.yaml")
    return PretrainingRun(name=name, **{**settings, **changed})


def test_a_process_is_given_a_config_the_data_and_the_folder_alone(tmp_path, fake_training):
    run = make_run()
    pretrain([run], ["--num_processes", "2"], tmp_path)
    (words,) = fake_training
    config = tmp_path / "runs" / "narrow.yaml"
    assert words[1:5] == ["-m", "accelerate.commands.launch", "--num_processes", "2"]
    assert words[5:] == ["-m", "biovfm_hf.cli", "pretrain", str(config), "--data", "images", "--out",
                         str(tmp_path / "runs" / "narrow")]  # fmt: skip


def test_the_config_resolves_to_that_of_the_overrides(tmp_path, fake_training):
    run = make_run(config="dino_smoke", objective="dino")
    pretrain([run], [], tmp_path)
    written = biovfm_hf.pretrain(run_files(tmp_path, run).config, dry_run=True)
    assert written == biovfm_hf.pretrain("dino_smoke", overrides=run.changes, dry_run=True)
    assert "steps: 9" in written and "X-Ray: 0.5" in written and "base_lr: 0.001" in written


def test_the_objective_goes_into_a_config_that_names_none(tmp_path, fake_training):
    (tmp_path / "own.yaml").write_text("steps: 1\n")
    run = make_run(config=str(tmp_path / "own.yaml"), objective="mae", overrides={"model.hidden_size": 48})
    pretrain([run], [], tmp_path)
    assert read_yaml(run_files(tmp_path, run).config) == {"steps": 1, "method": "mae", "model": {"hidden_size": 48}}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"config": "mae_smok"}, "no config file mae_smok; did you mean mae_smoke"),
        ({"overrides": {"model": {}}}, "model is a section of the config"),
        ({"overrides": {"step": 3}}, "unknown config key step; did you mean steps"),
        ({"config": "dino_continue"}, "dino_continue continues from weights; add model.init_from=FOLDER"),
    ],
)
@pytest.mark.parametrize("begin", [pretrain, planned_lines])
def test_a_wrong_config_is_reported_before_any_run_begins(tmp_path, fake_training, begin, changed, message):
    with pytest.raises(UserError, match=f"study.yaml: wide: .*{message}"):
        begin([make_run(), make_run("wide", **changed)], launch=[], out=tmp_path)
    assert not fake_training


def test_what_is_missing_is_trained(tmp_path, fake_training, capsys):
    runs = [make_run(), make_run("wide")]
    pretrain(runs, [], tmp_path)
    (tmp_path / "runs" / "wide" / "model" / "config.json").unlink()
    pretrain(runs, [], tmp_path)
    assert [words[-1].rsplit("/")[-1] for words in fake_training] == ["narrow", "wide", "wide"]
    assert "[1/2] narrow: trained already" in capsys.readouterr().out


def test_finished_runs_of_other_settings_are_refused(tmp_path, fake_training):
    pretrain([make_run()], [], tmp_path)
    with pytest.raises(UserError, match="narrow was trained with other settings"):
        pretrain([make_run(overrides={**OVERRIDES, "steps": 10})], [], tmp_path)
    assert len(fake_training) == 1


def test_the_check_follows_each_run_that_is_trained_now(tmp_path, fake_training):
    runs, checked = [make_run(), make_run("wide")], []
    pretrain(runs[:1], [], tmp_path)
    pretrain(runs, [], tmp_path, checked.append)
    assert checked == runs[1:]


def test_a_failed_run_stops_the_study_with_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining.subprocess, "run", lambda words, check, env: subprocess.CompletedProcess(words, 3))
    with pytest.raises(UserError, match="narrow ended with status 3"):
        pretrain([make_run()], [], tmp_path)


def test_a_dry_run_says_what_the_config_will_hold(tmp_path):
    about, command = planned_lines([make_run(objective="mae", overrides={"steps": 9})], tmp_path, [])
    assert about == f'# {tmp_path}/runs/narrow.yaml: mae_smoke with {{"method": "mae", "steps": 9}}'
    assert command.endswith(f"pretrain {tmp_path}/runs/narrow.yaml --data images --out {tmp_path}/runs/narrow")
    assert named_models(tmp_path, [make_run()]) == (f"narrow={tmp_path}/runs/narrow/model",)
