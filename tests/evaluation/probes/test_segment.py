"""Probes of masks: what they train, choose, keep and do not change."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from biovfm_hf.errors import UserError
from evaluation.commands.probe import main
from evaluation.encoders.load import load_encoder
from evaluation.pictures.scores import draw_shots
from evaluation.probes import segment
from evaluation.probes.masks.few_shot import study_rows
from evaluation.probes.masks.study import RATES
from evaluation.probes.masks.training import one_cycle
from evaluation.probes.probe import STUDY, ProbeRun, Trial, find_probes
from evaluation.probes.suite import identify, make_record
from evaluation.probes.tuning.optimisation import shuffled
from evaluation.results.records import merge_records
from evaluation.tasks import Split, Task, open_task

DISCS = {"train": 6, "val": 3, "test": 4}


@pytest.fixture(scope="module")
def task(tmp_path_factory, write_masks):
    folder = write_masks(tmp_path_factory.mktemp("masks") / "discs", DISCS)
    return open_task(str(folder), folder)


@pytest.fixture(scope="module")
def encoder(tiny_model):
    return load_encoder(str(tiny_model))


@pytest.fixture(scope="module")
def trial(tmp_path_factory, task, encoder):
    """Makes trials of a probe that share cached features."""
    cache = tmp_path_factory.mktemp("cache")

    def make(probe, **settings):
        return Trial(encoder, task, ProbeRun(probe, resamples=20, **settings), cache)

    return make


def dice(answer):
    return answer.metrics["dice"]["value"]


TUNED = {"lora": segment.LoRAMasks, "bitfit": segment.BitFitMasks, "finetune": segment.FineTuneMasks}


@pytest.mark.parametrize("decoder", ["linear", "unet"])
@pytest.mark.parametrize("name", TUNED)
def test_an_encoder_is_trained_with_either_decoder_and_left_alone(trial, encoder, name, decoder):
    before = {name: value.clone() for name, value in encoder.module.state_dict().items()}
    probe = TUNED[name](decoder=decoder, epochs=4, rate=5e-3)
    answer = probe.run(trial(probe))
    assert all(torch.equal(before[name], value) for name, value in encoder.module.state_dict().items())
    assert not any(parameter.requires_grad for parameter in encoder.module.parameters())
    everything = sum(value.numel() for value in encoder.module.parameters())
    trained = answer.chosen["trained_weights"]
    assert (trained == everything) == (name == "finetune") and 0 < trained <= everything
    width, classes = 32, 2
    head = answer.trained - trained
    assert head == classes * (width + 1) if decoder == "linear" else head > 10_000
    assert answer.parameters >= everything + head and dice(answer) > (0.5 if decoder == "linear" else 0.1)


@pytest.mark.parametrize("augment", ["study", "medical"])
def test_augmentation_trains_on_other_images_with_a_frozen_encoder(trial, encoder, augment):
    plain, changed = (segment.Segment(augment=one, epochs=6, rate=1e-2) for one in (None, augment))
    answers = [probe.run(trial(probe)) for probe in (plain, changed)]
    assert dice(answers[1]) > 0.5 and "epoch" in answers[1].chosen
    assert answers[1].trained == answers[0].trained == 2 * 33
    assert not np.array_equal(*(answer.arrays["test_counts"] for answer in answers))


def test_a_seed_gives_the_same_masks_again(trial):
    probe = segment.FineTuneMasks(epochs=2, augment="medical")
    first, again, other = (probe.run(trial(probe, seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.arrays["test_counts"], again.arrays["test_counts"])
    assert not np.array_equal(first.arrays["test_counts"], other.arrays["test_counts"])


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 11])
def test_the_rate_rises_and_falls_over_however_few_steps(steps):
    optimizer, schedule = one_cycle(torch.nn.Linear(2, 2), 1e-3, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert 0 < max(rates) <= 1e-3 * (1 + 1e-6) and min(rates) >= 0


def test_divergence_of_masks_is_reported(trial):
    probe = segment.FineTuneMasks(epochs=2, rate=1e30)
    with pytest.raises(UserError, match="lower --rate"):
        probe.run(trial(probe))


def test_windows_and_sizes_give_finer_masks_of_whole_images(trial):
    coarse, fine, large = (
        segment.Segment(), segment.Segment(window=16), segment.Segment(image_size=64),
    )  # fmt: skip
    answers = [probe.run(trial(probe)) for probe in (coarse, fine, large)]
    counts = [answer.arrays["test_counts"] for answer in answers]
    assert all(part.shape == (4, 2, 4) and (part[..., 2].sum(1) == 32 * 32).all() for part in counts)
    assert min(dice(answers[1]), dice(answers[2])) > dice(answers[0])  # 16 tokens a side of 32 pixels are few


@pytest.mark.parametrize("augment", ["study", "none"])
def test_the_study_takes_the_best_of_seven_rates_and_its_own_score(trial, augment):
    probe = segment.StudySegment(augment=augment, epochs=8)
    answer = probe.run(trial(probe, protocol=STUDY))
    chosen = answer.chosen
    assert list(chosen["tried"]) == [f"{rate:g}" for rate in RATES]
    assert chosen["val_radiology"] == max(chosen["tried"].values()) == chosen["tried"][f"{chosen['rate']:g}"]
    assert answer.primary == "radiology" and answer.metrics["radiology"]["value"] > 0.3
    assert chosen["steps"] == 8 and answer.trained == 2 * 33  # one batch of all nine images, one decoder
    assert answer.arrays["test_study_counts"][..., 2].sum() == 4 * 32 * 32
    assert any("32 x 32 pixels" in note for note in answer.notes)


def test_batches_of_the_study_go_on_over_the_end_of_an_order():
    rows = np.concatenate(list(shuffled(5, 3, 10, 0)))
    assert len(rows) == 30 and all(sorted(rows[start : start + 5]) == list(range(5)) for start in range(0, 30, 5))


def test_few_images_of_the_study_are_the_published_ones():
    """Of Montgomery's 69 training images."""
    assert study_rows(69, 4).tolist() == [0, 17, 34, 52]
    assert study_rows(69, 16).tolist() == [0, 4, 9, 13, 17, 22, 26, 30, 34, 39, 43, 47, 52, 56, 60, 65]
    assert study_rows(69, 2).tolist() == [0, 34] and study_rows(69, 1).tolist() == [0]
    assert study_rows(69, 8).tolist() == [0, 9, 17, 26, 34, 43, 52, 60] and len(study_rows(7, 15)) <= 15


