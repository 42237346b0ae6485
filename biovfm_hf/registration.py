"""Tells transformers' Auto classes about BioVFM, once they are loaded and not before.

Importing torch and transformers takes seconds and hundreds of megabytes, which neither `biovfm --help` nor a
dataset worker should pay. So whoever loads a module of Auto classes also loads the module of ours that belongs to it,
and a module of ours is registered when it is complete, whichever of the two came first.
"""

import importlib
from functools import partial
from types import ModuleType

from wrapt import register_post_import_hook


def register_when_loaded() -> None:
    """Register with every Auto class: now where it is loaded already, else as soon as it is."""
    for kind, register in (
        ("configuration", _register_config),
        ("modeling", _register_models),
        ("image_processing", _register_image_processor),
    ):
        ours = f"{__package__}.{kind}_biovfm"
        register_post_import_hook(register, ours)
        register_post_import_hook(partial(_import, ours), f"transformers.models.auto.{kind}_auto")
    register_post_import_hook(_register_no_video_processor, "transformers.models.auto.video_processing_auto")


def _import(ours: str, theirs: ModuleType) -> None:
    importlib.import_module(ours)  # one that is being imported is left alone: its end registers it


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
        # pipelines and Trainer's cards ask these tables of names, and take a model that is not there for unsupported
        getattr(modeling_auto, f"MODEL_{task and f'FOR_{task}_'}MAPPING_NAMES")["biovfm"] = model.__name__


def _register_image_processor(ours: ModuleType) -> None:
    from transformers import AutoImageProcessor

    from .configuration_biovfm import BioVFMConfig

    processor = ours.BioVFMImageProcessor  # works with PIL whether torchvision is there or not, so it serves both
    AutoImageProcessor.register(
        BioVFMConfig, image_processor_classes={"pil": processor, "torchvision": processor}, exist_ok=True
    )


def _register_no_video_processor(auto: ModuleType) -> None:
    """Every pipeline asks for a video processor, whose remote code it would otherwise guess and ask leave to run."""
    from .configuration_biovfm import BioVFMConfig

    auto.VIDEO_PROCESSOR_MAPPING.register(BioVFMConfig, {}, exist_ok=True)
