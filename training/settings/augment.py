"""Settings of the augmentation and their presets; `data/augment.py` applies them."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from biovfm_hf.errors import UserError
from biovfm_hf.imagenet import IMAGENET_MEAN, IMAGENET_STD
from biovfm_hf.ranges import Range
from biovfm_hf.sizes import MOST_PIXELS

from .typed import Positive, Share, Side


@dataclass(frozen=True)
class CropSizes:
    """Sides in pixels of a step's crops, in a run that mixes several; named as in `AugmentConfig`.

    Attributes:
        global_size: side of the global crops.
        local_size: side of the local crops.
        anchor_size: side of the Gram teacher's crops, if it has its own.
        weight: how often it is drawn, relative to the other sizes.
    """

    global_size: Side = 224
    local_size: Side = 96
    anchor_size: Annotated[int | None, Range(1, MOST_PIXELS)] = None
    weight: Annotated[float, Range(1e-9)] = 1.0


@dataclass(frozen=True)
class AugmentConfig:
    """Every parameter of the augmentation. Probabilities are in [0, 1]; triples are (global 1, global 2, local).

    Attributes:
        preset: one of `PRESETS`; a file that names it starts from it instead of from the objective's own defaults.
            Fields that are given explicitly win.
        global_count: global crops per image (2 for DINOv2, 1 for MAE).
        global_size: their side in pixels.
        global_scale: their area, as a share of the image's, drawn from this range.
        anchor_size: side of further copies of the global crops for a Gram teacher, cut and flipped alike but otherwise
            untouched; null makes none.
        local_count: local crops per image.
        local_size: their side in pixels.
        local_scale: their area range.
        mixture: sizes that replace `global_size`, `local_size` and `anchor_size` in the steps: one is drawn for each
            step, the same for all processes. `global_size` then only applies to the exported model and the watch.
        aspect: range of width / height of a crop before it is resized to a square, drawn log-uniformly.
        horizontal_flip: probability of a left-right flip.
        vertical_flip: probability of an upside-down flip.
        flip_by_modality: modality -> [horizontal, vertical], if different (needs a `modality` column).
        jitter_p: probability of the intensity and colour jitter as a whole.
        brightness: factor from [1 - x, 1 + x].
        contrast: the same, around the mean grey level.
        saturation: the same, towards grey.
        hue: shift from [-x, x] of the colour circle; at most 0.5.
        gamma: exponent range of an intensity curve, log-uniform; [1, 1] is off.
        grayscale_p: probability of dropping the colours.
        blur_p: probability of the Gaussian blur, per kind of view.
        blur_sigma: its standard deviation in pixels, uniform.
        blur_kernel: its width in pixels, odd.
        solarize_p: probability of inverting the bright half, per kind of view.
        solarize_threshold: grey level from which a pixel is inverted.
        mean: per-channel mean (of 0..1 values) that is subtracted from the model's input.
        std: per-channel standard deviation by which it is divided.
        on_device: do jitter, greying, blur and solarising for whole batches on the training device
            (`augment_batch.py`), which frees the loader's cores; crops and flips stay in the loader.
    """

    preset: str = "dinov2"
    global_count: Positive = 2
    global_size: Side = 224
    global_scale: Annotated[tuple[float, float], Range(1e-6, 1, ordered=True)] = (0.32, 1.0)
    anchor_size: Annotated[int | None, Range(1, MOST_PIXELS)] = None
    local_count: Annotated[int, Range(0, 1000)] = 8
    local_size: Side = 96
    local_scale: Annotated[tuple[float, float], Range(1e-6, 1, ordered=True)] = (0.05, 0.32)
    mixture: tuple[CropSizes, ...] = ()
    aspect: Annotated[tuple[float, float], Range(1e-6, ordered=True)] = (3 / 4, 4 / 3)
    horizontal_flip: Share = 0.5
    vertical_flip: Share = 0.0
    flip_by_modality: Annotated[dict[str, tuple[float, float]], Range(0, 1)] = field(default_factory=dict)
    jitter_p: Share = 0.8
    brightness: Annotated[float, Range(0)] = 0.4
    contrast: Annotated[float, Range(0)] = 0.4
    saturation: Annotated[float, Range(0)] = 0.2
    hue: Annotated[float, Range(0, 0.5)] = 0.1
    gamma: Annotated[tuple[float, float], Range(1e-6, ordered=True)] = (1.0, 1.0)
    grayscale_p: Share = 0.2
    blur_p: Annotated[tuple[float, float, float], Range(0, 1)] = (0.0, 0.9, 0.5)
    blur_sigma: Annotated[tuple[float, float], Range(1e-6, ordered=True)] = (0.1, 2.0)
    blur_kernel: Annotated[int, Range(1, 999)] = 9
    solarize_p: Annotated[tuple[float, float, float], Range(0, 1)] = (0.0, 0.2, 0.0)
    solarize_threshold: Annotated[int, Range(0, 256)] = 128
    mean: Annotated[tuple[float, float, float], Range()] = IMAGENET_MEAN
    std: Annotated[tuple[float, float, float], Range(1e-9)] = IMAGENET_STD
    on_device: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible crops and blurs.

        Raises:
            UserError: names the key, its value and what it must be.
        """
        for key, sizes in self.named_sizes.items():
            if self.local_count and sizes.local_size > sizes.global_size:
                raise UserError(
                    f"{key}.local_size {sizes.local_size} is larger than {key}.global_size {sizes.global_size}; "
                    "local crops must be the smaller ones"
                )
        if self.blur_kernel % 2 == 0:
            raise UserError(f"augment.blur_kernel {self.blur_kernel} is not odd and positive")
        sides = [side for one in self.sizes for side in (one.global_size, self.local_count and one.local_size) if side]
        if self.on_device and self.blur_kernel >= 2 * min(sides):
            raise UserError(
                f"augment.blur_kernel {self.blur_kernel} is too wide for augment.on_device, which mirrors crops of "
                f"{min(sides)} pixels at their edges; give at most {2 * min(sides) - 1}"
            )

    @property
    def sizes(self) -> tuple[CropSizes, ...]:
        """The sizes of crops that steps may have."""
        return self.mixture or (CropSizes(self.global_size, self.local_size, self.anchor_size),)

    @property
    def named_sizes(self) -> dict[str, CropSizes]:
        """`sizes` by their section of the configuration."""
        named = {f"augment.mixture[{number}]": sizes for number, sizes in enumerate(self.mixture)}
        return named or {"augment": self.sizes[0]}

    def with_sizes(self, sizes: CropSizes) -> "AugmentConfig":
        """The augmentation with crops of only these sizes."""
        fields = {name: getattr(sizes, name) for name in ("global_size", "local_size", "anchor_size")}
        return replace(self, mixture=(), **fields)


