"""`BioVFMImageProcessor`: turns any biomedical image or image file into a BioVFM model's `pixel_values`.

One class serves transformers' "pil" and "torchvision" backends alike. It needs Pillow and numpy only, so a feature or
a published score does not depend on whether torchvision happens to be installed (bicubic resizing differs between the
two by 1-2 of 255 levels), and 16-bit input never passes through code that clips it at 255.
"""

import os
from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_base import BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import ImagesKwargs

from .errors import UserError, one_line
from .fitting import Mode, fit, labels_on_image
from .pixels import MAX_PIXELS, Pixels, decode, opened_image, to_uint8

IGNORED_LABEL = 255  # padding of a map, as `BioVFMConfig.semantic_loss_ignore_index`
MAX_ASPECT = 10.0  # claims of longer pixels are ignored
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
            middle. Both keep the aspect ratio, in millimetres if the file states its pixels' spacing.
        intensity: how input of more than 8 bits is mapped to 8: "auto" uses `window`, else the file's own window
            (DICOM), else `percentiles`; "percentile" ignores the file's window. 8-bit input is taken as it is.
        percentiles: (low, high) in [0, 100], mapped to black and white.
        window: (low, high) in the image's values (HU for CT), mapped to black and white, or None.
        slice_index: which slice of a volume, frame of a DICOM file or GIF, or page of a TIFF, from 0.
        axis: "axial", "coronal" or "sagittal", for volumes.
        time_index: which time point of a 4D series.
        do_reduce_labels: in segmentation maps, label 0 becomes 255, which is ignored; the others are reduced by one.
    """

    resize_mode: Literal["pad", "crop"] | None
    intensity: Literal["auto", "percentile"] | None
    percentiles: list[int | float] | tuple[int | float, ...] | None
    window: list[int | float] | tuple[int | float, ...] | None
    slice_index: int | None
    axis: Literal["axial", "coronal", "sagittal"] | None
    time_index: int | None
    do_reduce_labels: bool | None


class Prepared(NamedTuple):
    """A decoded image.

    Attributes:
        image: (H, W) or (H, W, 3), uint8; float32 if rescaling is off and 8 bits would round the values.
        aspect: the height of a pixel over its width.
        unit: whether the caller's range from black to white is 0 to 1, not 0 to 255.
    """

    image: np.ndarray
    aspect: float
    unit: bool


class BioVFMImageProcessor(PilBackend):
    """Decode, map to 8 bits, resize with the aspect ratio kept, rescale and normalise.

        processor = AutoImageProcessor.from_pretrained(DIR)
        processor("scan.dcm", return_tensors="pt").pixel_values                              # (1, 3, 224, 224) float32
        processor("ct.nii.gz", slice_index=80, window=[-160, 240], return_tensors="pt")      # HU
        processor([pil_image, uint16_array, "fundus.jpg"], return_tensors="pt")

    Input is one image or a list of them: a path (PNG, JPEG, TIFF, DICOM, NIfTI, .npy ...), a file's bytes, a file open
    in binary mode (read from its beginning, and left where it was), a `data:` URL, `{"bytes": ..., "path": ...}` as
    `datasets.Image(decode=False)` gives, a PIL image of any mode, or a numpy array or torch tensor of 1, 3 or 4 (alpha
    dropped) channels, first or last, also batched (4D). Grey becomes 3 equal channels. Numbers in memory mean the same
    in every dtype: within [0, 255] they are an 8-bit picture, floats within [0, 1] are black to white. With
    `do_rescale=False` floats in memory are taken as they are.
    Every argument may be given on construction, where `save_pretrained` keeps it, or per call. A damaged or
    unsuitable image raises a one-line `UserError`.

    transformers' pipelines open paths themselves and clip 16-bit images at 255 before the processor sees them: give
    them `processor.view(path)` instead.
    """

    _auto_class = "AutoImageProcessor"  # makes save_pretrained write the code that trust_remote_code runs
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
    do_reduce_labels = False

    def view(self, image: Any, **kwargs: Any) -> Image.Image:
        """Return one image as the model sees it, at its own size: an 8-bit RGB picture with square pixels."""
        settings = {name: getattr(self, name) for name in BioVFMImageProcessorKwargs.__annotations__}
        settings = {**settings, **kwargs, "do_rescale": True}
        ((shown, aspect, _),) = self._prepare_image_like_inputs([image], **settings)
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

    def preprocess(self, images: Any, segmentation_maps: Any = None, **kwargs: Any) -> BatchFeature:
        """The same as calling the processor.

        Args:
            images: one or a list, see the class.
            segmentation_maps: one map of class numbers (H, W) for each image, in any of the images' forms. `labels`
                (B, H, W) int64 then go with `pixel_values`, resized with them by nearest neighbour; 255 is padding.
            **kwargs: any argument of the class; `device` moves tensors there.

        Raises:
            UserError: no image, a bad one, or maps that do not fit the images.
            ValueError: an argument that does not exist or is not possible.
        """
        return super().preprocess(images, segmentation_maps, **kwargs)

    def _preprocess_image_like_inputs(  # type: ignore[override]
        self, images: Any, segmentation_maps: Any = None, **kwargs: Any
    ) -> BatchFeature:
        device = kwargs.pop("device", None)
        if device is not None:
            _check_device(device)
        prepared = self._prepare_image_like_inputs(images, **kwargs)
        batch = self._preprocess(prepared, **kwargs)
        if segmentation_maps is not None:
            maps = self._fitted_maps(_flat_maps(segmentation_maps, len(prepared)), prepared, **kwargs)
            labels = BatchFeature({"labels": maps}, tensor_type=kwargs.get("return_tensors"))
            batch["labels"] = labels["labels"]
        if device is not None:
            batch.to(device)
        return batch

    def _prepare_image_like_inputs(self, images: Any, *args: Any, **kwargs: Any) -> list[Prepared]:
        """Decode every image."""
        layout = kwargs.get("input_data_format")
        channels = None if layout is None else ChannelDimension(layout).value.removeprefix("channels_")
        where = {name: kwargs[name] for name in ("slice_index", "axis", "time_index")}
        how = {name: kwargs[name] for name in ("intensity", "percentiles", "window")}
        prepared = [_prepared(image, channels, where, how, rescaled=kwargs["do_rescale"]) for image in _flat(images)]
        if not prepared:
            raise UserError("no images: the list is empty; give at least one image")
        return prepared

    def _fitted_maps(self, maps: list[Any], prepared: list[Prepared], **kwargs: Any) -> Any:
        """Read the maps and transform them as their images: (B, H, W) int64, or a list without resizing."""
        if len(maps) != len(prepared):
            raise UserError(f"{len(maps)} segmentation maps for {len(prepared)} images; give one for each image")
        where = {name: kwargs[name] for name in ("slice_index", "axis", "time_index")}
        canvas = (kwargs["size"]["height"], kwargs["size"]["width"]) if kwargs["do_resize"] else None
        fitted = []
        for source, (image, aspect, _) in zip(maps, prepared, strict=True):
            labels = _label_map(source, where)
            if labels.shape != image.shape[:2]:
                raise UserError(
                    f"a segmentation map is {labels.shape} for an image of {image.shape[:2]}; check the pair"
                )
            if kwargs["do_reduce_labels"]:
                labels[labels == 0] = IGNORED_LABEL
                labels[labels != IGNORED_LABEL] -= 1
            if canvas is not None:
                nearest = PILImageResampling.NEAREST
                labels = fit(labels, canvas, kwargs["resize_mode"], nearest, aspect, fill=IGNORED_LABEL)
            fitted.append(labels.astype(np.int64))
        return fitted if canvas is None else np.stack(fitted)

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: list[tuple[int, int]] | None = None
    ) -> list[Any]:
        """Class maps at the images' own sizes, from a model's scores of the images that this processor made.

        Args:
            outputs: has `logits` (B, classes, h, w).
            target_sizes: (height, width) of each image before processing; the padding is cut away and the rest
                resized. None leaves the maps at the size of the scores.

        Returns:
            One int64 tensor (height, width) per image.
        """
        logits = outputs.logits
        if target_sizes is None:
            return list(logits.max(dim=1).indices)
        if len(target_sizes) != len(logits):
            raise ValueError(f"{len(target_sizes)} target_sizes for {len(logits)} images; give one for each image")
        sizes = [(int(height), int(width)) for height, width in target_sizes]
        # maps that were not resized have the image's own shape, which padding leaves alone
        mode: Mode = "crop" if self.do_resize and self.resize_mode == "crop" else "pad"
        return [labels_on_image(scores, size, mode) for scores, size in zip(logits, sizes, strict=True)]

    def _preprocess(  # type: ignore[override]  # noqa: PLR0913 - transformers calls it so
        self,
        images: list[Prepared],
        *,
        do_resize: bool,
        size: SizeDict,
        resize_mode: Mode,
        resample: int,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | tuple[float, ...],
        image_std: float | tuple[float, ...],
        return_tensors: str | None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Turn prepared images into float32 `pixel_values`, (B, 3, H, W) where they are resized."""
        # ((pixel * factor) - mean) / std as one multiplication and one addition per channel
        factor = rescale_factor if do_rescale else 1.0
        mean, std = (image_mean, image_std) if do_normalize else (0.0, 1.0)
        scale = np.broadcast_to(np.asarray(factor, np.float64) / np.asarray(std, np.float64), 3)
        shift = np.broadcast_to(-np.asarray(mean, np.float64) / np.asarray(std, np.float64), 3)
        canvas = (size["height"], size["width"])
        values = []
        for image, aspect, unit in images:
            fitted = fit(image, canvas, resize_mode, resample, aspect) if do_resize else image
            if unit and fitted.dtype == np.uint8:
                fitted = fitted / np.float32(255)
            values.append(_three_channels(fitted, scale.astype(np.float32), shift.astype(np.float32)))
        stacked = np.stack(values) if do_resize and values else values
        return BatchFeature({"pixel_values": stacked}, tensor_type=return_tensors)


