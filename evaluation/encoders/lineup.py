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
        width: of its tokens, or of the vector that stands for an image.
        gflops: of one image forward, as `torch.utils.flop_counter` counts matrix products (two for a multiply-add);
            None where it was not counted.
        size: of the images it takes, pixels.
        licence: of the weights.
        paper: arXiv number.
        feature: what is read of it.
        reading: fields of `tokens.Reading` that are the authors' way of reading it.
        access: what to do before the weights can be downloaded; empty where they are open.
    """

    source: str
    parameters: float
    width: int
    gflops: float | None
    size: int
    licence: str
    paper: str
    feature: str = "tokens"
    reading: Mapping[str, Any] = field(default_factory=dict)
    access: str = ""


_IMAGENET: dict[str, Any] = {"size": 224, "licence": "BSD-3-Clause", "feature": "map before the classifier"}
_SAM: dict[str, Any] = {
    "size": 1024, "licence": "Apache-2.0", "paper": "2304.02643", "feature": "map before the neck",
    "reading": {"before_neck": True},
}  # fmt: skip
_VGG: dict[str, Any] = {"feature": "second hidden layer of the classifier (4,096)", "reading": {"by_pooled": True}}
# (millions of parameters, width, GFLOP at 224 pixels) of the vision transformers, by size and patch
_SMALL_16, _SMALL_14 = (22, 384, 9.2), (22, 384, 12.3)
_BASE_16, _BASE_14 = (86, 768, 35.1), (87, 768, 46.3)
_LARGE_16, _LARGE_14 = (303, 1024, 123.1), (304, 1024, 162.0)
_HUGE_14, _GIANT_14 = (631, 1280, 334.6), (1136, 1536, 598.8)


def _named(form: tuple[float, int, float], source: str, licence: str, paper: str, size: int = 224) -> ShortName:
    return ShortName(source, *form, size, licence, paper)


# IN21K ViTs were pretrained on ImageNet-21k, then fine-tuned on ImageNet-1k: the first version of the weights, which
# the BioVFM code loads. Its ViT-L is in no timm of today; the Hub's is taken to be the same.
LINEUP = {
    "in21k-vit-b": _named(_BASE_16, "timm:vit_base_patch16_224.orig_in21k_ft_in1k", "Apache-2.0", "2010.11929"),
    "in21k-vit-l": _named((304, 1024, 123.1), "google/vit-large-patch16-224", "Apache-2.0", "2010.11929"),
    "rad-dino": _named((87, 768, 303.2), "microsoft/rad-dino", "MSRLA", "2401.10815", 518),
    "biomedclip": _named(
        _BASE_16, "open_clip:hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", "MIT", "2303.00915"
    ),
    "biomedgpt": ShortName(
        *("ofa:PanaceaAI/BiomedGPT-Base-Pretrained", 74, 768, None, 384),
        "Apache-2.0 on the Hub, academic research only by its README",
        "2305.17100",
        "image tokens, no text prompt",
    ),
    "dinov2-s": _named(_SMALL_14, "facebook/dinov2-small", "Apache-2.0", "2304.07193"),
    "dinov2-b": _named(_BASE_14, "facebook/dinov2-base", "Apache-2.0", "2304.07193"),
    "dinov2-l": _named(_LARGE_14, "facebook/dinov2-large", "Apache-2.0", "2304.07193"),
    "dinov2-g": _named(_GIANT_14, "facebook/dinov2-giant", "Apache-2.0", "2304.07193"),
    "mae-b": _named(_BASE_16, "facebook/vit-mae-base", "Apache-2.0", "2111.06377"),
    "mae-l": _named(_LARGE_16, "facebook/vit-mae-large", "Apache-2.0", "2111.06377"),
    "mae-h": _named(_HUGE_14, "facebook/vit-mae-huge", "Apache-2.0", "2111.06377"),
    "msn-s": _named(_SMALL_16, "facebook/vit-msn-small", "Apache-2.0", "2204.07141"),
    "msn-b": _named(_BASE_16, "facebook/vit-msn-base", "Apache-2.0", "2204.07141"),
    "msn-l": _named(_LARGE_16, "facebook/vit-msn-large", "Apache-2.0", "2204.07141"),
    "clip-b": _named(_BASE_16, "openai/clip-vit-base-patch16", "MIT", "2103.00020"),
    "clip-l": _named((303, 1024, 162.0), "openai/clip-vit-large-patch14", "MIT", "2103.00020"),
    "openclip-h": _named(_HUGE_14, "open_clip:hf-hub:laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "MIT", "2212.07143"),
    "sam-b": ShortName("facebook/sam-vit-base", 90, 768, 972.1, **_SAM),
    "sam-l": ShortName("facebook/sam-vit-large", 308, 1024, 2985.7, **_SAM),
    "sam-h": ShortName("facebook/sam-vit-huge", 637, 1280, 5961.1, **_SAM),
    "densenet201": ShortName("timm:densenet201.tv_in1k", 18, 1920, 8.6, paper="1608.06993", **_IMAGENET),
    "resnet152": ShortName("timm:resnet152.tv2_in1k", 58, 2048, 23.0, paper="1512.03385", **_IMAGENET),
    "vgg19": ShortName("timm:vgg19.tv_in1k", 140, 4096, 39.0, paper="1409.1556", **{**_IMAGENET, **_VGG}),
}
SHORT_NAMES = {name: entry.source for name, entry in LINEUP.items()}
