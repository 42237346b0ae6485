"""TransUNet's pretrained weights: the authors' file layout, on a network of small sizes."""

import numpy as np
import pytest
import torch

from biovfm_hf.errors import UserError
from evaluation.encoders.load import load_encoder, split_label
from evaluation.probes.masks.scratch import build
from evaluation.probes.networks import transunet
from evaluation.probes.networks.transunet_weights import load_weights

WIDTH, MLP, HEADS, BLOCKS, UNITS, STEM = 32, 64, 4, 2, (1, 2, 1), 32
POSITIONS = "Transformer/posembed_input/pos_embedding"


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    for name, value in {
        "WIDTH": WIDTH, "MLP": MLP, "HEADS": HEADS, "BLOCKS": BLOCKS, "UNITS": UNITS, "STEM": STEM, "GROUPS": 8,
        "DECODER": (32, 16, 16, 16, 16), "SKIPS": (16 * STEM // 2, 4 * STEM, STEM, 0),
    }.items():  # fmt: skip
        monkeypatch.setattr(transunet, name, value)


def published_shapes(cells=16):
    """Names and shapes of the arrays in a file such as R50+ViT-L_16.npz, at small sizes."""
    shapes = {"conv_root/kernel": (7, 7, 3, STEM), "embedding/kernel": (1, 1, 16 * STEM, WIDTH)}
    shapes |= {f"gn_root/{part}": (1, 1, 1, STEM) for part in ("scale", "bias")} | {"embedding/bias": (WIDTH,)}
    inputs = STEM
    for level, units in enumerate(UNITS, start=1):
        inner, outputs = STEM << (level - 1), 4 * (STEM << (level - 1))
        for unit in range(1, units + 1):
            where = f"block{level}/unit{unit}"
            kernels = {"conv1": (1, 1, inputs, inner), "conv2": (3, 3, inner, inner), "conv3": (1, 1, inner, outputs)}
            if unit == 1:
                kernels["conv_proj"] = (1, 1, inputs, outputs)
            for name, shape in kernels.items():
                shapes[f"{where}/{name}/kernel"] = shape
                norm = name.replace("conv", "gn")
                shapes |= {f"{where}/{norm}/{part}": (1, 1, 1, shape[-1]) for part in ("scale", "bias")}
            inputs = outputs
    for block in range(BLOCKS):
        where = f"Transformer/encoderblock_{block}"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{where}/{norm}/{part}": (WIDTH,) for part in ("scale", "bias")}
        attention = f"{where}/MultiHeadDotProductAttention_1"
        for name in ("query", "key", "value"):
            shapes |= {f"{attention}/{name}/kernel": (WIDTH, HEADS, WIDTH // HEADS)}
            shapes |= {f"{attention}/{name}/bias": (HEADS, WIDTH // HEADS)}
        shapes |= {f"{attention}/out/kernel": (HEADS, WIDTH // HEADS, WIDTH), f"{attention}/out/bias": (WIDTH,)}
        for number, shape in enumerate(((WIDTH, MLP), (MLP, WIDTH))):
            mlp = f"{where}/MlpBlock_3/Dense_{number}"
            shapes |= {f"{mlp}/kernel": shape, f"{mlp}/bias": shape[1:]}
    shapes |= {f"Transformer/encoder_norm/{part}": (WIDTH,) for part in ("scale", "bias")}
    return {**shapes, POSITIONS: (1, 1 + cells, WIDTH), "cls": (1, 1, WIDTH), "head/kernel": (WIDTH, 21)}


def write(path, shapes, change=lambda arrays: None):
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    change(arrays)
    np.savez(path, **arrays)
    return arrays


def test_every_tensor_of_the_encoder_has_its_array_and_all_but_the_classifier_are_taken(tmp_path):
    arrays = write(tmp_path / "w.npz", published_shapes())
    network = transunet.TransUNet(3, 64)
    head = network.segmentation_head[0].weight.clone()
    load_weights(network, tmp_path / "w.npz")
    state = network.transformer.state_dict()
    taken = sum(value.numel() for value in state.values())
    left = arrays["cls"].size + arrays["head/kernel"].size + WIDTH  # and the class token's position
    assert taken == sum(array.size for array in arrays.values()) - left
    kernel = arrays["block2/unit1/conv2/kernel"]
    assert torch.equal(
        state["embeddings.hybrid_model.body.block2.unit1.conv2.weight"], torch.from_numpy(kernel).permute(3, 2, 0, 1)
    )
    assert torch.equal(state["embeddings.position_embeddings"][0], torch.from_numpy(arrays[POSITIONS][0, 1:]))
    assert torch.equal(network.segmentation_head[0].weight, head)


def test_attention_has_the_files_weights_head_by_head(tmp_path):
    """By einsum on the arrays as they are stored: (D, heads, d) in, (heads, d, D) out."""
    arrays = write(tmp_path / "w.npz", published_shapes())
    network = transunet.TransUNet(3, 64)
    load_weights(network, tmp_path / "w.npz")
    tokens = np.random.default_rng(1).standard_normal((2, 5, WIDTH)).astype(np.float32)
    where = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1"
    query, key, value = (
        np.einsum("bnd,dhk->bhnk", tokens, arrays[f"{where}/{name}/kernel"]) + arrays[f"{where}/{name}/bias"][:, None]
        for name in ("query", "key", "value")
    )
    scores = np.einsum("bhnk,bhmk->bhnm", query, key) / np.sqrt(WIDTH // HEADS)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("bhnm,bhmk->bhnk", weights, value)
    expected = np.einsum("bhnk,hkd->bnd", mixed, arrays[f"{where}/out/kernel"]) + arrays[f"{where}/out/bias"]
    with torch.no_grad():
        answer = network.transformer.encoder.layer[1].attn(torch.from_numpy(tokens)).numpy()
    np.testing.assert_allclose(answer, expected, rtol=1e-3, atol=1e-4)


def test_positions_of_another_number_of_cells_are_zoomed_corner_to_corner(tmp_path):
    zoom = pytest.importorskip("scipy.ndimage").zoom
    arrays = write(tmp_path / "w.npz", published_shapes(cells=16))
    network = transunet.TransUNet(3, 112)  # 7 x 7 cells
    load_weights(network, tmp_path / "w.npz")
    expected = zoom(arrays[POSITIONS][0, 1:].reshape(4, 4, WIDTH), (7 / 4, 7 / 4, 1), order=1)
    found = network.transformer.embeddings.position_embeddings.detach().numpy().reshape(7, 7, WIDTH)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_file_that_does_not_fit_is_refused_and_the_missing_weights_are_named(tmp_path):
    def without(name):
        return lambda arrays: arrays.pop(name)

    def wider(arrays):
        arrays["embedding/bias"] = np.zeros(WIDTH + 1, np.float32)

    def objects(arrays):
        arrays["gn_root/bias"] = np.array([{}], object)

    for number, (change, reason) in enumerate((
        (without("conv_root/kernel"), "conv_root/kernel"), (wider, "does not fit"), (objects, "never unpickled")
    )):  # fmt: skip
        write(tmp_path / f"{number}.npz", published_shapes(), change)
        with pytest.raises(UserError, match=reason):
            load_weights(transunet.TransUNet(3, 64), tmp_path / f"{number}.npz")


def test_a_file_names_a_model_by_its_content_and_not_by_its_place(tmp_path):
    write(tmp_path / "R50.npz", published_shapes())
    name = f"transunet:{tmp_path / 'R50.npz'}"
    encoder = load_encoder(name)
    assert encoder.name == "transunet:R50.npz" == split_label(name)[0]
    assert str(tmp_path) not in encoder.revision + encoder.name
    network = build(encoder.network.name, 3, 64, encoder.network.weights)
    assert isinstance(network, transunet.TransUNet)
    write(tmp_path / "R50.npz", published_shapes(), lambda arrays: arrays["cls"].fill(0))
    assert load_encoder(name).revision != encoder.revision
    with pytest.raises(UserError, match="no such file"):
        load_encoder("transunet:nowhere.npz")
    with pytest.raises(UserError, match="takes no pretrained weights"):
        build("unet-small", 3, 64, tmp_path / "R50.npz")
