"""DINOv3's encoder against its authors' code, on the files `dinov3_backbone_*.safetensors` of BIOVFM_REFERENCE_DIR."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

import biovfm_hf.modeling_biovfm as modeling
from biovfm_hf import BioVFMConfig, BioVFMModel
from biovfm_hf.conversion.read import read_encoder
from biovfm_hf.positions import RotaryDraw, rotary_coordinates, rotary_periods, rotary_tables

FOLDER = Path(os.environ.get("BIOVFM_REFERENCE_DIR") or Path(__file__).parents[1] / "reference")
FILES = sorted(FOLDER.glob("dinov3_backbone_*.safetensors"))
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
EPSILONS = {"layernorm": 1e-6, "layernormbf16": 1e-5}


def read(file):
    with safe_open(file, "pt") as stored:
        return json.loads(stored.metadata()["json"]), {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118


def encoder(meta, tensors, folder):
    """The file's model, read from its weights as a `.pth`; what those do not tell is taken from its constructor."""
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    torch.save(weights, folder / "theirs.pth")
    read = read_encoder(str(folder / "theirs.pth"))
    made = meta["constructor"]
    assert read.config.num_attention_heads == made["num_heads"]
    told = {
        "image_size": made["img_size"],
        "layer_norm_eps": EPSILONS[made["norm_layer"]],
        "rope_dtype": str(DTYPES[made["pos_embed_rope_dtype"]]).removeprefix("torch."),
        "rope_normalize_coords": made["pos_embed_rope_normalize_coords"],
        **{
            f"rope_{name}_coords": made.get(f"pos_embed_rope_{name}_coords") for name in ("shift", "jitter", "rescale")
        },
    }
    model = BioVFMModel(BioVFMConfig(**{**read.config.to_dict(), **told})).eval()
    model.load_state_dict(read.tensors)
    return model


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def case(request, tmp_path):
    meta, tensors = read(request.param)
    return meta, tensors, encoder(meta, tensors, tmp_path)


def parts(model, tokens):
    first = 1 + model.config.num_register_tokens
    return {"cls": tokens[:, 0], "storage": tokens[:, 1:first], "patch": tokens[:, first:]}


def check(model, tensors, name, tokens):
    for part, value in parts(model, tokens).items():
        assert_close(value, tensors[f"out.{name}.{part}"], **CLOSE, msg=lambda text, at=part: f"{name}.{at}: {text}")


def test_there_are_reference_files():
    assert FILES


@torch.no_grad()
@pytest.mark.parametrize("size", ["native", "other"])
def test_tokens_and_blocks_at_the_native_and_another_size(case, size):
    meta, tensors, model = case
    output = model(tensors[f"in.{size}.image"], output_hidden_states=True)
    check(model, tensors, size, output.last_hidden_state)
    for block in range(meta["constructor"]["depth"]):
        assert_close(output.hidden_states[block + 1], tensors[f"out.{size}.block{block}"], **CLOSE)
    assert_close(output.hidden_states[-1], tensors[f"out.{size}.prenorm"], **CLOSE)


@torch.no_grad()
def test_masked_patches(case):
    _, tensors, model = case
    output = model(tensors["in.native.image"], tensors["in.mask"].bool(), output_hidden_states=True)
    check(model, tensors, "native_masked", output.last_hidden_state)
    assert_close(output.hidden_states[-1], tensors["out.native_masked.prenorm"], **CLOSE)


def drawn(tensors):
    """The factors that the reference drew, block by block, global crops before local ones."""
    for block in tensors.get("out.train_log_rescale", torch.zeros(0, 2)):
        for log in block:
            yield RotaryDraw(rescale=log.exp()[None])


@torch.no_grad()
def test_a_list_of_global_and_local_crops_in_training(case, monkeypatch):
    _, tensors, model = case
    if "in.local.image" not in tensors:
        pytest.skip("this file holds no list of crops")
    draws = drawn(tensors)
    monkeypatch.setattr(modeling, "draw_rotary", lambda *_: next(draws))
    norms = []
    model.norm.register_forward_pre_hook(lambda _, arguments: norms.append(arguments[0]))
    crops = [tensors["in.native.image"], tensors["in.local.image"]]
    tokens = model.train().forward_packed(crops, [tensors["in.mask"].bool(), None])
    check(model, tensors, "train_global", tokens[0])
    check(model, tensors, "train_local", tokens[1])
    assert next(draws, None) is None, "the reference drew more often"
    prenorm = torch.cat([tensors[f"out.train_{name}.prenorm"].flatten(0, 1) for name in ("global", "local")])
    assert_close(torch.cat(norms), prenorm, **CLOSE)
    # the rows that are picked out are normed as among all
    again = drawn(tensors)
    monkeypatch.setattr(modeling, "draw_rotary", lambda *_: next(again))
    wanted = [torch.tensor([0, 3, tokens[0].shape[1] + 1]), torch.tensor([2, 8])]
    picked = model.forward_packed(crops, [tensors["in.mask"].bool(), None], wanted)
    for rows, few, all_tokens in zip(wanted, picked, tokens, strict=True):
        assert_close(few, all_tokens.flatten(0, 1)[rows], **CLOSE)


TABLES = [file for file in FILES if read(file)[0]["rope_variants"]]


@pytest.mark.parametrize("file", TABLES, ids=lambda file: file.stem)
def test_rotary_tables(file):
    meta, tensors = read(file)
    variants = {name: made for name, made in meta["rope_variants"].items() if isinstance(made, dict)}
    grid, head = (3, 5), 32
    assert variants
    for name, made in variants.items():
        dtype = DTYPES[made["dtype"]]
        periods = rotary_periods(head, made["base"] or 1.0, made.get("min_period"), made.get("max_period"), dtype)
        assert_close(periods, tensors[f"rope.{name}.periods"].to(dtype), **CLOSE)
        sines, cosines = rotary_tables(rotary_coordinates(grid, made["normalize_coords"], dtype), periods)
        assert_close(sines, tensors[f"rope.{name}.sin"].to(dtype), **CLOSE)
        assert_close(cosines, tensors[f"rope.{name}.cos"].to(dtype), **CLOSE)
    moved = RotaryDraw(
        tensors["rope.aug.shift_hw"], tensors["rope.aug.log_jitter_hw"].exp(), tensors["rope.aug.log_rescale"].exp()
    )
    sines, cosines = rotary_tables(moved(rotary_coordinates(grid, "separate")), rotary_periods(head, 100.0))
    assert_close(sines, tensors["rope.aug.sin"], **CLOSE)
    assert_close(cosines, tensors["rope.aug.cos"], **CLOSE)
