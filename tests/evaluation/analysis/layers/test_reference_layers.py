"""Measures of layers against the reference numbers (tests/reference/layerwise_*), to 1e-6."""

import json

import numpy as np
import pytest

from evaluation.analysis.layers.attention import (
    attention_distance,
    attention_entropy,
    attention_nmi,
    patch_attention,
    patch_distances,
)
from evaluation.analysis.layers.similarity import cka_map
from evaluation.analysis.layers.spectrum import effective_rank, mle_dimension, participation_ratio, rankme, two_nn
from evaluation.analysis.layers.tokens import relative_log_amplitude, token_cosine


@pytest.fixture
def cases(reference_dir):
    paths = sorted(reference_dir.glob("layerwise_*.json"))
    assert paths
    return [(json.loads(path.read_text()), dict(np.load(path.with_suffix(".npz")))) for path in paths]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def test_reference_cka(cases):
    for numbers, arrays in cases:
        layers = list(arrays["features"].astype(np.float64))
        noise = arrays["noise"]
        close(cka_map(layers), numbers["cka_unbiased"])
        close(cka_map(layers, batch=60), numbers["cka_minibatch_60"])
        close(cka_map([layers[0]], [noise])[0, 0], numbers["cka_unbiased_vs_noise"])
        n = numbers["small_n"]["n"]
        close(cka_map([layers[0][:n]], [noise[:n]])[0, 0], numbers["small_n"]["unbiased_vs_noise"])


def test_reference_ranks(cases):
    for numbers, arrays in cases:
        layers = arrays["features"]
        close([rankme(layer) for layer in layers], numbers["rankme_uncentred"])
        close([rankme(layer, centred=True) for layer in layers], numbers["rankme_centred"])
        close([effective_rank(layer) for layer in layers], numbers["effective_rank_centred"])
        close([participation_ratio(layer) for layer in layers], numbers["participation_ratio"])


def test_reference_dimensions(cases):
    for numbers, arrays in cases:
        close([two_nn(layer) for layer in arrays["features"]], numbers["twonn"])
        close([mle_dimension(layer, 20) for layer in arrays["features"]], numbers["skdim_mle_k20"])


def test_reference_attention(cases):
    for numbers, arrays in cases:
        shape, attention = numbers["shape"], arrays["attention"]
        among = patch_attention(attention, shape["prefix"])
        distances = patch_distances((shape["h"], shape["w"]), shape["patch"])
        raw = attention[..., shape["prefix"] :, shape["prefix"] :].astype(np.float64)
        close(attention_distance(among, distances).mean(0), numbers["attention_distance_px_renormalised"])
        close(attention_distance(raw, distances).mean(0), numbers["attention_distance_px_raw_patch_to_patch"])
        close(attention_entropy(attention).mean(0), numbers["attention_entropy_nats"])
        close(attention_nmi(among).mean(0), numbers["attention_nmi"])
        close(distances.mean(), numbers["uniform_attention_distance_px"])


def test_reference_tokens(cases):
    for numbers, arrays in cases:
        shape, tokens = numbers["shape"], arrays["tokens"]
        grids = tokens.reshape(len(tokens), shape["h"], shape["w"], -1)
        close(relative_log_amplitude(grids), numbers["fourier_relative_log_amplitude"])
        close(token_cosine(tokens).mean(), numbers["token_cosine_mean"])
        close([rankme(each) for each in tokens], numbers["token_rankme_per_image"])
        close([effective_rank(each) for each in tokens], numbers["token_erank_centred_per_image"])
