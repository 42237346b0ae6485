"""Measures of layers on values known by hand, and `biovfm analyse` from end to end on miniatures."""

import csv
import json

import numpy as np
import pytest

from biovfm_hf.errors import UserError
from evaluation.analysis.layers.attention import attention_entropy, attention_nmi
from evaluation.analysis.layers.command import main
from evaluation.analysis.layers.similarity import cka_interval, cka_map
from evaluation.analysis.layers.spectrum import mle_dimension, participation_ratio, two_nn
from evaluation.analysis.layers.tokens import relative_log_amplitude, token_cosine
from evaluation.encoders.attention import block_attention
from evaluation.encoders.load import load_encoder


def test_cka_ignores_rotation_scale_and_place_and_is_near_0_for_noise():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 16))
    turned = features @ np.linalg.qr(rng.normal(size=(16, 16)))[0] * 7 + 100
    assert cka_map([features], [turned])[0, 0] == pytest.approx(1, abs=1e-9)
    noise = rng.normal(size=(200, 16))
    low, high = cka_interval(features, noise, 50)
    assert low < cka_map([features], [noise])[0, 0] < high < 0.1
    assert np.isnan(cka_map([np.ones((10, 3))])[0, 0])
    with pytest.raises(UserError, match="3 images"):
        cka_map([features[:3]])


def test_dimensions_of_a_plane_in_many_directions():
    rng = np.random.default_rng(0)
    plane = rng.random((1500, 2)) @ rng.normal(size=(2, 30))
    assert two_nn(np.concatenate([plane, plane])) == pytest.approx(2, abs=0.2)
    assert mle_dimension(plane) == pytest.approx(2, abs=0.2)
    assert participation_ratio(np.outer(rng.normal(size=50), np.ones(4))) == pytest.approx(1)
    assert np.isnan(two_nn(np.ones((9, 3))))


def test_attention_to_one_place_has_no_information_about_the_query():
    sink = np.zeros((16, 16))
    sink[:, 3] = 1
    assert attention_nmi(sink) == pytest.approx(0, abs=1e-3)
    assert attention_nmi(np.eye(16)) == pytest.approx(1, abs=1e-4)
    assert attention_entropy(np.full((16, 16), 1 / 16)) == pytest.approx(np.log(16))


def test_smooth_grids_have_little_of_high_frequencies_and_equal_tokens_cosine_1():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 8, 8, 5))
    smooth = np.cumsum(np.cumsum(noise, 1), 2)
    assert relative_log_amplitude(smooth)[-1] < relative_log_amplitude(noise)[-1] - 1
    np.testing.assert_allclose(token_cosine(np.ones((2, 9, 4))), 1)


def test_every_block_gives_its_attention(tiny_model):
    encoder = load_encoder(str(tiny_model))
    pixels = encoder.preprocess([np.zeros((32, 32, 3), np.uint8)] * 2)
    blocks = block_attention(encoder, pixels)
    assert [tuple(block.shape) for block in blocks] == [(2, 2, 17, 17)] * 4
    np.testing.assert_allclose(blocks[0].sum(-1), 1, rtol=1e-5)


def test_analyse_writes_tables_and_a_page(tmp_path, tiny_model, second_model, class_folder, capsys):
    out = tmp_path / "layers"
    words = [f"d={tiny_model}", f"m={second_model}", "--task", str(class_folder), "--resamples", "20"]
    assert main([*words, "--out", str(out)]) == 0
    record = json.loads((out / "layers.json").read_text())
    assert [(row["model"], row["layer"]) for row in record["rows"]] == [(m, k) for m in "dm" for k in (1, 2, 3, 4)]
    for row in record["rows"]:
        for name in ("rankme", "two_nn", "attention_distance", "attention_nmi", "log_amplitude", "token_cosine"):
            assert np.isfinite(row[name])
        assert row["linear"]["auc"]["low"] <= row["linear"]["auc"]["value"]
    maps = {(entry["a"], entry["b"]): np.array(entry["values"]) for entry in record["cka"]}
    assert maps["d", "m"].shape == (4, 4)
    np.testing.assert_allclose(np.diag(maps["d", "d"]), 1, atol=1e-9)
    rows = list(csv.DictReader((out / "layers.csv").open()))
    assert float(rows[0]["linear_auc"]) == record["rows"][0]["linear"]["auc"]["value"]
    assert (out / "layers.png").stat().st_size > 10_000
    assert "Last layers of d and m: CKA" in capsys.readouterr().out


def test_analyse_takes_a_folder_of_images_and_refuses_what_has_no_layers(tmp_path, tiny_model, class_folder):
    folder = class_folder / "test"
    assert main([str(tiny_model), "--images", str(folder), "--out", str(tmp_path / "o"), "--resamples", "20"]) == 0
    assert "linear" not in json.loads((tmp_path / "o" / "layers.json").read_text())["rows"][0]
    with pytest.raises(SystemExit) as left:
        main([str(tiny_model), "--out", str(tmp_path / "o")])
    assert left.value.code == 2
    with pytest.raises(UserError, match="two models are called"):
        main([f"a={tiny_model}", f"a={tiny_model}", "--images", str(folder), "--out", str(tmp_path / "o")])
