"""Networks, decoders and losses agree with those of the radiology study (arXiv 2312.02366) on rule-made weights."""

import json
import os
import re
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers.modeling_outputs import BaseModelOutput

from biovfm_hf import BioVFMConfig
from biovfm_hf.modeling_biovfm import BioVFMForSemanticSegmentation
from evaluation.probes.masks.decoders import unet_decoder
from evaluation.probes.masks.losses import dice_ce_loss, dice_loss
from evaluation.probes.masks.scratch import build

REFERENCES = Path(os.environ.get("BIOVFM_REFERENCE_DIR", Path(__file__).parents[2] / "reference"))
FILES = sorted(REFERENCES.glob("seed2_segmentation_*.safetensors"))
UNET = {r"^down\.0\.": "inc.double_conv.", r"^down\.(\d)\.": "down{}.maxpool_conv.1.double_conv.",
        r"^up\.(\d)\.": "up{}.up.", r"^join\.(\d)\.": "up{}.conv.double_conv.", r"^last\.": "outc.conv."}  # fmt: skip
DECODER = {"up": "upconv", "skip": "skip_conv", "join": "conv"}


def made(name, shape):
    """The value that the reference's rule gives a weight."""
    value = np.random.default_rng(crc32(name.encode())).standard_normal(tuple(shape), np.float32)
    if name.endswith("running_var"):
        value = abs(value) * 0.1 + 0.9
    elif name.endswith("running_mean"):
        value *= 0.1
    elif len(shape) == 1:
        value = 0.05 * value + name.endswith("weight")
    else:
        value /= np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(value, np.float32))


def with_made_weights(network, their_name):
    """The network in evaluation mode, each tensor as the rule makes it for the name that the authors give it."""
    state = network.state_dict()
    values = {n: made(their_name(n), t.shape) for n, t in state.items() if not n.endswith("num_batches_tracked")}
    counts = {n: torch.tensor(0) for n in state.keys() - values.keys()}
    network.load_state_dict(values | counts, assign=True)
    return network.eval()


def unet_name(name):
    """milesial's name of a tensor of our U-Net, whose up-steps it counts from 1."""
    pattern, theirs = next((p, t) for p, t in UNET.items() if re.match(p, name))
    step = "".join(re.match(pattern, name).groups())
    return re.sub(pattern, theirs.format(int(step or 0) + (not name.startswith("down"))), name)


def decoder_name(name):
    """The authors' name of a tensor of the decoder's blocks."""
    _, step, part, rest = name.split(".", 3)
    return f"up{int(step) + 1}.{DECODER[part]}.{rest}"


def drawn(seed, shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))


def seed_of(rule):
    """The seed that a rule of the metadata names, and the shape."""
    seed, shape = re.search(r"default_rng\((\d+)\)\.standard_normal\(\(([\d, ]+)\)", rule).groups()
    return int(seed), tuple(map(int, shape.split(",")))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def reference(request):
    with safe_open(request.param, "pt") as stored:
        about = {name: json.loads(text) if text[0] == "{" else text for name, text in stored.metadata().items()}
        return about, {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118


def feature_maps(about):
    """The five blocks' tokens as maps (B, D, h, w), deepest last."""
    rule = re.search(r"default_rng\((\d+)\*10\+i\)\.standard_normal\(\((\d+),(\d+),(\d+)\)", about["features_rule"])
    factor, batch, tokens, width = map(int, rule.groups())
    side = round(tokens**0.5)
    features = [drawn(factor * 10 + i, (batch, tokens, width)) for i in range(5)]
    return [f.transpose(1, 2).reshape(batch, width, side, side) for f in features]


class Tokens(torch.nn.Module):
    """Replaces an encoder: it returns given tokens."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens

    def forward(self, pixel_values, **kwargs):
        return BaseModelOutput(last_hidden_state=self.tokens)


def test_there_are_references():
    assert FILES


@torch.inference_mode()
def test_unet_is_milesials(reference):
    about, tensors = reference
    with torch.device("meta"):
        network = build("unet", about["unet"]["classes"], 96)
    assert sum(p.numel() for p in network.parameters()) == about["unet"]["parameters"]
    logits = with_made_weights(network, unet_name)(drawn(*seed_of(about["unet_input"])))
    torch.testing.assert_close(logits[..., ::2, ::2], tensors["unet.logits"], rtol=0, atol=1e-4)


@torch.inference_mode()
def test_transunet_is_the_authors(reference):
    about, tensors = reference
    config = about["transunet"]
    with torch.device("meta"):
        network = build("transunet", config["classes"], config["image_size"])
    assert sum(p.numel() for p in network.parameters()) == config["parameters"]
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes == shapes | config["names"]  # of the transformer's blocks the reference may name the first alone
    logits = with_made_weights(network, str)(drawn(*seed_of(config["input"])))
    torch.testing.assert_close(logits[..., ::4, ::4], tensors["transunet.logits"], rtol=0, atol=1e-4)


@torch.inference_mode()
def test_unet_decoder_is_the_authors(reference):
    about, tensors = reference
    config = about["unet_decoder"]
    decoder = with_made_weights(unet_decoder(config["embed_dim"], config["classes"]), decoder_name)
    assert sum(p.numel() for p in decoder.parameters()) == config["parameters"]
    logits = decoder(feature_maps(about))
    torch.testing.assert_close(logits[..., ::4, ::4], tensors["unet_decoder.logits_before_resize"], rtol=0, atol=1e-4)


@torch.inference_mode()
def test_linear_head_is_the_authors_decoder(reference):
    about, tensors = reference
    config, grid = about["unet_decoder"], feature_maps(about)[-1]
    size, logits = config["image_size"], tensors["linear_decoder.logits"]
    model = BioVFMForSemanticSegmentation(
        BioVFMConfig(
            hidden_size=grid.shape[1], num_attention_heads=1, num_hidden_layers=1, image_size=size,
            patch_size=config["patch_size"], num_labels=config["classes"],
        )
    )  # fmt: skip
    with_made_weights(model.decoder, lambda name: f"decoder.{name}")
    patches = grid.flatten(2).transpose(1, 2)
    first = torch.zeros(len(patches), 1 + model.config.num_register_tokens, grid.shape[1])
    model.biovfm = Tokens(torch.cat([first, patches], 1))
    scores = model(torch.zeros(len(patches), 3, size, size)).logits
    torch.testing.assert_close(scores[..., ::4, ::4], logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "loss"), [("dice", dice_loss), ("dice_ce", dice_ce_loss)])
def test_losses_and_gradients_are_monais(reference, name, loss):
    about, tensors = reference
    logits = tensors["logits_full"].requires_grad_()
    value = loss(logits, tensors["target"].long())
    value.backward()
    assert value.item() == pytest.approx(about["loss"][name], abs=1e-5)
    gradient = tensors[f"grad_{name}"]
    step = logits.shape[-1] // gradient.shape[-1]
    torch.testing.assert_close(logits.grad[..., ::step, ::step], gradient, rtol=1e-4, atol=1e-9)
