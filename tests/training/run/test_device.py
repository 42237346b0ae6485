"""Which attention a run computes with."""

from pathlib import Path

import pytest
from transformers import AutoModel

from biovfm_hf.modeling_biovfm import BioVFMAttention
from training import objectives
from training.command import run_script
from training.config_file import load_config, parse_overrides
from training.optimizer import adamw
from training.run.device import make_accelerator
from training.settings.architecture import biovfm_config
from training.setup import prepare

from ..conftest import SMALL_DINO, SMALL_MAE

SMALL = {"dino": SMALL_DINO, "mae": SMALL_MAE}


@pytest.mark.parametrize("method", ["dino", "mae"])
@pytest.mark.parametrize(("precision", "expected"), [("fp32", "sdpa"), ("bf16", "eager")])
def test_bfloat16_on_a_cpu_takes_the_plain_attention(
    method: str, precision: str, expected: str, tmp_path: Path
) -> None:
    words = [*SMALL[method], f"run.precision={precision}", f"data.path={tmp_path}"]
    config = load_config(f"{method}_smoke", parse_overrides(words))
    loop_method = objectives.method_of(method)
    objective = loop_method.build(config, biovfm_config(config))
    optimizer = adamw(loop_method.parameter_groups(objective, config), config.optim.betas)
    prepare(make_accelerator(config, tmp_path), objective, optimizer, config)
    found = {part.config._attn_implementation for part in objective.modules() if isinstance(part, BioVFMAttention)}
    assert found == {expected}


def test_the_choice_stays_out_of_the_exported_model(image_folder: Path, tmp_path: Path) -> None:
    words = ["--config", "mae_smoke", "--data", str(image_folder), "--out", str(tmp_path / "run"), *SMALL_MAE]
    assert run_script("mae", [*words, "steps=1", "run.precision=bf16"]) == 0
    assert "attn" not in (tmp_path / "run/model/config.json").read_text(encoding="utf-8")
    assert AutoModel.from_pretrained(tmp_path / "run/model").config._attn_implementation == "sdpa"
