"""Tells transformers' Auto classes about BioVFM, at the moment they are loaded and not before.

Importing torch and transformers takes seconds and hundreds of megabytes, which neither `biovfm --help` nor a
dataset worker should pay. So each of transformers' three Auto modules is watched: once it has been imported, by
anyone, the module of ours that belongs to it is imported too, and its classes are registered.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def _register_config(auto: ModuleType, ours: ModuleType) -> None:
    auto.AutoConfig.register("biovfm", ours.BioVFMConfig, exist_ok=True)


def _register_models(auto: ModuleType, ours: ModuleType) -> None:
    models = {
        auto.AutoModel: ours.BioVFMModel,
        auto.AutoBackbone: ours.BioVFMBackbone,
        auto.AutoModelForImageClassification: ours.BioVFMForImageClassification,
        auto.AutoModelForPreTraining: ours.BioVFMForMaskedAutoencoding,
        auto.AutoModelForSemanticSegmentation: ours.BioVFMForSemanticSegmentation,
    }
    for auto_class, model in models.items():
        auto_class.register(model.config_class, model, exist_ok=True)


def _register_image_processor(auto: ModuleType, ours: ModuleType) -> None:
    from .configuration_biovfm import BioVFMConfig

    processor = ours.BioVFMImageProcessor  # works with PIL whether torchvision is there or not, so it serves both
    auto.AutoImageProcessor.register(
        BioVFMConfig, image_processor_classes={"pil": processor, "torchvision": processor}, exist_ok=True
    )


# (transformers' module, ours, what to do once both have been executed)
_PAIRS: list[tuple[str, str, Callable[[ModuleType, ModuleType], None]]] = [
    ("transformers.models.auto.configuration_auto", f"{__package__}.configuration_biovfm", _register_config),
    ("transformers.models.auto.modeling_auto", f"{__package__}.modeling_biovfm", _register_models),
    (
        "transformers.models.auto.image_processing_auto",
        f"{__package__}.image_processing_biovfm",
        _register_image_processor,
    ),
]
_WATCHED = {name for auto, ours, _ in _PAIRS for name in (auto, ours)}


class _AfterImport:
    """A meta-path finder that finds nothing of its own, but is told when a watched module has been executed."""

    def __init__(self) -> None:
        self.waiting = set(_WATCHED)
        self.executed: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self.waiting:
            return None
        self.waiting.discard(name)  # before the search below, which must not come back here
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self.after(name)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def after(self, name: str) -> None:
        """A watched module has been executed: register what is complete, import what is not there yet."""
        self.waiting.discard(name)
        self.executed.add(name)
        for auto, ours, register in _PAIRS:
            if name not in (auto, ours) or auto not in self.executed:
                continue
            if ours in self.executed:
                register(sys.modules[auto], sys.modules[ours])
            elif ours not in sys.modules:  # else it is being imported right now, and its end comes back here
                importlib.import_module(ours)


def register_when_loaded() -> None:
    """Register with every Auto module: now where it is loaded already, else as soon as it is."""
    finder = _AfterImport()
    sys.meta_path.insert(0, finder)
    for name in sorted(_WATCHED & set(sys.modules)):
        finder.after(name)
