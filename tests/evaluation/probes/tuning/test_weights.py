"""Which weights the methods train, and how many: the papers' numbers on ViT-g, whatever form its attention has."""

import pytest
import torch
import transformers
from transformers.initialization import no_init_weights

from biovfm_hf import BioVFMConfig, BioVFMModel
from biovfm_hf.errors import UserError
from evaluation.probes.finetune import BitFit, LoRA
from evaluation.probes.tuning.low_rank import PRESETS, LowRank
from evaluation.probes.tuning.optimisation import count_weights
from evaluation.probes.tuning.weights import add_low_rank, find_targets

GIANT = 1.1e9


def joint_giant():
    """ViT-g/14, whose attention makes queries, keys and values in one layer."""
    return BioVFMModel(BioVFMConfig.from_size("vit-giant", patch_size=14))


def apart_giant():
    """The same as transformers has it, with a layer for each."""
    config = transformers.Dinov2Config(
        hidden_size=1536, num_hidden_layers=40, num_attention_heads=24, use_swiglu_ffn=True, patch_size=14
    )
    return transformers.Dinov2Model(config)


@pytest.fixture(params=[joint_giant, apart_giant], ids=["joint", "apart"], scope="module")
def giant(request):
    with torch.device("meta"), no_init_weights():
        return request.param()


def test_parameters_of_table_9(giant):
    """LoRA 8M (0.7 %), BitFit 0.8M (0.07 %), of 1,100 million."""
    everything = count_weights(giant)
    assert everything == pytest.approx(1.1e9, rel=0.04)
    biases = count_weights(BitFit().prepare(giant), trained=True)
    assert round(biases / 1e6, 1) == 0.8 and round(100 * biases / GIANT, 2) == 0.07
    with torch.device("meta"):
        updates = count_weights(LoRA(lora_preset="radiology").prepare(giant), trained=True)
    assert updates == pytest.approx(8e6, rel=0.01) and round(100 * updates / GIANT, 1) == 0.7
    assert updates == 40 * (32 * 1536 + 32 * 3 * 1536 + 3 * 1536)  # rank 32 on q, k and v together, and their biases


def small(attention="apart"):
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    if attention == "apart":
        return transformers.Dinov2Model(transformers.Dinov2Config(**config))
    return BioVFMModel(BioVFMConfig(**config))


@pytest.mark.parametrize("attention", ["apart", "joint"])
@pytest.mark.parametrize("targets", ["attention", "qkv", "mlp", "all"])
def test_targets_are_the_layers_of_their_name(attention, targets):
    names = [name.rpartition(".")[2] for name in find_targets(small(attention), targets)]
    qkv = {"q_proj", "k_proj", "v_proj"} if attention == "apart" else {"qkv"}
    rest = {"o_proj"} if attention == "apart" else {"proj"}
    mlp = {"fc1", "fc2"}
    assert set(names) == {"attention": qkv | rest, "qkv": qkv, "mlp": mlp, "all": qkv | rest | mlp}[targets]
    assert len(names) == 2 * len(set(names))


@pytest.mark.parametrize("attention", ["apart", "joint"])
def test_updates_start_at_nothing_and_queries_keys_and_values_share_a_factor(attention):
    torch.manual_seed(0)
    module, pixels = small(attention).eval(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        before = module(pixels).last_hidden_state
    add_low_rank(module, LowRank(4, 8, "qkv"))
    with torch.no_grad():
        torch.testing.assert_close(module(pixels).last_hidden_state, before)
    assert count_weights(module, trained=True) == 2 * (4 * 32 + 4 * 3 * 32)
    module(pixels).last_hidden_state.square().mean().backward()
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    assert len(trained) == (8 if attention == "apart" else 4) and all("lora_" in name for name in trained)


def test_settings_override_a_preset():
    assert LoRA().low_rank == PRESETS["own"] and LoRA(lora_preset="radiology").low_rank.biases
    assert LoRA(lora_rank=32).low_rank.alpha == 32  # in proportion to the rank, as the preset has it
    assert LoRA(lora_preset="radiology", lora_rank=48).low_rank[:3] == (48, 24, "qkv")
    assert LoRA(lora_alpha=4, lora_targets="mlp").low_rank[:3] == (16, 4, "mlp")
    assert LoRA(lora_rank=8).identity != LoRA().identity
    with pytest.raises(UserError, match="lora_rank"):
        LoRA(lora_rank=0)


def test_a_module_without_such_layers_is_refused_with_the_remedy():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1, bias=False))
    with pytest.raises(UserError, match="no qkv layers for LoRA"):
        LoRA(lora_targets="qkv").prepare(net)
    with pytest.raises(UserError, match="no biases"):
        BitFit().prepare(net)
