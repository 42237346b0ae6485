"""`BioVFMImageProcessor`: any biomedical image, or its file, to the `pixel_values` a BioVFM model reads.

One class serves transformers' "pil" and "torchvision" backends alike. It needs Pillow and numpy only, so a feature or
a published score does not depend on whether torchvision happens to be installed (bicubic resizing differs between the
two by 1-2 of 255 levels), and 16-bit input never passes through code that clips it at 255.
"""

from typing import Any, Literal

import numpy as np
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import ImagesKwargs

from .pixels import decode, to_uint8

MAX_ASPECT = 10.0  # a file that claims longer pixels is not believed
_UNUSED = {
    "do_center_crop": "resize_mode='crop'",
    "do_pad": "resize_mode='pad'",
    "crop_size": "size",
    "pad_size": "size",
}


class BioVFMImageProcessorKwargs(ImagesKwargs, total=False):
    """Arguments of `BioVFMImageProcessor` beyond transformers' own.

    Attributes:
        resize_mode: "pad" fits the whole image into `size` and centres it on black; "crop" fills `size` and cuts the
            middle. Both keep the aspect ratio, in millimetres where a file tells its pixels' spacing.
        intensity: how input of more than 8 bits becomes 8: "auto" takes `window`, else the file's own window (DICOM),
            else `percentiles`; "percentile" passes over the file's window. 8-bit input is taken as it is.
        percentiles: (low, high) in [0, 100], shown black and white.
        window: (low, high) in the image's values (HU for CT), shown black and white, or None.
        slice_index: which slice of a volume, frame of a DICOM file or GIF, or page of a TIFF, from 0.
        axis: "axial", "coronal" or "sagittal", for volumes.
        time_index: which time point of a 4D series.
    """

    resize_mode: Literal["pad", "crop"] | None
    intensity: Literal["auto", "percentile"] | None
    percentiles: list[int | float] | tuple[int | float, ...] | None
    window: list[int | float] | tuple[int | float, ...] | None
    slice_index: int | None
    axis: Literal["axial", "coronal", "sagittal"] | None
    time_index: int | None