def test_the_study_trains_on_its_few_images_once(trial):
    probe = segment.StudyFewShotMasks(shots=2, epochs=4)
    answer = probe.run(trial(probe, protocol=STUDY))
    assert probe.identity["draws"] == 1 and answer.chosen["train_images"] == [2, 2]
    entry = answer.metrics["radiology"]
    assert entry["value"] > 0 and entry["low"] is None and answer.primary == "radiology"


def with_subjects(task):
    """The same images, two of each subject."""
    splits = {}
    for name, split in task.splits.items():
        subjects = np.array([f"{name}{number // 2}" for number in range(len(split.images))])
        splits[name] = Split(split.images, masks=split.masks, subjects=subjects)
    return Task(task.record, splits)


def test_draws_of_masks_hold_whole_subjects(trial, task):
    probe = segment.FewShotMasks(shots=2, draws=3)
    of_subjects = Trial(trial(probe).encoder, with_subjects(task), ProbeRun(probe, resamples=20), trial(probe).cache)
    answer = probe.run(of_subjects)
    assert answer.chosen["train_images"] == [4, 4] and len(answer.arrays["test_subjects"]) == 4
    assert answer.arrays["draw_dice"].shape == (3,) and answer.arrays["case_dice"].shape == (20,)
    entry = answer.metrics["dice"]
    assert entry["value"] == pytest.approx(answer.arrays["draw_dice"].mean()) and entry["draws"] == 3
    assert entry["low"] <= entry["value"] <= entry["high"] and len(answer.chosen["draws"]) == 3


