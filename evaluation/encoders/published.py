"""Encoders that their authors publish as a file of torch tensors: the timm network for each, and how it is read.

To add one, write its entry of `TORCH_FILES`. Then `KEY:FILE` reads a local file, and `KEY:OWNER/NAME` a repository on
the Hub.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from biovfm_hf.conversion.place import weight_files
from biovfm_hf.errors import UserError
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


def local_file(kind: str, source: str) -> Path | None:
    """The file of a model of `TORCH_FILES` on this machine; None if `source` is a repository.

    Raises:
        UserError: there is no such file.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        return file_in(path, kind, source)
    if source.count("/") != 1 or path.suffix in (".pt", ".pth", ".bin"):
        raise UserError(f"model {kind}:{source}: no such file; give the authors' file, or a repository on the Hub")
    return None


def file_in(folder: Path, kind: str, source: str) -> Path:
    """The file of a model of `TORCH_FILES` in a folder.

    Raises:
        UserError: there is none.
    """
    pattern = TORCH_FILES[kind].file
    if file := next(iter(sorted(folder.rglob(pattern))), None):
        return file
    raise UserError(f"model {kind}:{source} holds no {pattern}")


def check_torch_file(source: str) -> None:
    """Refuse a model of `TORCH_FILES`, by its prefix and a file or repository, whose file is none of weights.

    Raises:
        UserError: it names the file.
    """
    kind, _, place = source.partition(":")
    if file := local_file(kind, place):
        weight_files(file)