class BioVFMImageProcessor(PilBackend):
    """Decode, map to 8 bits, resize with the aspect ratio kept, rescale and normalise.

        processor = AutoImageProcessor.from_pretrained(DIR)
        processor("scan.dcm", return_tensors="pt").pixel_values                              # (1, 3, 224, 224) float32
        processor("ct.nii.gz", slice_index=80, window=[-160, 240], return_tensors="pt")      # HU
        processor([pil_image, uint16_array, "fundus.jpg"], return_tensors="pt")

    Input is one image or a list of them: a path (PNG, JPEG, TIFF, DICOM, NIfTI, .npy ...), a file's bytes, a PIL image
    of any mode, or a numpy array or torch tensor of 1, 3 or 4 (alpha dropped) channels, first or last, also batched
    (4D). Grey becomes 3 equal channels. Every argument may be given on construction, where `save_pretrained` keeps
    it, or per call. A damaged or unsuitable image raises a one-line `UserError`.

    transformers' pipelines open a path themselves and clip 16-bit images at 255 before the processor sees them: hand
    them `processor.view(path)` instead.
    """

    _auto_class = "AutoImageProcessor"  # save_pretrained then ships the code that trust_remote_code runs
    valid_kwargs = BioVFMImageProcessorKwargs
    model_input_names = ["pixel_values"]  # noqa: RUF012 - transformers' own convention

    do_resize = True
    size = {"height": 224, "width": 224}  # noqa: RUF012
    resize_mode = "pad"
    resample = PILImageResampling.BICUBIC
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    do_convert_rgb = True
    intensity = "auto"
    percentiles = (0.5, 99.5)
    window = None
    slice_index = None
    axis = "axial"
    time_index = None

    def view(self, image: Any, **kwargs: Any) -> Image.Image:
        """Return what the model is shown, at its own size: an 8-bit RGB picture, of square pixels, of one image."""
        settings = {name: getattr(self, name) for name in BioVFMImageProcessorKwargs.__annotations__}
        ((shown, aspect),) = self._prepare_image_like_inputs([image], **{**settings, **kwargs})
        rows, columns = shown.shape[0] * max(aspect, 1.0), shown.shape[1] * max(1 / aspect, 1.0)
        return Image.fromarray(shown).convert("RGB").resize((round(columns), round(rows)), self.resample)

    def _standardize_kwargs(self, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        kwargs = super()._standardize_kwargs(**kwargs)
        for name in ("percentiles", "window"):  # JSON brings lists back
            if kwargs.get(name) is not None:
                kwargs[name] = tuple(kwargs[name])
        return kwargs

    def _validate_preprocess_kwargs(  # type: ignore[override]
        self, *, do_resize: bool, size: SizeDict, resize_mode: str, **kwargs: Any
    ) -> None:
        for name, remedy in _UNUSED.items():
            if kwargs.get(name):
                raise ValueError(f"{name} is not an option of {type(self).__name__}; use {remedy}")
        if kwargs.get("do_convert_rgb") is False:
            raise ValueError("do_convert_rgb=False is not an option: the model reads three channels")
        if do_resize and not (size.height and size.width):
            raise ValueError(f"size {dict(size)}: give one number, or height and width")
        if resize_mode not in ("pad", "crop"):
            raise ValueError(f"resize_mode {resize_mode!r}: not known; take 'pad' or 'crop'")
        super()._validate_preprocess_kwargs(do_resize=do_resize, size=size, **kwargs)

    def _prepare_image_like_inputs(self, images: Any, *args: Any, **kwargs: Any) -> list[tuple[np.ndarray, float]]:
        """Decode every image to (H, W) or (H, W, 3) uint8 and the ratio of a pixel's height to its width."""
        layout = kwargs.get("input_data_format")
        channels = None if layout is None else ChannelDimension(layout).value.removeprefix("channels_")
        where = {name: kwargs[name] for name in ("slice_index", "axis", "time_index")}
        how = {name: kwargs[name] for name in ("intensity", "percentiles", "window")}
        prepared = []
        for image in _flat(images):
            pixels = decode(image, channels=channels, **where)
            aspect = pixels.spacing[0] / pixels.spacing[1]
            prepared.append((to_uint8(pixels, **how), aspect if 1 / MAX_ASPECT < aspect < MAX_ASPECT else 1.0))
        return prepared

    def _preprocess(  # type: ignore[override]
        self,
        images: list[tuple[np.ndarray, float]],
        *,
        do_resize: bool,
        size: SizeDict,
        resize_mode: str,
        resample: int,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | tuple[float, ...],
        image_std: float | tuple[float, ...],
        return_tensors: str | None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Turn uint8 images into float32 `pixel_values`, (B, 3, H, W) where they are resized."""
        # ((pixel * factor) - mean) / std as one multiplication and one addition per channel
        factor = rescale_factor if do_rescale else 1.0
        mean, std = (image_mean, image_std) if do_normalize else (0.0, 1.0)
        scale = np.broadcast_to(np.asarray(factor, np.float64) / np.asarray(std, np.float64), 3)
        shift = np.broadcast_to(-np.asarray(mean, np.float64) / np.asarray(std, np.float64), 3)
        if do_resize:
            fit = pad_to if resize_mode == "pad" else crop_to
            height, width = size["height"], size["width"]
            fitted = [fit(image, height, width, resample, aspect) for image, aspect in images]
        else:
            fitted = [image for image, _ in images]
        values = [_three_channels(image, scale.astype(np.float32), shift.astype(np.float32)) for image in fitted]
        stacked = np.stack(values) if do_resize and values else values
        return BatchFeature({"pixel_values": stacked}, tensor_type=return_tensors)


def pad_to(
    image: np.ndarray, height: int, width: int, resample: int = PILImageResampling.BICUBIC, aspect: float = 1.0
) -> np.ndarray:
    """Scale (H, W[, 3]) uint8 to fit into height x width, aspect ratio kept, and centre it on black.

    `aspect` is the height of a pixel over its width; the result has square pixels.
    """
    ratio = min(height / (image.shape[0] * aspect), width / image.shape[1])
    rows = min(height, max(1, round(image.shape[0] * aspect * ratio)))
    columns = min(width, max(1, round(image.shape[1] * ratio)))
    if (rows, columns) != image.shape[:2]:
        image = np.asarray(Image.fromarray(image).resize((columns, rows), resample))
    if (rows, columns) == (height, width):
        return image
    top, left = (height - rows) // 2, (width - columns) // 2
    canvas = np.zeros((height, width, *image.shape[2:]), np.uint8)
    canvas[top : top + rows, left : left + columns] = image
    return canvas


def crop_to(
    image: np.ndarray, height: int, width: int, resample: int = PILImageResampling.BICUBIC, aspect: float = 1.0
) -> np.ndarray:
    """Cut the largest centred part of (H, W[, 3]) uint8 with the shape of height x width, and scale it to that.

    `aspect` is the height of a pixel over its width; the result has square pixels.
    """
    ratio = max(height / (image.shape[0] * aspect), width / image.shape[1])
    # in the image's pixels, fractions included; rounding must not reach past its edge
    high, wide = min(height / ratio / aspect, image.shape[0]), min(width / ratio, image.shape[1])
    top, left = (image.shape[0] - high) / 2, (image.shape[1] - wide) / 2
    picture = Image.fromarray(image)
    return np.asarray(picture.resize((width, height), resample, box=(left, top, left + wide, top + high)))


def _three_channels(image: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Apply (3,) scale and shift to (H, W) or (H, W, 3) uint8; returns (3, H, W) float32."""
    values = np.empty((3, *image.shape[:2]), np.float32)
    for channel in range(3):
        plane = image if image.ndim == 2 else image[..., channel]
        np.multiply(plane, scale[channel], out=values[channel])
        values[channel] += shift[channel]
    return values


def _flat(images: Any) -> list[Any]:
    """List the images of a nested list, or of a 4D batch."""
    if isinstance(images, list | tuple):
        return [image for entry in images for image in _flat(entry)]
    return list(images) if getattr(images, "ndim", None) == 4 else [images]
