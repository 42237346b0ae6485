"""A masked autoencoder's reconstructions of hidden patches, drawn for a report from a run's own weights."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from biovfm_hf.errors import UserError, one_line
from biovfm_hf.pixels import decode, to_uint8

from ..inputs.dataset import DatasetSummary, sample_images
from ..inputs.run import RunSummary
from .material import Material
from .pictures import Picture

SHOWN = 6
SIDE = 192
GAP = 8
GREY = 127


def reconstructions(run: RunSummary, material: Material) -> Picture | None:
    """A sheet for a run with a decoder: images of the given datasets, their visible patches, and the reconstructions.

    Private sources are left out unless the report may show them. None if there is no decoder or no image; the store's
    `left_out` names a decoder that cannot be loaded.
    """
    if run.decoder is None:
        return None
    images = [image for dataset in material.datasets for image in _drawn(dataset, material)][:SHOWN]
    if not images:
        return None
    try:
        columns = [_column(*views) for views in paint(run.decoder, images, _share(run.config), material.seed)]
    except (UserError, OSError, ValueError, RuntimeError) as error:
        material.store.left_out.append(f"reconstructions of {run.name}: {one_line(error)}")
        return None
    caption = (
        "Above, crops of images of the dataset; in the middle, the patches of them that the encoder saw; below, what "
        "the decoder painted for the others. Mean and contrast of a painted patch are the image's own where the model "
        "predicts patches without them."
    )
    alt = f"Reconstructions by the masked autoencoder of the run {run.name}: {len(columns)} images"
    return material.store.add(_sheet(columns), alt, 1400, caption=caption)


def _drawn(dataset: DatasetSummary, material: Material) -> list[bytes]:
    private = () if material.private_images else dataset.provenance.private_sources
    samples = sample_images(dataset, per_modality=2, seed=material.seed, without=private).values()
    pairs = [[raw for _, raw in images] for images in samples]
    return [raw for place in range(2) for raws in pairs for raw in raws[place : place + 1]]


def _share(config: dict[str, Any]) -> float:
    """The area of the crops that the run was trained on, as a share of an image's: the middle of its range."""
    augment = config.get("augment")
    scale = augment.get("global_scale") if isinstance(augment, dict) else None
    if isinstance(scale, list) and len(scale) == 2 and all(isinstance(end, int | float) for end in scale):
        return min(max((scale[0] * scale[1]) ** 0.5, 1e-3), 1.0)
    return 1.0


def paint(
    folder: Path, images: list[bytes], share: float = 1.0, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Image, visible patches on grey, and reconstruction, each (S, S, 3) uint8, of the middle of every image.

    Args:
        folder: of a `BioVFMForMaskedAutoencoding` and its image processor.
        images: encoded pictures.
        share: of an image's area that is shown.
        seed: of the hidden patches.

    Raises:
        UserError, OSError, ValueError, RuntimeError: something cannot be read.
    """
    import torch  # imported here, since only reports of masked autoencoders need it

    from biovfm_hf import BioVFMForMaskedAutoencoding, BioVFMImageProcessor

    model = BioVFMForMaskedAutoencoding.from_pretrained(folder, use_safetensors=True).eval()
    processor = BioVFMImageProcessor.from_pretrained(folder)
    pixels = processor([_middle(raw, share) for raw in images], return_tensors="pt").pixel_values
    rows, columns = (side // model.config.patch_size for side in pixels.shape[-2:])
    noise = torch.rand(len(pixels), rows * columns, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        output = model(pixels, noise=noise)
        patches = model.patchify(pixels)
        painted = output.logits
        if model.config.norm_pix_loss:
            variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
            painted = painted * (variance + 1e-6) ** 0.5 + mean
        hidden = output.mask[:, :, None]
        painted = model.unpatchify(patches * (1 - hidden) + painted * hidden, (rows, columns))
        hidden = model.unpatchify(hidden.expand_as(patches), (rows, columns)).permute(0, 2, 3, 1).numpy() > 0.5
    image, whole = (_shown(values, processor) for values in (pixels, painted))
    seen = np.where(hidden, np.uint8(GREY), image)
    return list(zip(image, seen, whole, strict=True))


def _middle(raw: bytes, share: float) -> np.ndarray:
    """The middle of a picture, of this share of its area: 8-bit."""
    picture = to_uint8(decode(raw, name="an image of the dataset"))
    height, width = (max(1, round(side * share**0.5)) for side in picture.shape[:2])
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]


def _shown(pixels: Any, processor: Any) -> np.ndarray:
    """Normalised pixels (N, 3, S, S) for display: (N, S, S, 3) uint8."""
    mean, std = (np.array(values, np.float32) for values in (processor.image_mean, processor.image_std))
    values = pixels.permute(0, 2, 3, 1).numpy() * std + mean
    return np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)


def _column(*views: np.ndarray) -> Image.Image:
    side = (SIDE, SIDE)
    column = Image.new("RGB", (SIDE, len(views) * (SIDE + GAP) - GAP), "white")
    for place, view in enumerate(views):
        column.paste(Image.fromarray(view).resize(side, Image.Resampling.BICUBIC), (0, place * (SIDE + GAP)))
    return column


def _sheet(columns: list[Image.Image]) -> bytes:
    width, height = columns[0].size
    sheet = Image.new("RGB", (len(columns) * (width + GAP) - GAP, height), "white")
    for place, column in enumerate(columns):
        sheet.paste(column, (place * (width + GAP), 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
