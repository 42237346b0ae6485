"""Every tensor starts as the references start it, however built: `vision_transformer.py` of dinov2 and of dinov3, and
mae's `models_mae.py`.

The expected distributions are written down here once, by the name of the tensor, and each start is held against them:
a constant must be equal, a random tensor must pass a Kolmogorov-Smirnov test at p > 1e-4.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForPreTraining

from biovfm_hf import (
    BioVFMConfig,
    BioVFMForImageClassification,
    BioVFMForMaskedAutoencoding,
    BioVFMForMaskedImageModeling,
    BioVFMForSemanticSegmentation,
    BioVFMModel,
)
from training.config_file import load_config
from training.objectives.dino.method import DINOMethod
from training.objectives.mae.method import MAEMethod
from training.settings.architecture import biovfm_config

SIZES = {"num_hidden_layers": 2, "hidden_size": 96, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
DECODER = {"decoder_hidden_size": 64, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 4}
CONFIGS: dict[str, dict] = {
    "dinov2": {"use_mask_token": True, "num_register_tokens": 64},  # enough registers to tell their distribution
    "mae": {"use_mask_token": True},
    "dinov3": {"use_mask_token": True, "num_register_tokens": 64, "untie_global_and_local_cls_norm": True},
}
TOKEN_STD = {"dinov2": 1e-6, "mae": 0.02, "dinov3": 0.02}  # of the class token, and of DINOv2's and DINOv3's registers


def config(family: str, **fields: object) -> BioVFMConfig:
    return BioVFMConfig.from_size("vit-tiny", family=family, **{**SIZES, **DECODER, **CONFIGS[family], **fields})


def uniform(bound: float) -> stats.rv_continuous:
    return stats.uniform(-bound, 2 * bound)


def sincos(width: int, rows: int) -> np.ndarray:
    """MAE's `get_2d_sincos_pos_embed`, entry by entry."""
    side = math.isqrt(rows - 1)
    table = np.zeros((1, rows, width))
    for place in range(rows - 1):
        row, column = divmod(place, side)
        for start, coordinate in ((0, column), (width // 2, row)):
            for k in range(width // 4):
                angle = coordinate / 10000 ** (k / (width / 4))
                table[0, 1 + place, start + k] = math.sin(angle)
                table[0, 1 + place, start + width // 4 + k] = math.cos(angle)
    return table


def linear_start(mae: bool, shape: tuple[int, ...]) -> stats.rv_continuous:
    return uniform(math.sqrt(6 / sum(shape))) if mae else stats.truncnorm(-100, 100, scale=0.02)


def start(name: str, shape: tuple[int, ...], family: str, fan_in: int) -> float | np.ndarray | stats.rv_continuous:
    """What the references fill a tensor of the encoder or MAE's decoder with; `fan_in` is the patch projection's."""
    decoder, mae = name.startswith("decoder."), family == "mae"
    if name.endswith("projection.weight"):
        return uniform(math.sqrt(6 / (shape[0] + fan_in)) if mae else fan_in**-0.5)
    if name.endswith("projection.bias"):
        return uniform(fan_in**-0.5)
    if name.endswith("position_embeddings"):
        return sincos(shape[2], shape[1]) if mae or decoder else stats.norm(scale=0.02)
    if name.endswith(("cls_token", "register_tokens")):
        return stats.norm(scale=TOKEN_STD[family])
    if name.endswith("mask_token"):
        return stats.norm(scale=0.02) if decoder else 0.0
    if name.endswith("gamma"):
        return 1e-5
    if name.endswith("bias"):
        return 0.0
    return 1.0 if "norm" in name else linear_start(mae, shape)


def assert_starts_as_the_reference(model: torch.nn.Module, names: set[str] | None = None) -> None:
    """`names`: the end of the tensors to look at; all by default."""
    encoder = getattr(model, "biovfm", model)
    family = encoder.config.initialization
    fan_in = encoder.embeddings.patch_embeddings.projection.weight[0].numel()
    for name, tensor in model.state_dict().items():
        if names is not None and name.split("embeddings.")[-1] not in names:
            continue
        expected = start(name.removeprefix("biovfm."), tuple(tensor.shape), family, fan_in)
        values = tensor.double().numpy()
        if isinstance(expected, float | np.ndarray):
            np.testing.assert_allclose(values, np.broadcast_to(expected, values.shape), atol=1e-6, err_msg=name)
        else:
            assert stats.kstest(values.flatten()[:20_000], expected.cdf).pvalue > 1e-4, name


def from_config(config: BioVFMConfig, folder: Path) -> torch.nn.Module:
    return AutoModel.from_config(config)


def constructed(config: BioVFMConfig, folder: Path) -> torch.nn.Module:
    return BioVFMModel(config)


def autoencoder(config: BioVFMConfig, folder: Path) -> torch.nn.Module:
    return BioVFMForMaskedAutoencoding(config)


def autoencoder_from_config(config: BioVFMConfig, folder: Path) -> torch.nn.Module:
    return AutoModelForPreTraining.from_config(config)


def loaded_from_nothing(config: BioVFMConfig, folder: Path) -> torch.nn.Module:
    """Every tensor missing: what `from_pretrained` fills by itself, from raw memory."""
    return BioVFMForMaskedAutoencoding.from_pretrained(None, config=config, state_dict={})


ENCODERS, AUTOENCODERS = [constructed, from_config], [autoencoder, autoencoder_from_config, loaded_from_nothing]
# a masked autoencoder leaves patches out, which rotary positions do not know
BUILDS = [(family, build) for family in CONFIGS for build in ENCODERS + AUTOENCODERS * (family != "dinov3")]


@pytest.mark.parametrize(("family", "build"), BUILDS)
def test_every_tensor_starts_as_the_reference(build: Callable, family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert_starts_as_the_reference(build(config(family), tmp_path))


@pytest.mark.parametrize("size", ["vit-tiny", "vit-base"])
def test_maes_patch_projection_has_the_bound_of_its_linear_layer(size: str) -> None:
    torch.manual_seed(0)
    model = BioVFMModel(BioVFMConfig.from_size(size, family="mae", num_hidden_layers=1))
    projection = model.embeddings.patch_embeddings.projection
    bound = {"vit-tiny": 0.0791, "vit-base": 0.0625}[size]
    assert 0.999 * bound < projection.weight.abs().max() < 1.001 * bound


@pytest.mark.parametrize(
    ("recipe", "objective"),
    [("dino_vit_tiny", DINOMethod), ("mae_vit_tiny", MAEMethod), ("dino_v3_small", DINOMethod)],
)
def test_training_starts_as_the_reference(recipe: str, objective: Callable) -> None:
    torch.manual_seed(0)
    settings = load_config(recipe, {"model.num_hidden_layers": 2})
    way = objective()
    for model in way.exported(way.build(settings, biovfm_config(settings))).values():
        assert_starts_as_the_reference(model)


# what does not fit the checkpoint, and the tensors that start anew because of it
OTHER_SHAPES = {
    "channels": ({"num_channels": 1}, {"projection.weight"}),
    "patch size": ({"patch_size": 16, "image_size": 64}, {"projection.weight"}),
    "image size": ({"image_size": 64}, {"position_embeddings"}),
}


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("what", OTHER_SHAPES)
def test_mismatched_tensors_start_as_the_reference(what: str, family: str, tmp_path: Path) -> None:
    checkpoint = BioVFMModel(config(family))
    checkpoint.save_pretrained(tmp_path)
    fields, anew = OTHER_SHAPES[what]
    anew = anew & {name.split("embeddings.")[-1] for name in checkpoint.state_dict()}  # rotary positions are no tensor
    with raw_memory():
        model = BioVFMModel.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **fields)
    assert_starts_as_the_reference(model, anew)
    for name, tensor in checkpoint.state_dict().items():
        if name.split("embeddings.")[-1] not in anew:
            assert torch.equal(model.state_dict()[name], tensor), name


class raw_memory:
    """Fill every tensor that torch leaves unset with a value that no start has."""

    def __enter__(self) -> None:
        torch.use_deterministic_algorithms(True)
        self.fill = torch.utils.deterministic.fill_uninitialized_memory
        torch.utils.deterministic.fill_uninitialized_memory = True

    def __exit__(self, *_: object) -> None:
        torch.utils.deterministic.fill_uninitialized_memory = self.fill
        torch.use_deterministic_algorithms(False)


HEADS = [BioVFMForImageClassification, BioVFMForSemanticSegmentation, BioVFMForMaskedImageModeling]


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("head", HEADS)
def test_a_new_head_on_old_weights_starts_small_and_finite(head: type, family: str, tmp_path: Path) -> None:
    """The same for another number of labels than the checkpoint has."""
    BioVFMModel(config(family)).save_pretrained(tmp_path / "encoder")
    AutoModelForImageClassification.from_config(config(family, num_labels=7)).save_pretrained(tmp_path / "classifier")
    for folder in ("encoder", "classifier"):
        with raw_memory():
            model = head.from_pretrained(tmp_path / folder, num_labels=3, ignore_mismatched_sizes=True)
        for name, tensor in model.state_dict().items():
            if not name.startswith("biovfm."):
                assert tensor.isfinite().all() and tensor.abs().max() < 0.5, name
                assert tensor.std() > 0.005 if name.endswith("weight") else tensor.abs().max() == 0, name
