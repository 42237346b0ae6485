"""BioVFM vision transformers for the Hugging Face stack.

`import biovfm_hf` is enough for `AutoModel`, `AutoImageProcessor`, `AutoBackbone` and the pipelines to know the
`biovfm` model type. It is also cheap: torch and transformers load when a model is first used.

Each command is a function here: `biovfm_hf.build`, `pretrain`, `embed`, `search`, `probe`, `score`, `scaling`, `card`,
`report`, `push`, `convert`. `biovfm_hf.load_encoder` loads any encoder that these commands know.
"""

import importlib
from typing import Any

from .front_door import FUNCTIONS, open_door
from .registration import register_when_loaded

CLASSES = {
    "BioVFMBackbone": "modeling_biovfm",
    "BioVFMConfig": "configuration_biovfm",
    "BioVFMForImageClassification": "modeling_biovfm",
    "BioVFMForMaskedAutoencoding": "modeling_biovfm",
    "BioVFMForMaskedImageModeling": "modeling_biovfm",
    "BioVFMForSemanticSegmentation": "modeling_biovfm",
    "BioVFMImageProcessor": "image_processing_biovfm",
    "BioVFMModel": "modeling_biovfm",
}

__all__ = sorted(CLASSES | FUNCTIONS)  # the types of all are in __init__.pyi


def __getattr__(name: str) -> Any:
    if name in CLASSES:
        value = getattr(importlib.import_module(f".{CLASSES[name]}", __name__), name)
    elif name in FUNCTIONS:
        value = open_door(name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


register_when_loaded()
