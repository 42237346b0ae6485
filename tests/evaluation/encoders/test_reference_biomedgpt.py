"""BiomedGPT's image tokens equal those of OFA's own module, from every format of its weights."""

import argparse
import json
import zlib

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from biovfm_hf.errors import UserError
from evaluation.commands.probe import main
from evaluation.encoders.load import load_encoder
from evaluation.encoders.ofa import OFAImageEncoder

BUCKET = 42  # rows and columns of places in the reference


def rule_weight(name, shape):
    """The tensor for a name by the references' rule; the references store no weights."""
    drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    v = torch.from_numpy(drawn)
    if name.endswith("running_var"):
        return v.abs() * 0.1 + 0.9
    if name.endswith("running_mean"):
        return 0.1 * v
    if len(shape) == 1:
        return 0.05 * v + float(name.endswith(("weight", "c_attn")))
    if len(shape) == 2 and any(word in name for word in ("embedding", "positions", "table")):
        return 0.3 * v
    return v / float(np.prod(shape[1:])) ** 0.5


def rule_weights(path):
    with safe_open(path, "pt") as stored:
        shapes = json.loads(stored.metadata()["shapes"])
    return {name: rule_weight(name, tuple(shape)) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def references(reference_dir):
    paths = sorted(reference_dir.glob("biomedgpt_*.safetensors"))
    assert paths, f"no BiomedGPT references in {reference_dir}"
    return paths


@pytest.fixture(scope="module")
def weights(references):
    return rule_weights(references[0])


def save_folder(folder, weights, pickled=True):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "ofa", "d_model": 64}))
    if pickled:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors")
    return folder


def test_reference_image_tokens(references, tmp_path):
    for path in references:
        stored = load_file(path)
        encoder = load_encoder(str(save_folder(tmp_path / path.stem, rule_weights(path))))
        encoded = encoder.encode(stored["pixel_values"])
        torch.testing.assert_close(encoded.normed, stored["image_tokens"], atol=1e-4, rtol=0, msg=path.name)
        height, width = (side // 16 for side in stored["pixel_values"].shape[-2:])
        assert encoded.grid == (height, width) and encoded.prefix == 0


def fairseq_file(tmp_path, weights):
    path = tmp_path / "biomedgpt.pt"
    settings = argparse.Namespace(arch="ofa_base", encoder_layers=3)
    torch.save({"cfg": {"model": settings}, "args": None, "model": weights}, path)
    return path


def test_every_form_of_the_weights_gives_the_same(references, weights, tmp_path):
    stored = load_file(references[0])
    prefixed = {f"model.{name}": value for name, value in weights.items()}
    sources = [
        save_folder(tmp_path / "tensors", weights, pickled=False),
        f"ofa:{save_folder(tmp_path / 'hub', prefixed)}",
        fairseq_file(tmp_path, {**weights, "decoder.layers.0.fc1.weight": torch.zeros(2, 2)}),
    ]
    for source in sources:
        encoder = load_encoder(str(source))
        found = encoder.encode(stored["pixel_values"]).normed
        torch.testing.assert_close(found, stored["image_tokens"], atol=1e-4, rtol=0)


def test_last_blocks_end_with_the_last_one_and_copies_agree(weights, tmp_path):
    encoder = load_encoder(str(save_folder(tmp_path / "m", weights)))
    pixels = encoder.preprocess([np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)])
    assert pixels.shape == (1, 3, 384, 384)
    encoded = encoder.encode(pixels, blocks=2)
    assert encoded.grid == (24, 24) and len(encoded.blocks) == len(encoded.classes) == 2
    assert torch.equal(encoded.blocks[-1].flatten(1, 2), encoded.tokens)
    torch.testing.assert_close(encoded.classes[-1], encoded.summary()["mean"])
    assert torch.equal(encoder.twin().encode(pixels).tokens, encoded.tokens)


def test_images_of_more_places_than_the_model_has_are_refused(weights, tmp_path):
    encoder = load_encoder(str(save_folder(tmp_path / "m", weights)))
    with pytest.raises(UserError, match="at most 672 pixels"):
        encoder.encode(torch.zeros(1, 3, 16, 16 * (BUCKET + 1)))


class Payload:
    def __reduce__(self):
        return print, ("run",)


def test_files_of_another_kind_are_refused_and_nothing_in_them_runs(weights, tmp_path, capsys):
    torch.save({"model": weights, "extra": Payload()}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="never loaded"):
        load_encoder(str(tmp_path / "bad.pt"))
    torch.save({"model": {"encoder.layer_norm.weight": torch.zeros(4)}}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="not an OFA model"):
        load_encoder(str(tmp_path / "other.pt"))
    short = {name: value for name, value in weights.items() if name != "encoder.pos_q_linear.weight"}
    with pytest.raises(UserError, match=r"not those of an OFA.*pos_q_linear\.weight"):
        load_encoder(str(save_folder(tmp_path / "short", short)))
    scalar = {**weights, "encoder.layer_norm.weight": torch.tensor(1.0)}
    with pytest.raises(UserError, match="not those of an OFA"):
        load_encoder(str(save_folder(tmp_path / "scalar", scalar)))
    assert "run" not in capsys.readouterr().out


def test_records_state_licence_and_prompt(weights, tmp_path, make_class_folder):
    folder = save_folder(tmp_path / "biomedgpt", weights)
    images = make_class_folder(tmp_path / "task", 2, {"train": 6, "val": 2, "test": 4})
    words = ["--model", str(folder), "--tasks", str(images), "--out", str(tmp_path / "out"), "--no-figures"]
    assert main([*words, "--method", "knn", "--resamples", "20", "--device", "cpu"]) == 0
    (record,) = json.loads((tmp_path / "out" / "results.json").read_text())
    notes = " ".join(record["notes"])
    assert record["model"] == "biomedgpt" and "without a text prompt" in notes and "academic research" in notes
    text = ("layernorm_embedding", "embed_tokens", "embed_positions", "pos_ln", "token_rel_pos_table_list")
    left_out = sum(name.split(".")[1] in text for name in weights)
    assert f"{left_out} tensors of the text and the decoder are left out" in notes


def test_the_released_base_model_has_the_size_in_the_line_up():
    """ResNet-101's first three stages, six blocks of width 768: BiomedGPT's base configuration."""
    from evaluation.encoders.lineup import LINEUP

    with torch.device("meta"):
        names = {
            "layer_norm.weight": torch.empty(768),
            "layers.0.self_attn.c_attn": torch.empty(12),
            "layers.0.fc1.bias": torch.empty(3072),
            "embed_image_positions.weight": torch.empty(42 * 42 + 1, 768),
            "image_proj.weight": torch.empty(768, 1024),
        }
        names |= {f"layers.{i}.": torch.empty(0) for i in range(6)}
        names |= {
            f"embed_images.layer{s}.{i}.": torch.empty(0) for s, n in ((1, 3), (2, 4), (3, 23)) for i in range(n)
        }
        module = OFAImageEncoder(names)
    millions = sum(parameter.numel() for parameter in module.parameters()) / 1e6
    entry = LINEUP["biomedgpt"]
    assert entry.parameters == pytest.approx(millions, abs=0.6)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.empty(1, 3, entry.size, entry.size, device="meta"))
    assert entry.gflops == pytest.approx(counter.get_total_flops() / 1e9, rel=0.01)