def _three_channels(image: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Apply (3,) scale and shift to (H, W) or (H, W, 3) numbers; returns (3, H, W) float32."""
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


def _flat_maps(maps: Any, images: int) -> list[Any]:
    """List the segmentation maps of a nested list, or of a batch; one map may have an axis of channels."""
    if isinstance(maps, list | tuple):
        return [one for entry in maps for one in _flat_maps(entry, 1)]
    dimensions = getattr(maps, "ndim", None)
    batch = dimensions == 4 or (dimensions == 3 and (images > 1 or len(maps) == 1))
    return list(maps) if batch else [maps]


def _source(image: Any) -> tuple[Any, str | None]:
    """Input for `decode`, and its name: unpacks an open file, a `data:` URL, or a dict as `datasets` gives.

    Raises:
        UserError: a dict or a file that holds no image.
    """
    if isinstance(image, dict):
        content, path = image.get("bytes"), image.get("path")
        if content is None and path is None:
            raise UserError(f"a dict of {', '.join(map(repr, image)) or 'nothing'}: give 'bytes', or 'path'")
        return (path, None) if content is None else (content, path)
    if hasattr(image, "read") and not isinstance(image, Image.Image):
        return _file_content(image)
    if isinstance(image, str) and image.startswith("data:"):
        return _data_url_content(image), "the data URL"
    return (Path(image) if isinstance(image, os.PathLike) else image), None


def _file_content(file: Any) -> tuple[bytes, str | None]:
    """The bytes and the name of a file that the caller opened."""
    name = getattr(file, "name", None)
    name = name if isinstance(name, str) else None
    try:
        start = file.tell() if file.seekable() else None
        if start is not None:
            file.seek(0)  # rewind, as Pillow does: a file that was just written is at its end
        content = file.read()
        if start is not None:
            file.seek(start)
    except (OSError, ValueError) as error:
        raise UserError(f"{name or 'the file'}: cannot be read ({one_line(error)}); give an open file") from error
    if not isinstance(content, bytes | bytearray | memoryview):
        raise UserError(f"{name or 'the file'}: gives {type(content).__name__}, not bytes; open it in binary mode")
    return bytes(content), name


def _data_url_content(url: str) -> bytes:
    head, _, body = url.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError
        return b64decode(body, validate=True)
    except ValueError as error:
        raise UserError("a data URL whose content is not base64; give data:image/png;base64,...") from error


def _prepared(
    image: Any, channels: str | None, where: dict[str, Any], how: dict[str, Any], *, rescaled: bool
) -> Prepared:
    source, name = _source(image)
    pixels = decode(source, channels=channels, name=name, **where)
    aspect = pixels.spacing[0] / pixels.spacing[1]
    aspect = aspect if 1 / MAX_ASPECT < aspect < MAX_ASPECT else 1.0
    in_memory = _in_memory(source)
    if in_memory and not rescaled and how["window"] is None and how["intensity"] == "auto":
        if pixels.array.dtype.kind == "f":
            return Prepared(_scaled_already(pixels.array), aspect, unit=True)
        if pixels.window == (0.0, 1.0):  # booleans
            return Prepared(to_uint8(pixels, **how), aspect, unit=True)
    return Prepared(to_uint8(_as_numbers(pixels) if in_memory else pixels, **how), aspect, unit=False)


def _in_memory(source: Any) -> bool:
    """Whether the numbers come from the caller's memory, not from a file (an image that PIL opened is a file's)."""
    if isinstance(source, Image.Image):
        return source.format is None
    return isinstance(source, np.ndarray) or hasattr(source, "detach")


def _scaled_already(array: np.ndarray) -> np.ndarray:
    """Floats as they are: as 8-bit levels if 255 times them is whole, so that both resize alike, else as float32."""
    levels = np.rint(array * 255)
    if array.min() >= 0 and array.max() <= 1 and np.allclose(levels / 255, array, rtol=0.0, atol=1e-6):
        return levels.astype(np.uint8)
    return np.nan_to_num(array.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0)


def _as_numbers(pixels: Pixels) -> Pixels:
    """Treat numbers that fit an 8-bit picture as one, whatever their dtype."""
    array = pixels.array
    if pixels.window is not None or array.dtype == np.uint8 or not (array.min() >= 0 and array.max() <= 255):
        return pixels
    return replace(pixels, window=(0.0, 255.0))


def _label_map(source: Any, where: dict[str, Any]) -> np.ndarray:
    """Decode a map of class numbers: (H, W) int32."""
    source, name = _source(source)
    numbers = _palette_numbers(source)
    if numbers is None:
        numbers = decode(source, name=name, **where).array
    if numbers.ndim == 3 and (numbers == numbers[..., :1]).all():
        numbers = numbers[..., 0]
    labels = numbers.astype(np.int32)
    if numbers.ndim != 2 or not np.array_equal(labels, numbers):
        raise UserError(f"{name or 'a segmentation map'}: not a map of class numbers; give integers of shape (H, W)")
    return labels


def _palette_numbers(source: Any) -> np.ndarray | None:
    """The palette indices of a picture, which are its labels; None for other sources."""
    if isinstance(source, Image.Image):
        return np.asarray(source) if source.mode == "P" else None
    if not isinstance(source, str | Path | bytes):
        return None
    try:
        with BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
            picture = opened_image(file, str(source)[:200], MAX_PIXELS)
            return np.asarray(picture) if picture.mode == "P" else None
    except (UserError, OSError, ValueError, SyntaxError):
        return None  # another format or no image: `decode` reads it, or explains


def _check_device(device: Any) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"device {str(device)!r} cannot be used ({reason}); leave it out for the CPU") from error
