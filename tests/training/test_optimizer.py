import pytest
import torch
from torch import nn

from biovfm_hf import BioVFMConfig, BioVFMForMaskedAutoencoding, BioVFMModel
from training.objectives.dino.config import DINOConfig
from training.objectives.dino.objective import DINONetwork
from training.objectives.dino.parameters import dino_multipliers, dino_parameter_groups
from training.optimizer import (
    adamw,
    apply_schedule,
    clip_per_submodule,
    parameter_groups,
    update_average,
)
from training.schedule import StepValues

HEADS = DINOConfig(prototypes=8, hidden=8, bottleneck=4, ibot_separate_head=True, ibot_prototypes=8, ibot_hidden=8)


def student(**overrides: object) -> DINONetwork:
    """A student with the names and depth of ViT-S/16, but narrow."""
    config = BioVFMConfig.from_size(
        "vit-small", hidden_size=12, num_attention_heads=3, image_size=32, use_mask_token=True, **overrides
    )
    return DINONetwork(BioVFMModel(config), HEADS)


def multipliers(groups: list[dict]) -> dict[str, tuple[float, float, bool]]:
    """Per tensor name (lr multiplier, weight-decay multiplier, is last layer)."""
    return {
        name: (group["lr_multiplier"], group["wd_multiplier"], group["is_last_layer"])
        for group in groups
        for name in group["names"]
    }


def test_every_tensor_of_a_small_model_has_dinov2s_multipliers() -> None:
    found = multipliers(dino_parameter_groups(student(num_register_tokens=2), 0.9, 0.2))
    wanted: dict[str, tuple[float, float, bool]] = {}
    for name in ("cls_token", "mask_token", "register_tokens", "position_embeddings"):
        wanted[f"backbone.embeddings.{name}"] = (0.9**13, 1.0, False)
    wanted["backbone.embeddings.patch_embeddings.projection.weight"] = (0.9**13 * 0.2, 1.0, False)
    wanted["backbone.embeddings.patch_embeddings.projection.bias"] = (0.9**13 * 0.2, 0.0, False)
    for index in range(12):
        for name in ("attention.qkv", "attention.proj", "mlp.fc1", "mlp.fc2"):
            wanted[f"backbone.layers.{index}.{name}.weight"] = (0.9 ** (12 - index), 1.0, False)
            wanted[f"backbone.layers.{index}.{name}.bias"] = (0.9 ** (12 - index), 0.0, False)
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            wanted[f"backbone.layers.{index}.{name}"] = (0.9 ** (12 - index), 0.0, False)
        for name in ("layer_scale1.gamma", "layer_scale2.gamma"):
            wanted[f"backbone.layers.{index}.{name}"] = (0.9 ** (12 - index), 0.0, False)
    wanted["backbone.norm.weight"] = wanted["backbone.norm.bias"] = (1.0, 0.0, False)
    for head in ("dino_head", "ibot_head"):
        for index in (0, 2, 4):
            wanted[f"{head}.mlp.{index}.weight"] = (1.0, 1.0, False)
            wanted[f"{head}.mlp.{index}.bias"] = (1.0, 0.0, False)
        for name in ("weight_g", "weight_v"):
            wanted[f"{head}.last_layer.{name}"] = (1.0, 1.0, True)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values), name
    assert pytest.approx(0.2542, abs=1e-4) == 0.9**13


def test_swiglu_tensors_have_rules() -> None:
    found = multipliers(dino_parameter_groups(student(ffn_type="swiglu"), 1.0, 0.2))
    assert found["backbone.layers.3.mlp.w12.weight"] == (1.0, 1.0, False)
    assert found["backbone.layers.3.mlp.w3.bias"] == (1.0, 0.0, False)


@pytest.mark.parametrize("name", ["backbone.pos_embed", "backbone.blocks.0.norm1.weight", "backbone.layers.0.lambda1"])
def test_an_unknown_tensor_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no learning-rate rule"):
        dino_multipliers(name, 12, 0.9, 0.2)


def test_groups_hold_each_trainable_tensor_once() -> None:
    network = student()
    network.backbone.embeddings.cls_token.requires_grad_(False)
    groups = dino_parameter_groups(network, 0.9, 0.2)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in network.parameters() if parameter.requires_grad}
    assert len(groups) == 12 * 2 + 3 + 3  # blocks; embeddings and patch projection; the rest at rate 1


def test_mae_decays_matrices_and_tokens_only() -> None:
    config = BioVFMConfig.from_size(
        "vit-tiny", family="mae", image_size=32, num_hidden_layers=2, decoder_num_hidden_layers=1
    )
    found = multipliers(parameter_groups(BioVFMForMaskedAutoencoding(config)))
    assert not any("position_embeddings" in name for name in found)  # fixed
    for name, (lr, decay, last) in found.items():
        assert (lr, last) == (1.0, False)
        vector = name.endswith(".bias") or "norm" in name
        assert decay == (0.0 if vector else 1.0), name
    assert {"biovfm.embeddings.cls_token", "decoder.mask_token"} < found.keys()


def test_apply_schedule_sets_rates_by_group() -> None:
    optimizer = adamw(dino_parameter_groups(student(), 0.9, 0.2))
    apply_schedule(optimizer, StepValues(lr=1.0, last_layer_lr=0.0, weight_decay=0.3))
    for group in optimizer.param_groups:
        assert group["lr"] == (0.0 if group["is_last_layer"] else group["lr_multiplier"])
        assert group["weight_decay"] == 0.3 * group["wd_multiplier"]


def test_submodules_are_clipped_on_their_own() -> None:
    network = nn.ModuleDict({"large": nn.Linear(3, 3), "small": nn.Linear(3, 3), "unused": nn.Linear(3, 3)})
    for parameter in network["large"].parameters():
        parameter.grad = torch.full_like(parameter, 10.0)
    for parameter in network["small"].parameters():
        parameter.grad = torch.full_like(parameter, 0.01)
    norms = clip_per_submodule(network, 3.0)
    assert norms["large"] == pytest.approx(10 * 12**0.5)
    assert norms["small"] == pytest.approx(0.01 * 12**0.5)
    assert norms.keys() == {"large", "small"}
    assert network["large"].weight.grad[0, 0] == pytest.approx(3 / 12**0.5)
    assert network["small"].weight.grad[0, 0] == pytest.approx(0.01)


def test_no_clipping_still_measures() -> None:
    network = nn.ModuleDict({"only": nn.Linear(1, 1, bias=False)})
    network["only"].weight.grad = torch.full((1, 1), 7.0)
    assert clip_per_submodule(network, None)["only"] == 7.0
    assert network["only"].weight.grad == 7.0


def test_average_moves_by_one_minus_momentum() -> None:
    averages, values = [torch.zeros(2), torch.ones(1)], [torch.ones(2), torch.ones(1)]
    update_average(averages, values, 0.75)
    assert averages[0].tolist() == [0.25, 0.25]
    update_average(averages, values, 1.0)
    assert averages[0].tolist() == [0.25, 0.25]