def test_more_subjects_give_better_masks(trial):
    few, all_there_is = (segment.FewShotMasks(shots=shots, draws=4) for shots in (1, 6))
    answers = [probe.run(trial(probe)) for probe in (few, all_there_is)]
    assert dice(answers[1]) > dice(answers[0]) and answers[1].arrays["overlap"] == 1
    whole = segment.Segment()
    assert dice(answers[1]) == pytest.approx(dice(whole.run(trial(whole))), abs=1e-6)


def test_few_shot_of_masks_is_compared_and_in_the_tables(tmp_path, tiny_model, second_model, task, mask_folder):
    words = ["--model", f"a={tiny_model}", "--model", f"b={second_model}", "--tasks", str(mask_folder)]
    words += ["--out", str(tmp_path), "--method", "fewshot", "--shots", "1,2", "--draws", "2", "--resamples", "20"]
    main([*words, "--no-figures"])
    records = merge_records(tmp_path)
    assert [record.method for record in records] == ["fewshot-1", "fewshot-1", "fewshot-2", "fewshot-2"]
    rows = json.loads((tmp_path / "comparisons.json").read_text())
    assert {row["metric"] for row in rows} == {"dice", "jaccard", "radiology"}
    assert all(row["p"] is not None and {"draw_sd", "case_se"} <= set(row) for row in rows)
    assert "Paired by draw" in (tmp_path / "table.md").read_text()
    draw_shots(tmp_path, records)
    assert (tmp_path / "figures" / f"fewshot_{mask_folder.name}.png").exists()


def test_predicted_masks_are_saved_also_where_the_record_is_there_already(tmp_path, trial, task, capsys):
    probe = segment.Segment()
    plain, saving = trial(probe), trial(probe, save_masks="auto")
    known = make_record(plain, tmp_path)
    stored = make_record(plain, tmp_path)
    assert stored == known and not (tmp_path / "masks").exists()
    again = make_record(saving, tmp_path)
    assert again.metrics == known.metrics and identify(plain) == identify(saving)
    (folder,) = (tmp_path / "masks").iterdir()
    masks = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
    counts = np.load(tmp_path / stored.scores)["test_counts"]
    assert [int(mask.sum()) for mask in masks] == counts[:, 1, 1].tolist() and masks[0].shape == (32, 32)
    make_record(saving, tmp_path)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["done", "have", "done", "have"]


def test_few_shot_saves_the_masks_of_each_draw(tmp_path, trial):
    make_record(trial(segment.FewShotMasks(shots=1, draws=2), save_masks="png"), tmp_path)
    (folder,) = (tmp_path / "masks").iterdir()
    assert [part.name for part in sorted(folder.iterdir())] == ["draw-01", "draw-02"]
    first = [np.asarray(Image.open(path)) for path in sorted((folder / "draw-01").iterdir())]
    counts = np.load(next((tmp_path / "scores").iterdir()))["test_counts"]  # of the first draw
    assert [int(mask.sum()) for mask in first] == counts[:, 1, 1].tolist()


def test_methods_of_masks_and_classes_share_their_names():
    for name in ("lora", "bitfit", "finetune", "fewshot"):
        kinds = [probe.kinds for probe in find_probes(name, "fast")]
        assert len(kinds) == 2 and ("segmentation",) in kinds
    assert [probe.kinds for probe in find_probes("segment", STUDY)] == [("segmentation",)]
    with pytest.raises(UserError, match="under protocol radiology"):
        find_probes("mil", STUDY)


def test_records_of_the_method_before_are_not_taken_for_todays(trial):
    """It had another decoder and loss with the same settings."""
    for probe in (segment.Segment(), segment.Segment(decoder="unet"), segment.FewShotMasks()):
        assert identify(trial(probe)).setting("version") == 2


def test_the_study_has_no_recipe_for_networks_from_scratch(tmp_path, task):
    probe = segment.StudySegment(image_size=32)
    stand_in = load_encoder("scratch:unet-small")
    with pytest.raises(UserError, match="published none"):
        probe.run(Trial(stand_in, task, ProbeRun(probe, STUDY, resamples=5), tmp_path))
