"""Parameters and operations by formula: against the models themselves and against torch's counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from biovfm_hf import BioVFMConfig, BioVFMForMaskedAutoencoding, BioVFMModel
from biovfm_hf.errors import UserError
from biovfm_hf.flops import (
    Architecture,
    Crops,
    PrototypeHeads,
    decoder_parameters,
    encoder_parameters,
    head_weights,
    step_flops,
)

CROPS = Crops(2, 224, 8, 96)  # DINOv2's
HEAD = (2048, 3, 256, 65_536)


def parameters(build, config) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build(config).parameters())


@pytest.mark.parametrize("name", ["vit-tiny", "vit-small", "vit-huge"])
@pytest.mark.parametrize("family", ["dinov2", "mae"])
def test_counts_equal_the_models(name, family) -> None:
    config = BioVFMConfig.from_size(name, family=family)
    assert encoder_parameters(config) == parameters(BioVFMModel, config)
    whole = encoder_parameters(config) + decoder_parameters(config)
    assert whole == parameters(BioVFMForMaskedAutoencoding, config)


@pytest.mark.parametrize(
    "change",
    [
        {"num_register_tokens": 4, "use_mask_token": True},
        {"qkv_bias": False, "layerscale_value": None},
        {"ffn_type": "swiglu", "mlp_ratio": 3.0, "num_hidden_layers": 3},
        {"image_size": 96, "patch_size": 8, "num_channels": 1},
    ],
)
def test_counts_and_operations_follow_every_switch(change) -> None:
    config = BioVFMConfig.from_size("vit-tiny", attn_implementation="eager", **change)
    assert encoder_parameters(config) == parameters(BioVFMModel, config)
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        BioVFMModel(config)(torch.zeros(1, config.num_channels, config.image_size, config.image_size))
    assert Architecture.of(config).forward_flops() == counter.get_total_flops()


def test_a_step_of_mae_is_what_torch_counts() -> None:
    """The counter's result plus the part that the decoder's last block leaves out."""
    config = BioVFMConfig.from_size(
        "vit-tiny", family="mae", attn_implementation="eager", num_hidden_layers=2, decoder_num_hidden_layers=2
    )
    with torch.device("meta"):
        model, images = BioVFMForMaskedAutoencoding(config), torch.zeros(2, 3, 224, 224)
        noise = torch.zeros(2, 196)
    with FlopCounterMode(display=False) as counter:
        model.reconstruction_loss(images, noise).backward()
    sizes = Architecture.of(config)
    unread = 50  # class token and visible patches: no output projection, no feed-forward
    left_out = 3 * 2 * unread * (512 * 512 + 2 * 512 * 2048)
    flops = step_flops(sizes, Crops(1, 224, 0, 0), decoder=True, visible=0.25)
    assert flops.total - left_out == counter.get_total_flops() / 2


def test_each_switch_adds_or_removes_its_part() -> None:
    sizes = Architecture.of(BioVFMConfig.from_size("vit-small"))
    plain = step_flops(sizes, CROPS)
    assert plain.teacher == plain.heads == plain.decoder == 0
    taught = step_flops(sizes, CROPS, teacher=True)
    assert taught.student == plain.student and taught.teacher == 2 * sizes.forward_flops(224)
    embedding = 4 * (2 * 196 + 8 * 36) * sizes.patch_weights
    dropped = step_flops(sizes, CROPS, drop_path=0.3)
    assert dropped.student - embedding == pytest.approx(0.7 * (plain.student - embedding))
    heads = step_flops(sizes, CROPS, teacher=True, heads=PrototypeHeads(10.0, HEAD, HEAD)).heads
    assert heads == 2 * head_weights(384, 2048, 3, 256, 65_536) * (3 * (10 + 10) + 2 + 10)


def test_a_file_without_sizes_is_reported() -> None:
    with pytest.raises(UserError, match="hidden_size is None"):
        Architecture.of({"num_hidden_layers": 12})
    assert Architecture.of(BioVFMConfig.from_size("vit-large").to_dict()).forward_flops() == pytest.approx(
        123e9, rel=0.01
    )
