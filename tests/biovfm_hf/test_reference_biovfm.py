"""Checkpoints as the BioVFM authors save them: converted, they give the reference implementation's features."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModel

import biovfm_hf  # noqa: F401  (registers the Auto classes)
from biovfm_hf.conversion.command import ConvertOptions, convert


def test_reference_checkpoints_convert_and_agree(reference_dir: Path, tmp_path: Path) -> None:
    checkpoints = sorted(reference_dir.glob("biovfm_d_*.pth"))
    assert checkpoints, f"no biovfm_d_*.pth in {reference_dir}"
    for checkpoint in checkpoints:
        with safe_open(checkpoint.with_suffix(".expected.safetensors"), "pt") as file:
            arch = json.loads(file.metadata()["arch"])
            expected = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no iterator)
        options = ConvertOptions(source=str(checkpoint), to=tmp_path / checkpoint.stem, num_heads=arch["num_heads"])
        encoder = convert(options)
        assert all(name.startswith(("dino_head.", "ibot_head.")) for name in encoder.left_out), checkpoint.name
        model = AutoModel.from_pretrained(tmp_path / checkpoint.stem).eval()
        with torch.no_grad():
            outputs = model(expected["pixel_values"], output_hidden_states=True)
        prefix = 1 + model.config.num_register_tokens
        patches = outputs.hidden_states[-1][:, prefix:]
        # the authors' probing feature: mean patch token without the final norm, then a fresh LayerNorm
        probe = torch.nn.functional.layer_norm(patches.mean(dim=1), patches.shape[-1:], eps=1e-6)
        found = {
            "cls_normed": outputs.pooler_output,
            "patch_tokens_normed": outputs.last_hidden_state[:, prefix:],
            "biovfm_probe_features": probe,
        }
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-5, msg=f"{checkpoint.name}: {name}")
