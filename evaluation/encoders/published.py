"""Encoders that their authors publish as a file of torch tensors: the timm network for each, and how it is read.

To add one, write its entry of `TORCH_FILES`. Then `KEY:FILE` reads a local file, and `KEY:OWNER/NAME` a repository on
the Hub.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from biovfm_hf.imagenet import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class TorchFile:
    """A model that is published as a file.

    Attributes:
        network: timm's name of the network; `family` is the timm module that can rename tensors of other projects.
        file: pattern of the file's path in a repository on the Hub.
        size, mean, std: input size (square, bicubic), and normalisation of values in 0..1.
        prefix: prefix of the image encoder's tensors; `family_prefix` is the prefix that the family expects.
        renamed: {part of a name that the family does not know: timm's name}.
        projection: name of the tensor (D, P) that projects the pooled vector to the model's own; empty if there is
            none.
        buffers: {the file's name: timm's name} of tensors that timm computes itself with other rounding.
        notes: what a reader of its results must know.
        binding: licences (`biovfm_hf.cards.provenance.WEIGHT_LICENCES`) that bind what is made from the weights.
    """

    network: str
    family: str
    file: str
    size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    prefix: str = ""
    family_prefix: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    projection: str = ""
    buffers: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    binding: tuple[str, ...] = ()


# MedDINOv3 takes HU from -1000 to 1000, less 65.108, over 178.017: here of an image that shows this window in 0..1.
_HU_MEAN, _HU_STD = (65.108 + 1000) / 2000, 178.017 / 2000
TORCH_FILES = {
    "meddinov3": TorchFile(
        "vit_base_patch16_dinov3", "eva", "model.pth", 896, (_HU_MEAN,) * 3, (_HU_STD,) * 3,
        buffers={"rope_embed.periods": "rope.periods"},
        notes=("MedDINOv3 takes CT slices, shown by the window of -1000 to 1000 HU",),
        binding=("dinov3-license",),
    ),
    "medimageinsight": TorchFile(
        "davit_huge_fl", "davit", "*vision_model/*.pt", 480,
        prefix="image_encoder.", family_prefix="vision_tower.", renamed={"norms.": "head.norm."},
        projection="image_projection",
        notes=("licence of MedImageInsight's weights: MIT by the tag of a copy on the Hub, Microsoft's own terms in "
               "Azure's catalogue",),
    ),
}  # fmt: skip
