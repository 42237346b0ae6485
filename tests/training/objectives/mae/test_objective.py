import pytest
import torch
from torch import Tensor
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from biovfm_hf import BioVFMConfig, BioVFMForMaskedAutoencoding
from training.objectives.mae.objective import MAEObjective
from training.schedule import StepValues

VALUES = StepValues(lr=0.0, last_layer_lr=0.0, weight_decay=0.0)
WIDTH, DECODER = 32, 16


def ours() -> BioVFMForMaskedAutoencoding:
    torch.manual_seed(0)
    config = BioVFMConfig.from_size(
        "vit-tiny",
        family="mae",
        image_size=48,
        patch_size=8,
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        decoder_hidden_size=DECODER,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
    )
    return BioVFMForMaskedAutoencoding(config)


def theirs(model: BioVFMForMaskedAutoencoding) -> ViTMAEForPreTraining:
    """transformers' MAE with our weights: every tensor is set, because its own start leaves positions zero."""
    config = ViTMAEConfig(
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=4 * WIDTH,
        layer_norm_eps=1e-6,
        image_size=48,
        patch_size=8,
        decoder_hidden_size=DECODER,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=4 * DECODER,
        norm_pix_loss=True,
    )
    twin = ViTMAEForPreTraining(config)
    missing, unexpected = twin.load_state_dict(renamed(twin, model.state_dict()), strict=True)
    assert not missing and not unexpected
    return twin


def renamed(twin: ViTMAEForPreTraining, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under the names that `twin` asks for."""
    table = (
        ("vit.embeddings.", "biovfm.embeddings."),
        ("vit.layernorm.", "biovfm.norm."),
        ("vit.encoder.layer.", "biovfm.layers."),
        ("vit.layers.", "biovfm.layers."),
        ("decoder.decoder_layers.", "decoder.layers."),
        ("decoder.layers.", "decoder.layers."),
        ("decoder.decoder_embed.", "decoder.embed."),
        ("decoder.decoder_norm.", "decoder.norm."),
        ("decoder.decoder_pred.", "decoder.pred."),
        ("decoder.decoder_pos_embed", "decoder.position_embeddings"),
        (".layernorm_before.", ".norm1."),
        (".layernorm_after.", ".norm2."),
        (".attention.output.dense.", ".attention.proj."),
        (".attention.o_proj.", ".attention.proj."),
        (".intermediate.dense.", ".mlp.fc1."),
        (".output.dense.", ".mlp.fc2."),
    )
    thirds = {
        "attention.attention.query": 0,
        "attention.attention.key": 1,
        "attention.attention.value": 2,
        "attention.q_proj": 0,
        "attention.k_proj": 1,
        "attention.v_proj": 2,
    }
    result = {}
    for name in twin.state_dict():
        new, third = name, None
        for old, replacement in table:
            new = new.replace(old, replacement)
        for old, index in thirds.items():
            if old in new:
                new, third = new.replace(old, "attention.qkv"), index
        result[name] = state[new] if third is None else state[new].chunk(3)[third]
    return result


@pytest.fixture(scope="module")
def pair() -> tuple[MAEObjective, ViTMAEForPreTraining, dict[str, Tensor]]:
    model = ours()
    generator = torch.Generator().manual_seed(1)
    batch = {
        "global_crops": torch.randn(4, 3, 48, 48, generator=generator),
        "noise": torch.rand(4, 36, generator=generator),
    }
    return MAEObjective(model), theirs(model), batch


def test_loss_equals_transformers(pair: tuple) -> None:
    objective, twin, batch = pair
    loss, terms = objective(batch, VALUES)
    wanted = twin(batch["global_crops"], noise=batch["noise"])
    assert loss.item() == pytest.approx(wanted.loss.item(), rel=1e-6)
    assert terms["mae_loss"] == loss and not terms["mae_loss"].requires_grad


def test_the_model_predicts_what_transformers_predicts(pair: tuple) -> None:
    objective, twin, batch = pair
    found = objective.model(batch["global_crops"], noise=batch["noise"])
    wanted = twin(batch["global_crops"], noise=batch["noise"])
    assert found.loss.item() == pytest.approx(wanted.loss.item(), rel=1e-6)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-5)
    assert found.mask.equal(wanted.mask) and found.ids_restore.equal(wanted.ids_restore)


def test_gradients_equal_transformers(pair: tuple) -> None:
    objective, twin, batch = pair
    objective.zero_grad()
    twin.zero_grad()
    objective(batch, VALUES)[0].backward()
    twin(batch["global_crops"], noise=batch["noise"]).loss.backward()
    gradients = {name: p.grad for name, p in objective.model.named_parameters() if p.grad is not None}
    zeros = {name: torch.zeros_like(p) for name, p in objective.model.named_parameters()}
    wanted = renamed(twin, {**zeros, **gradients})
    for name, parameter in twin.named_parameters():
        if parameter.requires_grad:
            assert (parameter.grad - wanted[name]).norm() <= 1e-4 * parameter.grad.norm() + 1e-9, name


def test_noise_is_drawn_when_it_is_not_given(pair: tuple) -> None:
    objective, _, batch = pair
    crops = {"global_crops": batch["global_crops"]}
    torch.manual_seed(0)
    first = objective(crops, VALUES)[0]
    torch.manual_seed(0)
    assert objective(crops, VALUES)[0] == first
    assert objective(crops, VALUES)[0] != first
