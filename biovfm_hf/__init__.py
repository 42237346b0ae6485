"""BioVFM vision transformers for the Hugging Face stack.

`import biovfm_hf` is enough for `AutoModel`, `AutoImageProcessor`, `AutoBackbone` and the pipelines to know the
`biovfm` model type. It is also cheap: torch and transformers load when a model is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .registration import register_when_loaded

if TYPE_CHECKING:
    from .configuration_biovfm import BioVFMConfig
    from .image_processing_biovfm import BioVFMImageProcessor
    from .modeling_biovfm import (
        BioVFMBackbone,
        BioVFMForImageClassification,
        BioVFMForMaskedAutoencoding,
        BioVFMForMaskedImageModeling,
        BioVFMForSemanticSegmentation,
        BioVFMModel,
    )

_MODULE_OF = {
    "BioVFMBackbone": "modeling_biovfm",
    "BioVFMConfig": "configuration_biovfm",
    "BioVFMForImageClassification": "modeling_biovfm",
    "BioVFMForMaskedAutoencoding": "modeling_biovfm",
    "BioVFMForMaskedImageModeling": "modeling_biovfm",
    "BioVFMForSemanticSegmentation": "modeling_biovfm",
    "BioVFMImageProcessor": "image_processing_biovfm",
    "BioVFMModel": "modeling_biovfm",
}

__all__ = [
    "BioVFMBackbone",
    "BioVFMConfig",
    "BioVFMForImageClassification",
    "BioVFMForMaskedAutoencoding",
    "BioVFMForMaskedImageModeling",
    "BioVFMForSemanticSegmentation",
    "BioVFMImageProcessor",
    "BioVFMModel",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


register_when_loaded()
