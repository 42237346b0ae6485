"""torchxrayvision's models, with a stand-in for the package: what is read, and that files run no code."""

import os
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from biovfm_hf.errors import UserError
from evaluation.encoders.load import load_encoder


class DenseNet(nn.Module):
    """A network in the package's form: `features` end in a norm, `classifier` follows on the mean of their ReLU."""

    def __init__(self, num_classes=18):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 7, 32), nn.BatchNorm2d(8))
        self.classifier = nn.Linear(8, num_classes)


DenseNet.__module__ = "torchxrayvision.models"
NAMES = ("all", "densenet121-res224-all", "resnet50-res512-all")


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """The parts of the package that are used, and the file that it would download."""
    package, models, datasets, utils = (
        ModuleType(name)
        for name in ("torchxrayvision", *(f"torchxrayvision.{p}" for p in ("models", "datasets", "utils")))
    )
    models.model_urls, models.DenseNet, models.torchvision = dict.fromkeys(NAMES), DenseNet, torchvision
    path = tmp_path / "weights.pt"
    models.get_weights = lambda name: str(path)
    utils.normalize = lambda image, top: (2 * (image.astype(np.float32) / top) - 1) * 1024
    datasets.XRayCenterCrop = lambda: lambda image: image[:, :, 5:-5]
    datasets.XRayResizer = lambda size: lambda image: np.resize(image, (1, size, size))
    for module in (package, models, datasets, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_module_is_read_by_its_tensors(weights, zipped):
    torch.manual_seed(0)
    model = DenseNet().eval()
    torch.save(model, weights, _use_new_zipfile_serialization=zipped)
    encoder = load_encoder("xrv-densenet121")
    image = np.full((224, 234, 3), 255, np.uint8)
    pixels = encoder.preprocess([image, image // 3])
    assert pixels.shape == (2, 1, 224, 224) and pixels[0].eq(1024).all()
    assert pixels[1].mean().item() == pytest.approx((2 * 85 / 255 - 1) * 1024)
    with torch.no_grad():
        expected = model.features(pixels).relu().mean((2, 3))
    summary = encoder.encode(pixels).summary()
    torch.testing.assert_close(summary[encoder.features], expected)
    as_masks_need = (pixels / 1024 + 1) / 2  # values of 0..1, normalised by mean and deviation, in three channels
    three = ((as_masks_need - encoder.mean[0]) / encoder.std[0]).expand(-1, 3, -1, -1)
    torch.testing.assert_close(encoder.encode(three).summary()["mean"], expected, atol=1e-3, rtol=1e-4)


def test_resnet_is_read_before_its_last_layer(weights):
    torch.manual_seed(0)
    network = torchvision.models.resnet50(num_classes=18)
    network.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    torch.save(network.eval().state_dict(), weights)
    encoder = load_encoder("xrv:resnet50-res512-all")
    pixels = torch.randn(1, 1, 64, 64)
    network.fc = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode(pixels).summary()["mean"], network(pixels), atol=1e-4, rtol=1e-4)
    assert encoder.size == 512


class Command:
    """An object that runs a command when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("run-by-a-pickle",)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_else_is_unpickled(weights, tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.weight": Command()}, weights, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"names posix\.mkdir, which is never loaded"):
        load_encoder("xrv:densenet121-res224-all")
    assert not (tmp_path / "run-by-a-pickle").exists()


def test_what_is_missing_is_named(weights, monkeypatch):
    with pytest.raises(UserError, match=r"torchxrayvision has densenet121-res224-all, resnet50-res512-all$"):
        load_encoder("xrv:all")
    torch.save({"features.0.weight": torch.ones(1)}, weights)
    with pytest.raises(UserError, match="its tensors are not those of densenet121-res224-all"):
        load_encoder("xrv:densenet121-res224-all")
    for name in [name for name in sys.modules if name.startswith("torchxrayvision")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"pip install 'biovfm-hf\[xrv\]'"):
        load_encoder("xrv:densenet121-res224-all")
