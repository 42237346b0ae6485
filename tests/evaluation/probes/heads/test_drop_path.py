"""Stochastic depth while a head is trained: equal to the model's training mode, and only in DINOv2's form."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from biovfm_hf import BioVFMConfig, BioVFMModel
from evaluation.encoders.load import load_encoder
from evaluation.probes.heads.drop_path import NoisyFeatures, _drop, drop_rate, dropping
from evaluation.probes.linear import AuthorsLinear
from evaluation.probes.probe import ProbeRun, Trial
from evaluation.tasks import open_task


@pytest.fixture(scope="module")
def encoder(tiny_model):
    encoder = load_encoder(str(tiny_model))
    with torch.no_grad():  # as after training: with 1e-5, dropping a branch would change nothing
        for name, parameter in encoder.module.named_parameters():
            if "layer_scale" in name:
                parameter.fill_(0.5)
    return encoder


def test_the_same_paths_are_dropped_as_in_the_models_training_mode(encoder):
    """BioVFM's stochastic depth is DINOv2's, parity-tested; with one seed both draw the same images."""
    model = BioVFMModel(BioVFMConfig(**{**encoder.module.config.to_dict(), "drop_path_rate": 0.3}))
    model.load_state_dict(encoder.module.state_dict())
    pixels = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    with torch.no_grad():
        expected = model.train()(pixels).last_hidden_state
        with dropping(encoder.module.eval(), 0.3, torch.Generator().manual_seed(5)):
            dropped = encoder.module(pixels).last_hidden_state
        clean = encoder.module(pixels).last_hidden_state
    torch.testing.assert_close(dropped, expected, rtol=1e-4, atol=1e-4)
    assert (dropped - clean).abs().max() > 0.1  # and the hooks are gone
    torch.testing.assert_close(clean, model.eval()(pixels).last_hidden_state)


@pytest.mark.parametrize(("batch", "rate", "kept"), [(128, 0.3, 89), (128, 0.4, 76), (2, 0.4, 1), (1, 0.3, 1)])
def test_a_branch_keeps_the_share_of_the_batch_and_is_scaled_for_it(batch, rate, kept):
    residual = _drop(torch.nn.Identity(), (), torch.ones(batch, 3, 2), rate, torch.Generator().manual_seed(0))
    per_image = residual[:, 0, 0]
    assert (per_image > 0).sum() == kept and residual.mean().item() == pytest.approx(1, abs=1e-5)


def test_rates_are_the_authors_and_other_forms_have_none():
    def form(**settings):
        config = {"num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 8, "image_size": 32}
        return replace(stand_in, module=BioVFMModel(BioVFMConfig(**config | settings)))

    stand_in = load_encoder("scratch:unet")
    assert drop_rate(form(hidden_size=64)) == 0.3 and drop_rate(form(hidden_size=1280)) == 0.4
    assert drop_rate(form(hidden_size=64, layerscale_value=None)) == 0.0  # an MAE's
    assert drop_rate(stand_in) == 0.0


@pytest.fixture(scope="module")
def task(class_folder):
    return open_task(str(class_folder), class_folder)


def test_features_are_those_of_the_images_with_noise_that_a_seed_repeats(encoder, task):
    split = task.splits["train"]
    rows = [np.array([3, 1, 8, 2]), np.array([0, 5, 4, 6])]
    noisy = NoisyFeatures(encoder, split, 0.3, 7)
    first, again = (list(noisy(2, rows)) for _ in range(2))
    clean = encoder.encode(encoder.preprocess([split.images[int(row)] for row in rows[0]])).summary()["mean_raw"]
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert not np.array_equal(first[0], next(iter(noisy(3, rows))))  # another epoch, other images dropped
    assert first[0].shape == clean.shape and not np.allclose(first[0], clean.numpy(), atol=1e-2)
    without = list(NoisyFeatures(encoder, split, 0.0, 7)(2, rows))
    np.testing.assert_allclose(without[0], clean.numpy(), atol=1e-5)
    augmented = list(NoisyFeatures(encoder, split, 0.0, 7, views=2)(2, rows))
    assert not np.allclose(augmented[0], clean.numpy(), atol=1e-3)


def test_cases_of_several_images_are_pooled_in_the_given_order(encoder, task):
    cases = np.arange(24) // 3
    split = replace(task.splits["train"], case_of_image=cases, labels=np.arange(8) % 2)
    (features,) = NoisyFeatures(encoder, split, 0.0, 0)(0, [np.array([5, 0])])
    for row, case in zip(features, (5, 0), strict=True):
        images = [split.images[number] for number in np.flatnonzero(cases == case)]
        mean = encoder.encode(encoder.preprocess(images)).summary()["mean_raw"].mean(0)
        np.testing.assert_allclose(row, mean.numpy(), atol=1e-4)


def test_the_switch_is_a_setting_and_the_record_states_the_rate(tmp_path, make_model, encoder, task):
    mae = load_encoder(str(make_model(tmp_path / "mae", layerscale_value=None)))
    plain, noisy = AuthorsLinear(epochs=2), AuthorsLinear(epochs=2, authors_drop_path=True)
    assert noisy.identity == {**plain.identity, "authors_drop_path": True}
    for one, rate in ((encoder, 0.3), (mae, 0.0)):
        answers = [
            probe.run(Trial(one, task, ProbeRun(probe, "biovfm", resamples=5), tmp_path / one.name))
            for probe in (plain, noisy)
        ]
        assert [answer.chosen.get("drop_path") for answer in answers] == [None, rate]
        alike = np.array_equal(*(answer.arrays["val_scores"] for answer in answers))
        assert alike == (rate == 0)  # an MAE drops nothing
