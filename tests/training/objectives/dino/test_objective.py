import copy
import dataclasses
import math

import numpy as np
import pytest
import torch

from biovfm_hf import BioVFMConfig, BioVFMModel
from training.objectives.dino.config import DINOConfig, GramConfig
from training.objectives.dino.losses import sinkhorn_knopp
from training.objectives.dino.masking import block_masks
from training.objectives.dino.objective import DINOObjective
from training.schedule import StepValues

VALUES = StepValues(lr=1e-3, last_layer_lr=1e-3, weight_decay=0.04, momentum=0.9, teacher_temp=0.05)


def objective(separate: bool = False, centering: str = "centering", **backbone: object) -> DINOObjective:
    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = BioVFMConfig(**{**sizes, "use_mask_token": True, "layerscale_value": 1.0, **backbone})
    heads = DINOConfig(
        prototypes=32,
        hidden=16,
        bottleneck=8,
        ibot_separate_head=separate,
        ibot_prototypes=16,
        ibot_hidden=16,
        ibot_bottleneck=8,
        centering=centering,
    )
    return DINOObjective(BioVFMModel(config), heads).train()


def batch(images: int = 3, local_crops: int = 2, masked: float = 0.5) -> dict[str, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    return {
        "global_crops": torch.randn(2 * images, 3, 32, 32, generator=generator),
        "local_crops": torch.randn(local_crops * images, 3, 16, 16, generator=generator) if local_crops else None,
        **block_masks(2 * images, (4, 4), np.random.default_rng(0), masked),
    }


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("centering", ["centering", "sinkhorn_knopp"])
@pytest.mark.parametrize(("local_crops", "masked"), [(2, 0.5), (0, 0.5), (2, 0.0)])
def test_every_student_tensor_gets_a_finite_gradient(
    separate: bool, centering: str, local_crops: int, masked: float
) -> None:
    model = objective(separate, centering, num_register_tokens=2)
    loss, terms = model(batch(local_crops=local_crops, masked=masked), VALUES)
    loss.backward()
    assert loss.isfinite()
    for name, parameter in model.student.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    assert ("dino_local_crops_loss" in terms) == bool(local_crops)
    assert all(term.isfinite() for term in terms.values())
    assert not any(term.requires_grad for term in terms.values())


def test_total_is_made_of_the_logged_terms() -> None:
    loss, terms = objective()(batch(), VALUES)
    halves = 2 * (terms["ibot_loss"] + terms["koleo_loss"])
    torch.testing.assert_close(loss, terms["dino_local_crops_loss"] + terms["dino_global_crops_loss"] + halves)


def test_masked_indices_may_be_left_to_the_objective() -> None:
    whole = batch()
    bare = {name: value for name, value in whole.items() if name != "mask_indices"}
    assert objective()(whole, VALUES)[0] == objective()(bare, VALUES)[0]


def test_unused_mask_token_still_has_a_gradient() -> None:
    model = objective()
    model(batch(masked=0.0), VALUES)[0].backward()
    assert model.student.backbone.embeddings.mask_token.grad.eq(0).all()


def test_teacher_is_a_copy_that_stays_in_evaluation_mode() -> None:
    model = objective(drop_path_rate=0.5)
    assert model.train().student.training and not any(module.training for module in model.teacher.modules())
    for student, teacher in zip(model.student.parameters(), model.teacher.parameters(), strict=True):
        assert student.equal(teacher) and student is not teacher and not teacher.requires_grad


def test_teacher_follows_the_student() -> None:
    model = objective()
    before = {name: value.clone() for name, value in model.teacher.named_parameters()}
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(1.0)
    model.update_teacher(0.75)
    for name, value in model.teacher.named_parameters():
        torch.testing.assert_close(value, before[name] + 0.25, msg=name)


def test_gap_is_zero_when_scores_say_nothing() -> None:
    model = objective(separate=True)
    with torch.no_grad():
        for network in (model.student, model.teacher):
            network.dino_head.last_layer.weight_g.zero_()
            network.ibot_head.last_layer.weight_g.zero_()
    _, terms = model(batch(), VALUES)
    for name in ("dino_global_crops_gap", "dino_local_crops_gap", "ibot_gap"):
        assert terms[name].item() == pytest.approx(0.0, abs=1e-5), name
    assert terms["teacher_entropy"].item() == pytest.approx(math.log(32), rel=1e-5)
    # the losses as DINOv2 would log them for a collapsed model: 2 and 4 of the 6 pairs, half of the images masked
    assert terms["dino_global_crops_loss"].item() == pytest.approx(math.log(32) * 2 / 6, rel=1e-5)
    assert terms["dino_local_crops_loss"].item() == pytest.approx(math.log(32) * 4 / 6, rel=1e-5)
    assert terms["ibot_loss"].item() == pytest.approx(math.log(16) / 4, rel=1e-5)


def test_global_crops_meet_the_other_crop_of_their_image() -> None:
    model = objective(centering="sinkhorn_knopp")
    inputs = batch(images=4, local_crops=0, masked=0.0)
    with torch.no_grad():
        teacher = model.teacher.backbone(inputs["global_crops"]).last_hidden_state[:, 0]
        scores = model.teacher.dino_head.last_layer(model.teacher.dino_head(teacher))
    targets, _ = model._targets(inputs | {"mask_indices": torch.empty(0, dtype=torch.long)}, 0.05)
    torch.testing.assert_close(targets.roll(4, 0), sinkhorn_knopp(scores, 0.05))


def test_centre_is_used_one_step_late() -> None:
    model = objective()
    assert model.dino_center.eq(0).all()
    first = model(batch(), VALUES)[0]
    assert model.dino_center.abs().sum() > 0 and model.ibot_center.abs().sum() > 0
    fresh = objective()
    assert fresh(batch(), VALUES)[0] == first  # the first batch is not centred by itself
    assert model(batch(), VALUES)[0] != first


def test_drop_path_runs_in_the_student_only() -> None:
    model = objective(drop_path_rate=0.5, centering="sinkhorn_knopp")
    torch.manual_seed(1)
    first = model(batch(), VALUES)
    torch.manual_seed(2)
    second = model(batch(), VALUES)
    assert first[0] != second[0]
    assert first[1]["teacher_entropy"] == second[1]["teacher_entropy"]


def test_autocast_stays_close_and_returns_float32() -> None:
    exact, _ = objective()(batch(), VALUES)
    model = objective()
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = model(batch(), VALUES)
    rounded.backward()
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)


