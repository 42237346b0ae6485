"""Few-shot probes and fine-tuning."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biovfm_hf.errors import UserError
from biovfm_hf.results.record import Record
from evaluation.commands.probe import main
from evaluation.encoders.load import load_encoder
from evaluation.probes.draws import SubjectDraws, draw_subjects
from evaluation.probes.finetune import BitFit, FineTune, LoRA
from evaluation.probes.heads.few_shot import probe_few_shot
from evaluation.probes.linear import Linear
from evaluation.probes.masks.scratch import build
from evaluation.probes.probe import ProbeRun, Problem, Trial
from evaluation.probes.segment import Segment
from evaluation.probes.tuning.classifier import TuningRecipe, probe_finetune, random_crop
from evaluation.probes.tuning.weights import find_targets
from evaluation.results.comparisons import _few_shot
from evaluation.statistics.significance import seed_spread
from evaluation.tasks import Split, open_task

SHOTS = Record("", "", "", method="fewshot", kind="binary-class")

NOBODY = {"train": None, "val": None, "test": None}  # subjects
METHODS = {"finetune": FineTune(), "lora": LoRA(), "bitfit": BitFit()}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(2, 4), st.integers(0, 2**31))
def test_draws_have_whole_subjects_and_the_given_number(shots, classes, seed):
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, 40, 150)
    class_of = rng.integers(0, classes, 40)
    labels, subjects = class_of[owner], np.array([f"s{n}" for n in owner])
    rows = draw_subjects(labels, subjects, shots, np.random.default_rng(seed))
    for label in np.unique(labels):
        there = len(np.unique(subjects[labels == label]))
        assert len(np.unique(subjects[rows][labels[rows] == label])) == min(shots, there)
    for subject in np.unique(subjects[rows]):
        assert set(np.flatnonzero(subjects == subject)) <= set(rows)


def test_draws_of_several_labels_reach_every_label():
    labels = np.eye(4, dtype=int)[np.arange(40) % 4]
    rows = draw_subjects(labels, None, 2, np.random.default_rng(0))
    assert len(rows) == 8 and (labels[rows].sum(0) == 2).all()


def few_shot(shots, draws=6, shift=2.0):
    rng = np.random.default_rng(0)
    features, labels_of = {}, {}
    for name, count in (("train", 120), ("val", 60), ("test", 90)):
        labels = np.arange(count) % 3
        features[name] = (rng.normal(size=(count, 300)) + shift * np.eye(3, 300)[labels]).astype(np.float32)
        labels_of[name] = labels
    return probe_few_shot(Problem("multi-class", 3, features, labels_of), NOBODY, SubjectDraws(shots, draws, 7))


def test_few_shot_improves_with_shots_and_repeats():
    one, arrays, sizes = few_shot(1)
    many, _, _ = few_shot(32)
    assert sizes == [3] * 6 and many["auc"]["value"] > one["auc"]["value"] + 0.05
    assert one["auc"]["low"] <= one["auc"]["value"] <= one["auc"]["high"] and one["auc"]["sd"] > 0
    assert arrays["draw_auc"].shape == (6,) and arrays["overlap"] < 0.1
    assert few_shot(100)[1]["overlap"] == 1  # all subjects
    assert few_shot(1)[0] == one
    alone = few_shot(1, draws=1)[0]["auc"]
    assert alone["value"] > 0 and alone["low"] is alone["high"] is alone["sd"] is None  # no range of width zero


def test_few_shot_command_compares_draw_by_draw(tmp_path, tiny_model, second_model, class_folder):
    words = ["--model", f"a={tiny_model}", "--model", f"b={second_model}", "--tasks", str(class_folder)]
    main(
        [*words, "--out", str(tmp_path), "--method", "fewshot", "--shots", "1,4", "--draws", "4", "--resamples", "30"]
    )
    records = json.loads((tmp_path / "results.json").read_text())
    assert [r["method"] for r in records] == ["fewshot-1", "fewshot-1", "fewshot-4", "fewshot-4"]
    assert all(r["few_shot"] for r in records)
    rows = json.loads((tmp_path / "comparisons.json").read_text())
    assert {row["method"] for row in rows} == {"fewshot-1", "fewshot-4"}
    for row in rows:  # each variance has a part from the draws and a part from the test cases
        assert row["low"] <= row["difference"] <= row["high"] and {"draw_sd", "case_se"} <= set(row)
    table = (tmp_path / "table.md").read_text()
    assert "Paired by draw of the training subjects and by test case" in table and "holds 95 % of the draws" in table
    assert "bootstrap" not in table
    assert (tmp_path / "figures" / "fewshot_stripes.png").exists()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(0, 20))
def test_means_over_draws_on_each_resample_are_enough(seed, draws, fewer):
    """Resamples kept per draw would give the same interval; records with fewer resamples share the first ones."""
    rng = np.random.default_rng(seed)
    drawn = rng.random((2, draws, 1)) + 0.1 * rng.random((2, 1, 41)) + 0.05 * rng.random((2, draws, 41))
    kept = [
        {"draw_auc": each[:, 0], "case_auc": each[:, 1:].mean(0), "test_labels": np.zeros((60, 1))} for each in drawn
    ]
    kept[1]["case_auc"] = kept[1]["case_auc"][: 40 - fewer]
    found = _few_shot(SHOTS, [tuple(kept)])["auc"]
    whole = seed_spread((drawn[0] - drawn[1])[:, : 41 - fewer])
    ends = [whole.mean - whole.half_width(), whole.mean + whole.half_width()]
    np.testing.assert_allclose([found["low"], found["high"]], ends)
    assert found["p"] == pytest.approx(whole.p())


def equal_encoders(number, cases, draws, resamples):
    """The arrays that few-shot probing keeps for two encoders with features from one distribution, 16 shots."""
    rng = np.random.default_rng([number, cases])
    labels = {name: rng.permutation(np.arange(count) % 2) for name, count in
              (("train", 1000), ("val", 200), ("test", cases))}  # fmt: skip
    kept = []
    for _ in range(2):
        features = {
            name: (rng.normal(size=(len(held), 32)) + 0.35 * (held[:, None] - 0.5)).astype(np.float32)
            for name, held in labels.items()
        }
        problem = Problem("binary-class", 2, features, labels)
        kept.append(probe_few_shot(problem, NOBODY, SubjectDraws(16, draws, 0, resamples))[1])
    return tuple(kept)


def share_of_false_differences(studies, cases, draws, resamples, metric="auc"):
    """The share of simulated studies in which equal encoders differ at 0.05."""
    pairs = (equal_encoders(number, cases, draws, resamples) for number in range(studies))
    return np.mean([_few_shot(SHOTS, [pair])[metric]["p"] < 0.05 for pair in pairs])


def test_equal_encoders_seldom_differ_by_few_shot():
    """Of 200 studies with 20 draws and 150 test cases 41 % found a difference by the draws alone."""
    assert share_of_false_differences(40, 100, 6, 100) <= 0.125


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("cases", [150, 624])
def test_equal_encoders_differ_in_one_of_twenty_few_shot_studies(cases):
    """The figures of docs/evaluation.md: 20 draws, 200 studies; minutes."""
    found = share_of_false_differences(200, cases, 20, 200)
    print(f"{cases} test cases: {100 * found:.1f} % of equal encoders differ in AUC")
    assert found <= 0.09


def make_recipe(method, epochs=6):
    return TuningRecipe(
        method, METHODS[method], epochs, {"finetune": 1e-3, "lora": 5e-3, "bitfit": 5e-3}[method], 8, 0
    )


@pytest.mark.parametrize("method", ["finetune", "lora", "bitfit"])
def test_fine_tuning_learns_and_leaves_the_encoder_alone(tiny_model, class_folder, method):
    encoder = load_encoder(str(tiny_model))
    task = open_task(str(class_folder), class_folder)
    before = {name: value.clone() for name, value in encoder.module.state_dict().items()}
    scores = probe_finetune(encoder, task, make_recipe(method))
    assert all(torch.equal(before[name], value) for name, value in encoder.module.state_dict().items())
    assert scores.test.shape == (15, 2)
    assert (scores.test.argmax(1) == task.splits["test"].labels).mean() > 0.8
    everything = sum(p.numel() for p in encoder.module.parameters())
    assert 0 < scores.chosen["trained_weights"] <= everything
    assert (scores.chosen["trained_weights"] == everything) == (method == "finetune")


def test_what_each_method_trains(tiny_model):
    module = BitFit().prepare(load_encoder(str(tiny_model)).module)
    assert {name.split(".")[-1] for name, p in module.named_parameters() if p.requires_grad} == {"bias"}
    module = LoRA().prepare(load_encoder(str(tiny_model)).module)
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    assert names and all("lora_" in name for name in names)
    assert len(find_targets(load_encoder(str(tiny_model)).module, "attention")) == 8  # qkv and proj of four blocks


def test_lora_of_a_convolutional_net_is_refused():
    with pytest.raises(UserError, match="no attention layers"):
        LoRA().prepare(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1)))


def test_training_repeats_with_its_seed(tiny_model, class_folder):
    task = open_task(str(class_folder), class_folder)
    first, again = (probe_finetune(load_encoder(str(tiny_model)), task, make_recipe("bitfit", 2)) for _ in range(2))
    np.testing.assert_allclose(first.test, again.test, atol=1e-6)


def test_cases_of_several_images_are_averaged(tiny_model, class_folder):
    task = open_task(str(class_folder), class_folder)
    splits = {}
    for name, split in task.splits.items():
        count = len(split.images) // 3
        cases = np.arange(len(split.images)) // 3
        splits[name] = Split(split.images, labels=np.arange(count) % 2, case_of_image=cases)
    grouped = type(task)(task.record, splits)
    scores = probe_finetune(load_encoder(str(tiny_model)), grouped, make_recipe("finetune", 1))
    assert scores.test.shape == (5, 2) and scores.val.shape == (4, 2)


def test_mixed_precision_reaches_the_encoder_and_not_the_scores(tiny_model, class_folder):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    seen = []

    def watch(_module, inputs, output):
        seen.append((inputs[0].dtype, output.dtype))

    try:
        encoder = load_encoder(str(tiny_model), precision="bf16")
        attention = find_targets(encoder.module, "attention")[0]
        encoder.module.get_submodule(attention).register_forward_hook(watch)
        scores = probe_finetune(encoder, open_task(str(class_folder), class_folder), make_recipe("finetune", 2))
    finally:
        AcceleratorState._reset_state(True)
    assert torch.bfloat16 in {output for _, output in seen}
    assert scores.test.dtype == np.float32 and len(np.unique(scores.test[:, 0])) == len(scores.test)


def test_divergence_is_reported(tiny_model, class_folder):
    task = open_task(str(class_folder), class_folder)
    with pytest.raises(UserError, match="rate"):
        probe_finetune(
            load_encoder(str(tiny_model)), task, TuningRecipe("finetune", FineTune(), 2, float("inf"), 8, 0)
        )


def test_random_crop_keeps_three_quarters_and_the_proportions(make_image):
    image = make_image(0, 0, 64)[:48]
    for seed in range(20):
        crop = random_crop(image, np.random.default_rng(seed))
        assert 0.7 < crop.size / image.size <= 1 and abs(crop.shape[1] / crop.shape[0] - 64 / 48) < 0.05


@pytest.mark.parametrize(("name", "epochs"), [("unet-small", 8), ("transunet-small", 12)])
def test_networks_from_scratch_segment_and_are_refused_elsewhere(
    tmp_path, make_mask_folder, class_folder, name, epochs
):
    folder = make_mask_folder(tmp_path / "discs", {"train": 8, "val": 2, "test": 3})
    stand_in = load_encoder(f"scratch:{name}")
    assert stand_in.revision == f"scratch:{name}@32"
    probe = Segment(image_size=32, epochs=epochs)
    answer = probe.run(Trial(stand_in, open_task(str(folder), folder), ProbeRun(probe, resamples=20), tmp_path))
    assert answer.metrics["dice"]["value"] > 0.5 and answer.trained == answer.parameters > 7e6
    linear = Linear()
    with pytest.raises(UserError, match="no features"):
        linear.run(Trial(stand_in, open_task(str(class_folder), class_folder), ProbeRun(linear), tmp_path))


def test_scratch_baselines_refuse_other_names_and_sizes(tmp_path, mask_folder):
    words = ["--tasks", str(mask_folder), "--method", "segment", "--out", str(tmp_path)]
    with pytest.raises(UserError, match="is no network"):
        main(["--model", "scratch:vnet", *words])
    with pytest.raises(UserError, match="multiple of 16"):
        main(["--model", "scratch:unet", *words, "--image-size", "40"])


@pytest.mark.parametrize(("size", "parameters"), [(224, 324_023_569), (448, 324_625_681)])
def test_the_transunet_of_the_papers_name_has_its_324_million_weights(size, parameters):
    with torch.device("meta"):
        network = build("transunet", 1, size)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize(("classes", "parameters"), [(1, 31_037_633), (3, 31_037_763)])
def test_the_unet_of_the_papers_name_has_its_31_million_weights(classes, parameters):
    with torch.device("meta"):
        network = build("unet", classes, 32)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
