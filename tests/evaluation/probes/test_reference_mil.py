"""Gated attention agrees with kaiko's eva on weights that a rule makes: logits, attention, padded bags."""

import json
import os
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from safetensors import safe_open

from evaluation.probes.networks.gated_attention import GatedAttention

REFERENCES = Path(os.environ.get("BIOVFM_REFERENCE_DIR", Path(__file__).parents[2] / "reference"))
FILES = sorted(REFERENCES.glob("mil_*.safetensors"))
OURS = {"projector.0": "project", "gated_attention.attention_a.0": "content", "gated_attention.attention_b.0": "gate",
        "gated_attention.attention_c": "weigh", "classifier._network": "read"}  # fmt: skip


def made(name, shape):
    """The value that the reference's rule gives a weight."""
    value = np.random.default_rng(crc32(name.encode())).standard_normal(shape, np.float32)
    return torch.from_numpy(
        0.05 * value if len(shape) == 1 else value / np.sqrt(np.prod(shape[1:])).astype(np.float32)
    )


def our_name(name):
    return next(name.replace(theirs, ours, 1) for theirs, ours in OURS.items() if name.startswith(theirs))


def test_there_are_references():
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_gated_attention_is_evas(path):
    with safe_open(path, "pt") as stored:
        about = stored.metadata()
        bags, logits, attention = (
            stored.get_tensor(name) for name in ("bags", "eva_abmil.logits", "eva_abmil.attention")
        )
    config, lengths = json.loads(about["eva_abmil_config"]), torch.tensor(json.loads(about["lengths"]))
    model = GatedAttention(
        config["input_size"], config["output_size"], config["projected_input_size"], config["hidden_size_attention"],
        config["hidden_sizes_mlp"],
    )  # fmt: skip
    model.load_state_dict(
        {our_name(name): made(name, shape) for name, shape in json.loads(about["eva_abmil"]).items()}
    )
    with torch.no_grad():
        scores, weights = model(bags, lengths)
        each = zip(bags, lengths.tolist(), strict=True)
        alone = [model(bag[None, :length], torch.tensor([length]))[0][0] for bag, length in each]
    torch.testing.assert_close(scores, logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(weights, attention.squeeze(-1), rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.stack(alone), scores, rtol=0, atol=1e-6)  # padding changes nothing
