"""Registers BioVFM with transformers' Auto classes as soon as these are loaded.

Importing torch and transformers takes seconds and hundreds of megabytes, which neither `biovfm --help` nor a
dataset worker should pay. So importing a module of Auto classes also imports the matching module of this package,
which is registered once complete, whichever of the two came first.
"""

import importlib
from functools import partial
from types import ModuleType

from wrapt import register_post_import_hook


def register_when_loaded() -> None:
    """Register with every Auto class: now if it is loaded, else as soon as it is."""
    for kind, register in (
        ("configuration", _register_config),
        ("modeling", _register_models),
        ("image_processing", _register_image_processor),
    ):
        ours = f"{__package__}.{kind}_biovfm"
        register_post_import_hook(register, ours)
        register_post_import_hook(partial(_import, ours), f"transformers.models.auto.{kind}_auto")
    register_post_import_hook(_register_no_video_processor, "transformers.models.auto.video_processing_auto")


def _import(ours: str, _: ModuleType) -> None:
    importlib.import_module(ours)  # a module still being imported is skipped: the end of its import registers it


def _register_config(ours: ModuleType) -> None:
    from transformers import AutoConfig

    AutoConfig.register("biovfm", ours.BioVFMConfig, exist_ok=True)


def _register_models(ours: ModuleType) -> None:
    import transformers
    from transformers.models.auto import modeling_auto

    for auto, task, model in (
        (transformers.AutoModel, "", ours.BioVFMModel),
        (transformers.AutoBackbone, "BACKBONE", ours.BioVFMBackbone),
        (transformers.AutoModelForImageClassification, "IMAGE_CLASSIFICATION", ours.BioVFMForImageClassification),
        (transformers.AutoModelForMaskedImageModeling, "MASKED_IMAGE_MODELING", ours.BioVFMForMaskedImageModeling),
        (transformers.AutoModelForPreTraining, "PRETRAINING", ours.BioVFMForMaskedAutoencoding),
        (transformers.AutoModelForSemanticSegmentation, "SEMANTIC_SEGMENTATION", ours.BioVFMForSemanticSegmentation),
    ):
        auto.register(ours.BioVFMConfig, model, exist_ok=True)
        # pipelines and Trainer's cards look names up in these tables, and take an absent model for unsupported
        getattr(modeling_auto, f"MODEL_{task and f'FOR_{task}_'}MAPPING_NAMES")["biovfm"] = model.__name__


def _register_image_processor(ours: ModuleType) -> None:
    from transformers import AutoImageProcessor

    from .configuration_biovfm import BioVFMConfig

    processor = ours.BioVFMImageProcessor  # works with PIL with or without torchvision, so it serves both
    AutoImageProcessor.register(
        BioVFMConfig, image_processor_classes={"pil": processor, "torchvision": processor}, exist_ok=True
    )


def _register_no_video_processor(auto: ModuleType) -> None:
    """Register that there is no video processor: every pipeline would otherwise guess one and ask to run its code."""
    from .configuration_biovfm import BioVFMConfig

    auto.VIDEO_PROCESSOR_MAPPING.register(BioVFMConfig, {}, exist_ok=True)
