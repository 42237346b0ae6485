"""torchxrayvision's classifiers of chest radiographs, read before their last layer.

The package downloads its weights; those of DenseNets are whole pickled modules. Only the tensors of these are used,
and a file may name nothing but layers of torch and of the package.
"""

import pickle
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from biovfm_hf.errors import UserError, one_line, require

EXTRA = "xrv"
_PLAIN = {
    ("collections", "OrderedDict"), ("builtins", "set"), ("__builtin__", "set"), ("torch.nn.parameter", "Parameter"),
    ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter"),
}  # fmt: skip
HALF, SPAN = 0.5, 1 / 2048  # mean and standard deviation that map 0..1 to the package's -1024..1024


def load_network(name: str) -> tuple[nn.Module, int]:
    """The part of a model that computes its feature map (B, D, h, w), and its input size.

    Raises:
        UserError: the package is not installed or has no such model, or the weights cannot be downloaded or read.
    """
    models = require("torchxrayvision.models", EXTRA)
    names = [known for known in models.model_urls if "-res" in known]  # the others are short names for these
    if name not in names:
        raise UserError(f"model xrv:{name}: torchxrayvision has {', '.join(names)}")
    try:
        path = Path(models.get_weights(name))
    except Exception as error:  # requests and the file system raise what they like
        raise UserError(f"model xrv:{name}: its weights cannot be downloaded ({one_line(error)})") from error
    tensors = read_weights(path)
    size = int(name.partition("-res")[2].partition("-")[0])
    build = _densenet if name.startswith("densenet") else _resnet
    try:
        return build(models, tensors), size
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{path}: its tensors are not those of {name} ({one_line(error)})") from error


class _Layers(pickle.Unpickler):
    """An unpickler that knows tensors and layers of torch and torchxrayvision, and runs nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function that a file names.

        Raises:
            pickle.UnpicklingError: it belongs neither to tensors nor to layers.
        """
        plain = (module, name) in _PLAIN or (module == "torch" and name.endswith("Storage"))
        if plain or module.startswith(("torch.nn.modules.", "torchxrayvision.models")):
            part = super().find_class(module, name)
            if plain or (isinstance(part, type) and issubclass(part, nn.Module)):
                return part
        raise pickle.UnpicklingError(f"names {module}.{name}, which is never loaded")


def _load(file: Any, **how: Any) -> Any:
    return _Layers(file, **how).load()


_AS_LAYERS = SimpleNamespace(__name__=__name__, Unpickler=_Layers, load=_load)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of tensors or of a whole pickled module, in either of torch's formats.

    Raises:
        UserError: the file names anything else, or is damaged.
    """
    try:
        content = torch.load(path, map_location="cpu", pickle_module=_AS_LAYERS, weights_only=False)
    except Exception as error:  # damaged bytes surface as almost anything
        raise UserError(f"{path}: not read as weights ({one_line(error)}); remove it and try again") from error
    return content.state_dict() if isinstance(content, nn.Module) else content


def _densenet(models: Any, tensors: dict[str, Tensor]) -> nn.Module:
    features = models.DenseNet().features
    own = {name.removeprefix("features."): t for name, t in tensors.items() if name.startswith("features.")}
    features.load_state_dict(own)
    return nn.Sequential(features, nn.ReLU())


def _resnet(models: Any, tensors: dict[str, Tensor]) -> nn.Module:
    """ResNet-50 with one channel, which the package takes from torchvision."""
    network = models.torchvision.models.resnet50(weights=None, num_classes=len(tensors["fc.bias"]))
    network.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    network.load_state_dict(tensors)
    return nn.Sequential(*list(network.children())[:-2])


def preprocess(images: Sequence[np.ndarray], size: int) -> Tensor:
    """The package's own preprocessing: grey values in -1024..1024, middle square, resized: (B, 1, size, size)."""
    datasets, utils = (require(f"torchxrayvision.{part}", EXTRA) for part in ("datasets", "utils"))
    crop, resize = datasets.XRayCenterCrop(), datasets.XRayResizer(size)
    ready = [resize(crop(utils.normalize(image.mean(2), 255)[None])) for image in images]
    return torch.from_numpy(np.stack(ready)).float()