# Changes of the defaults above by each preset.
# "dinov2": blur as it was trained. DINOv2's GaussianBlur(p) blurs with probability 1 - p, so its nominal 1.0/0.1/0.5
# was 0.0/0.9/0.5 when the released weights were made (facebookresearch/dinov3 issue 286 has the maintainers' word).
PRESETS: dict[str, dict[str, Any]] = {
    "dinov2": {},
    "dinov2-nominal": {"blur_p": (1.0, 0.1, 0.5)},
    # Grey levels and stains carry meaning: no colour shifts, no inversion; intensity curves vary as scanners do.
    # Images without an up or down may be turned over.
    "medical": {
        "saturation": 0.0,
        "hue": 0.0,
        "grayscale_p": 0.0,
        "gamma": (0.7, 1.4),
        "solarize_p": (0.0, 0.0, 0.0),
        "flip_by_modality": {name: (0.5, 0.5) for name in ("Microscopy", "Dermoscopy", "Endoscopy", "Fundus", "OCTA")},
    },
    "mae": {
        "global_count": 1,
        "global_scale": (0.2, 1.0),
        "local_count": 0,
        "jitter_p": 0.0,
        "grayscale_p": 0.0,
        "blur_p": (0.0, 0.0, 0.0),
        "solarize_p": (0.0, 0.0, 0.0),
    },
}


def preset(name: str) -> AugmentConfig:
    """The augmentation of a preset, one of `PRESETS`."""
    return AugmentConfig(**{"preset": name, **PRESETS[name]})


def check_augment(config: AugmentConfig, patch_size: int) -> None:
    """Refuse crops that cannot be cut into patches of `patch_size` pixels.

    Raises:
        UserError: names the key, its value and what it must be.
    """
    named = {"augment": CropSizes(config.global_size, config.local_size, config.anchor_size), **config.named_sizes}
    for key, sizes in named.items():
        sides = {"global_size": True, "local_size": config.local_count, "anchor_size": sizes.anchor_size}
        for name in (name for name, there in sides.items() if there):
            size = getattr(sizes, name)
            if size < patch_size or size % patch_size:
                near = max(round(size / patch_size), 1) * patch_size
                raise UserError(f"{key}.{name} {size} is not a multiple of the patch size {patch_size}; use {near}")
