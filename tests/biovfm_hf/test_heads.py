"""Heads on a pretraining checkpoint: every parameter trains, masked modelling learns, pipelines ask nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    AutoModelForPreTraining,
    AutoModelForSemanticSegmentation,
)

from biovfm_hf import (
    BioVFMBackbone,
    BioVFMConfig,
    BioVFMForImageClassification,
    BioVFMForMaskedImageModeling,
    BioVFMImageProcessor,
    BioVFMModel,
)
from tests.preloaded import python

SMALL = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
DECODER = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 4}
# what pretraining writes
FIELDS = {
    "dinov2": {"use_mask_token": True, "num_register_tokens": 2},
    "dinov3": {
        "use_mask_token": True,
        "position_embedding_type": "rope",
        "mask_key_bias": True,
        "untie_cls_and_patch_norms": True,
        "untie_global_and_local_cls_norm": True,
    },
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for family, fields in FIELDS.items():
        BioVFMModel(BioVFMConfig(**SMALL, **DECODER, **fields)).save_pretrained(folder / family)
        BioVFMImageProcessor(size=32).save_pretrained(folder / family)
    return {family: folder / family for family in FIELDS}


@pytest.fixture(scope="module")
def checkpoint(checkpoints: dict[str, Path]) -> Path:
    return checkpoints["dinov2"]


HEADS = {
    "class token": (AutoModelForImageClassification, {"pooling": "cls"}),
    "mean of patches": (AutoModelForImageClassification, {"pooling": "mean"}),
    "both": (AutoModelForImageClassification, {}),
    "linear segmentation": (AutoModelForSemanticSegmentation, {}),
    "U-Net": (AutoModelForSemanticSegmentation, {"segmentation_head": "unet"}),
    "autoencoder": (AutoModelForPreTraining, {}),
    "masked image modelling": (AutoModelForMaskedImageModeling, {}),
}


@pytest.mark.parametrize("family", FIELDS)
@pytest.mark.parametrize("kind", HEADS)
def test_every_parameter_of_a_head_is_trained(
    kind: str, family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """DDP fails in its second step if a parameter that requires a gradient gets none."""
    auto, fields = HEADS[kind]
    if kind == "autoencoder" and family == "dinov3":
        pytest.skip("rotary positions take all patches")
    model, report = auto.from_pretrained(checkpoints[family], num_labels=3, output_loading_info=True, **fields)
    assert not report["unexpected_keys"]
    model.save_pretrained(tmp_path)
    inputs: dict = {"pixel_values": torch.randn(2, 3, 32, 32)}
    if auto is AutoModelForImageClassification:
        inputs["labels"] = torch.tensor([0, 2])
    elif auto is AutoModelForSemanticSegmentation:
        inputs["labels"] = torch.randint(0, 3, (2, 32, 32))
    elif auto is AutoModelForMaskedImageModeling:
        inputs["bool_masked_pos"] = torch.rand(2, 16) < 0.5
    for trained in (model, auto.from_pretrained(tmp_path)):
        trained.train()(**inputs).loss.backward()
        idle = [name for name, tensor in trained.named_parameters() if tensor.requires_grad and tensor.grad is None]
        assert not idle


def test_a_head_leaves_the_callers_configuration_alone(checkpoint: Path) -> None:
    config = BioVFMConfig(**SMALL, use_mask_token=True)
    head = AutoModelForImageClassification.from_config(config)
    assert config.use_mask_token and not head.config.use_mask_token
    backbone, info = BioVFMBackbone.from_pretrained(checkpoint, output_loading_info=True)
    assert backbone.embeddings.mask_token is None and not info["unexpected_keys"]


@pytest.mark.parametrize("shown", [True, False, [0, 2], [-1]])
@pytest.mark.parametrize("kind", ["both", "linear segmentation", "U-Net", "masked image modelling"])
def test_heads_show_the_hidden_states_of_their_encoder(kind: str, shown: bool | list[int]) -> None:
    auto, fields = HEADS[kind]
    head = auto.from_config(BioVFMConfig(**SMALL, num_labels=3, use_mask_token=True, **fields)).eval()
    pixels = torch.randn(1, 3, 32, 32)
    states, expected = (model(pixels, output_hidden_states=shown).hidden_states for model in (head, head.base_model))
    torch.testing.assert_close(states, expected)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.float32, torch.float64])
def test_several_labels_an_image_may_be_of_any_dtype(dtype: torch.dtype) -> None:
    model = BioVFMForImageClassification(BioVFMConfig(**SMALL, num_labels=3))
    labels = torch.tensor([[1, 0, 1], [0, 0, 1]])
    outputs = model(torch.randn(2, 3, 32, 32), labels=labels.to(dtype))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(outputs.logits, labels.float())
    torch.testing.assert_close(outputs.loss, expected)


def test_masked_image_modelling_has_simmims_loss() -> None:
    torch.manual_seed(0)
    model = BioVFMForMaskedImageModeling(BioVFMConfig(**SMALL))
    pixels, masks = torch.randn(2, 3, 32, 48), torch.rand(2, 24) < 0.5
    outputs = model(pixels, bool_masked_pos=masks)
    error = 0.0
    for image in range(2):  # pixel by pixel, as the paper has it
        for place in masks[image].nonzero().flatten().tolist():
            row, column = divmod(place, 6)
            patch = (image, slice(None), slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
            error += (outputs.reconstruction[patch] - pixels[patch]).abs().sum().item()
    assert outputs.reconstruction.shape == pixels.shape
    assert outputs.loss.item() == pytest.approx(error / (masks.sum().item() * 64) / 3, rel=1e-5)
    assert model(pixels).loss is None
    with pytest.raises(ValueError, match="encoder_stride 16 must be the patch size 8"):
        BioVFMForMaskedImageModeling(BioVFMConfig(**SMALL, encoder_stride=16))(pixels, bool_masked_pos=masks)


def test_masked_image_modelling_learns() -> None:
    torch.manual_seed(0)
    model = BioVFMForMaskedImageModeling(BioVFMConfig(**SMALL, layerscale_value=1.0))
    pixels = torch.randn(8, 3, 1, 1).expand(-1, -1, 32, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = model(pixels, bool_masked_pos=torch.rand(8, 16) < 0.5).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_pipelines_ask_no_question_on_a_terminal(checkpoint: Path) -> None:
    import pty

    program = (
        "import sys, biovfm_hf\n"
        "from transformers import pipeline\n"
        "for task in ('image-feature-extraction', 'image-classification', 'image-segmentation'):\n"
        "    print(type(pipeline(task, model=sys.argv[1]).image_processor).__name__)\n"
    )
    terminal, keyboard = pty.openpty()  # open, and nobody types
    try:
        done = subprocess.run(
            [python(), "-c", program, str(checkpoint)],
            stdin=keyboard, capture_output=True, text=True, timeout=120, check=True, env=dict(os.environ),
        )  # fmt: skip
    finally:
        os.close(terminal)
        os.close(keyboard)
    assert done.stdout.split() == ["BioVFMImageProcessor"] * 3  # and no "Do you wish to run the custom code?"
    assert "is not supported" not in done.stderr


DISTRIBUTED = """
import sys, torch, biovfm_hf
from accelerate import Accelerator
from transformers import AutoModelForSemanticSegmentation
model = AutoModelForSemanticSegmentation.from_pretrained(sys.argv[1], num_labels=3, segmentation_head="unet")
accelerator = Accelerator(cpu=True)
model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
for step in range(3):
    pixels, labels = torch.randn(2, 3, 32, 32), torch.randint(0, 3, (2, 32, 32))
    accelerator.backward(model(pixel_values=pixels, labels=labels).loss)
    optimizer.step()
    optimizer.zero_grad()
alike = accelerator.gather(torch.stack([parameter.sum() for parameter in model.parameters()])).view(2, -1)
assert torch.equal(alike[0], alike[1])
accelerator.print("done", type(model).__name__)
"""


def test_a_head_is_fine_tuned_by_two_processes(checkpoint: Path) -> None:
    """DDP refuses the second step of a model of which a parameter got no gradient in the first."""
    launcher = [python(), "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "--no-python"]
    done = subprocess.run(
        [*launcher, python(), "-c", DISTRIBUTED, str(checkpoint)],
        capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["done", "DistributedDataParallel"]