def test_gram_anchoring_pulls_at_patches_and_its_teacher_is_renewed_by_copy() -> None:
    model = objective()
    anchor = copy.deepcopy(model.teacher.backbone)
    with torch.no_grad():
        for parameter in anchor.parameters():
            parameter.fill_(torch.nan)  # a copy gets rid of them, an average would not
    model.anchor(anchor, GramConfig(weight=1.0))
    model.refresh_anchor()
    assert not any(parameter.requires_grad for parameter in model.gram_teacher.parameters())
    assert not model.train().gram_teacher.training
    inputs = batch()
    total, report = model(inputs, dataclasses.replace(VALUES, gram_weight=2.0))
    model = objective()
    plain, without = model(inputs, VALUES)
    assert "gram_loss" not in without and report["gram_loss"] > 0, "masked crops differ from whole ones"
    torch.testing.assert_close(total - plain, 2 * report["gram_loss"])


def test_a_backbone_without_mask_token_is_refused() -> None:
    with pytest.raises(ValueError, match="use_mask_token=True"):
        objective(use_mask_token=False)


def test_step_values_without_a_temperature_are_refused() -> None:
    with pytest.raises(ValueError, match="teacher_temp"):
        objective()(batch(), StepValues(lr=0.0, last_layer_lr=0.0, weight_decay=0.0))
