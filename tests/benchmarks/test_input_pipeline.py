"""Decode and multi-crop of one image, ours against torchvision's transforms on PIL, on one core.

The other side is DINOv2's own arrangement (`dinov2/data/augmentations.py`): PIL decodes to RGB, torchvision crops,
flips, jitters, drops colours, blurs and solarises each of 2 + 8 views, then `ToTensor` and `Normalize`. Ours includes
decoding, packing and normalising as well. The images are real ones that ship in scikit-image, a stained tissue section
and a retina, in colour and as their green channel alone (red-free photography), as 256 x 256 PNG, the form that the
dataset builder writes, and as JPEG.

    pytest tests/benchmarks/test_input_pipeline.py -m slow -s

Times are CPU seconds of this process, which other load on the machine disturbs least.
"""

import io
import time
from collections.abc import Callable
from random import Random

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from training.data.augment import Augmenter, pack
from training.data.batches import normalise
from training.data.decode import read_image
from training.settings.augment import AugmentConfig

ROUNDS = 3
IMAGES = 16


def encoded_images(kind: str, colour: bool) -> list[bytes]:
    """Regions of 256 x 256 pixels of real images, encoded."""
    data = pytest.importorskip("skimage.data")
    sources = [image if colour else image[..., 1] for image in (data.immunohistochemistry(), data.retina())]
    generator = np.random.default_rng(0)
    files = []
    for number in range(IMAGES):
        source = sources[number % 2]
        top, left = (int(generator.integers(0, side - 256)) for side in source.shape[:2])
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(source[top : top + 256, left : left + 256])).save(buffer, format=kind)
        files.append(buffer.getvalue())
    return files


def torchvision_pipeline(config: AugmentConfig) -> Callable[[bytes], list[torch.Tensor]]:
    from torchvision import transforms as tv

    bicubic = tv.InterpolationMode.BICUBIC

    def view(size: int, scale: tuple[float, float], kind: int) -> tv.Compose:
        jitter = tv.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue)
        blur = tv.GaussianBlur(config.blur_kernel, config.blur_sigma)
        return tv.Compose(
            [
                tv.RandomResizedCrop(size, scale, interpolation=bicubic),
                tv.RandomHorizontalFlip(config.horizontal_flip),
                tv.RandomApply([jitter], config.jitter_p),
                tv.RandomGrayscale(config.grayscale_p),
                tv.RandomApply([blur], config.blur_p[kind]),
                tv.RandomSolarize(config.solarize_threshold, config.solarize_p[kind]),
                tv.ToTensor(),
                tv.Normalize(config.mean, config.std),
            ]
        )

    views = [view(config.global_size, config.global_scale, kind) for kind in (0, 1)]
    views += [view(config.local_size, config.local_scale, 2)] * config.local_count

    def run(data: bytes) -> list[torch.Tensor]:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        return [make(image) for make in views]

    return run


def our_pipeline(config: AugmentConfig) -> Callable[[bytes], list[torch.Tensor]]:
    augmenter, random = Augmenter(config), Random(0)

    def run(data: bytes) -> list[torch.Tensor]:
        groups = augmenter.views(read_image(data, "image"), random)
        return [normalise(torch.from_numpy(pack(views)), config.mean, config.std) for views in groups]

    return run


def images_per_cpu_second(pipeline: Callable[[bytes], list[torch.Tensor]], files: list[bytes]) -> float:
    pipeline(files[0])
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        for data in files:
            pipeline(data)
        best = min(best, time.process_time() - start)
    return len(files) / best


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("colour", [False, True], ids=["grey", "colour"])
def test_multi_crop_is_at_least_twice_as_fast(kind: str, colour: bool) -> None:
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        config, files = AugmentConfig(), encoded_images(kind, colour)
        theirs = images_per_cpu_second(torchvision_pipeline(config), files)
        ours = images_per_cpu_second(our_pipeline(config), files)
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
    name = f"{kind} {'colour' if colour else 'grey'}"
    print(f"\n{name}: torchvision on PIL {theirs:.0f}, ours {ours:.0f} images/s per core")
    assert ours > 2 * theirs
