"""Short names of encoders: the two papers' line-up, each with what it loads and how its authors read it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ShortName:
    """What a short name loads.

    Attributes:
        source: as `load.load_encoder` takes it.
        parameters: of the vision encoder, in millions.
        size: of the images it takes, pixels.
        licence: of the weights.
        paper: arXiv number.
        feature: what is read of it.
        reading: fields of `tokens.Reading` that are the authors' way of reading it.
    """

    source: str
    parameters: float
    size: int
    licence: str
    paper: str
    feature: str = "tokens"
    reading: Mapping[str, Any] = field(default_factory=dict)


_IMAGENET: dict[str, Any] = {"size": 224, "licence": "BSD-3-Clause", "feature": "map before the classifier"}
_SAM: dict[str, Any] = {
    "size": 1024, "licence": "Apache-2.0", "paper": "2304.02643", "feature": "map before the neck",
    "reading": {"before_neck": True},
}  # fmt: skip
_VGG: dict[str, Any] = {"feature": "second hidden layer of the classifier (4,096)", "reading": {"by_pooled": True}}


def _named(parameters: float, source: str, licence: str, paper: str, size: int = 224) -> ShortName:
    return ShortName(source, parameters, size, licence, paper)


# IN21K ViTs were pretrained on ImageNet-21k, then fine-tuned on ImageNet-1k: the first version of the weights, which
# the BioVFM code loads. Its ViT-L is in no timm of today; the Hub's is taken to be the same.
LINEUP = {
    "in21k-vit-b": _named(86, "timm:vit_base_patch16_224.orig_in21k_ft_in1k", "Apache-2.0", "2010.11929"),
    "in21k-vit-l": _named(304, "google/vit-large-patch16-224", "Apache-2.0", "2010.11929"),
    "rad-dino": _named(87, "microsoft/rad-dino", "MSRLA", "2401.10815", 518),
    "biomedclip": _named(
        86, "open_clip:hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", "MIT", "2303.00915"
    ),
    "biomedgpt": ShortName(
        "ofa:PanaceaAI/BiomedGPT-Base-Pretrained",
        74,
        384,
        "Apache-2.0 on the Hub, academic research only by its README",
        "2305.17100",
        "image tokens, no text prompt",
    ),
    "dinov2-s": _named(22, "facebook/dinov2-small", "Apache-2.0", "2304.07193"),
    "dinov2-b": _named(87, "facebook/dinov2-base", "Apache-2.0", "2304.07193"),
    "dinov2-l": _named(304, "facebook/dinov2-large", "Apache-2.0", "2304.07193"),
    "dinov2-g": _named(1136, "facebook/dinov2-giant", "Apache-2.0", "2304.07193"),
    "mae-b": _named(86, "facebook/vit-mae-base", "Apache-2.0", "2111.06377"),
    "mae-l": _named(303, "facebook/vit-mae-large", "Apache-2.0", "2111.06377"),
    "mae-h": _named(631, "facebook/vit-mae-huge", "Apache-2.0", "2111.06377"),
    "msn-s": _named(22, "facebook/vit-msn-small", "Apache-2.0", "2204.07141"),
    "msn-b": _named(86, "facebook/vit-msn-base", "Apache-2.0", "2204.07141"),
    "msn-l": _named(303, "facebook/vit-msn-large", "Apache-2.0", "2204.07141"),
    "clip-b": _named(86, "openai/clip-vit-base-patch16", "MIT", "2103.00020"),
    "clip-l": _named(303, "openai/clip-vit-large-patch14", "MIT", "2103.00020"),
    "openclip-h": _named(632, "open_clip:hf-hub:laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "MIT", "2212.07143"),
    "sam-b": ShortName("facebook/sam-vit-base", 90, **_SAM),
    "sam-l": ShortName("facebook/sam-vit-large", 308, **_SAM),
    "sam-h": ShortName("facebook/sam-vit-huge", 637, **_SAM),
    "densenet201": ShortName("timm:densenet201.tv_in1k", 18, paper="1608.06993", **_IMAGENET),
    "resnet152": ShortName("timm:resnet152.tv2_in1k", 58, paper="1512.03385", **_IMAGENET),
    "vgg19": ShortName("timm:vgg19.tv_in1k", 140, paper="1409.1556", **{**_IMAGENET, **_VGG}),
}
SHORT_NAMES = {name: entry.source for name, entry in LINEUP.items()}
