"""The leakage guard: planted copies of real images are found, other images of the same kind are not."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biovfm_hf.fitting import scaled_shape
from biovfm_hf.pixels import decode, to_uint8
from dataset_builder.readers.resizing import resize
from dataset_builder.screening.hashing import THUMBNAIL, fingerprint, reduced
from dataset_builder.screening.leakage import Benchmarks, framings, matches, read_benchmarks

REAL = Path(__file__).resolve().parents[4] / "shared" / "real"
SIZES = (28, 64, 128, 224)
# One scene in two pictures, by eye: another frame of a scan, another focus of a smear. To find them is right.
SAME_SCENE = [("normal (41).png", "normal (61).png"), ("BloodImage_00037.jpg", "BloodImage_00038.jpg")]


def as_medmnist(image: np.ndarray, framing: str, size: int, quality: int | None) -> np.ndarray:
    """What MedMNIST does to an image: crop or pad to a square (or squash), bicubic resize; re-encoded or lossless."""
    height, width = image.shape[:2]
    if framing == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
    elif framing == "pad":
        side = max(height, width)
        canvas = np.zeros((side, side, *image.shape[2:]), np.uint8)
        top, left = (side - height) // 2, (side - width) // 2
        canvas[top : top + height, left : left + width] = image
        image = canvas
    small = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3)
    if quality is None:
        return np.asarray(small)
    buffer = BytesIO()
    small.save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def content_of(image: np.ndarray) -> np.ndarray:
    """The picture as the builder stores it, without padding."""
    return resize(image, *scaled_shape(*image.shape[:2], 224))


def prints(images: list[np.ndarray]) -> Benchmarks:
    codes, thumbnails = zip(*(fingerprint(reduced(image)) for image in images), strict=True)
    return Benchmarks(np.array(codes, np.uint64), np.stack(thumbnails), np.arange(len(images)).astype(str))


def guard(contents: list[np.ndarray], planted: Benchmarks) -> set[tuple[int, int]]:
    """Pairs of an image of the dataset and a benchmark image that the guard calls the same."""
    shown = [(number, framing) for number, content in enumerate(contents) for framing in framings(reduced(content))]
    mine = prints([framing for _, framing in shown])
    i, j, _ = matches(mine.hashes, mine.thumbnails, planted)
    return {(shown[a][0], int(b)) for a, b in zip(i, j, strict=True)}


@pytest.mark.parametrize("framing", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", SIZES)
def test_planted_copies_are_found_and_nothing_else(make, framing, size):
    images = [make.picture(n, 150 + 40 * (n % 3), 200) for n in range(24)]
    planted = prints([as_medmnist(image, framing, size, None) for image in images[::2]])
    found = guard([content_of(image) for image in images], planted)
    assert found == {(2 * n, n) for n in range(12)}


def test_framings_of_a_square_are_one():
    assert len(framings(np.zeros((112, 111), np.uint8))) == 1
    assert [framing.shape for framing in framings(np.zeros((112, 56), np.uint8))] == [(112, 56), (56, 56), (112, 112)]


def test_constant_pictures_match_nothing():
    flat = prints([np.full((28, 28), value, np.uint8) for value in (0, 128, 255)])
    assert guard([np.full((224, 224), value, np.uint8) for value in (0, 128, 255)], flat) == set()


def test_benchmarks_are_read_from_npz_and_folders(tmp_path, make):
    images = np.stack([make.picture(n, 28, 28) for n in range(3)])
    np.savez(tmp_path / "xmnist.npz", train_images=images, val_images=images[:1], test_images=images[1:])
    make.png(tmp_path / "folder" / "a.png", make.picture(7))
    found = read_benchmarks([tmp_path / "xmnist.npz", tmp_path / "folder"])
    assert list(found.names) == ["xmnist/val/0", "xmnist/test/0", "xmnist/test/1", "a.png"]
    assert found.thumbnails.shape == (4, THUMBNAIL**2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not REAL.is_dir(), reason="the real images (../shared/real) are not here")
def test_recall_and_false_positives_on_real_images(capsys):
    """The figures quoted in leakage.py; every second image is planted, the others must not be touched."""
    files = sorted(REAL.glob("chestxray14/images/*.png")) + sorted(REAL.glob("fundus/**/Images/*.jpg"))
    files += sorted(path for path in REAL.glob("busi/**/*.png") if "mask" not in path.name)
    files += sorted(REAL.glob("rossa/**/image/*.png")) + sorted(REAL.glob("bccd/BCCD/JPEGImages/*.jpg"))
    # Shrunk once to 512 pixels: fundus photographs of 12 megapixels would take most of the time.
    images = [resize(image, *scaled_shape(*image.shape[:2], 512)) for image in (to_uint8(decode(f)) for f in files)]
    contents = [content_of(image) for image in images]
    own = prints(contents)
    # Copies among the real images themselves (BUSI repeats many, DR-HAGIS 24 is 32) are right to be found.
    i, j, _ = matches(own.hashes, own.thumbnails, own)
    same = {(int(a), int(b)) for a, b in zip(i, j, strict=True)}
    named = {file.name: number for number, file in enumerate(files)}
    same |= {(named[a], named[b]) for pair in SAME_SCENE for a, b in (pair, pair[::-1])}
    lines, worst, wrong = [], 1.0, []
    for framing in ("crop", "pad", "squash"):
        for size in SIZES:
            for quality in (None, 95, 90):
                planted = prints([as_medmnist(image, framing, size, quality) for image in images[::2]])
                found = guard(contents, planted)
                recall = np.mean([(2 * n, n) in found for n in range(len(planted.names))])
                wrong += sorted({a for a, b in found if (a, 2 * b) not in same})
                worst = min(worst, float(recall))
                lines.append(f"{framing} {size} {quality or 'lossless'}: recall {recall:.4f}")
    rate = len(wrong) / (len(images) * len(lines))
    with capsys.disabled():
        print("\n".join(lines))
        print(f"{len(images)} images, {len(same)} pairs alike among themselves, least recall {worst:.4f}")
        print(f"wrongly dropped {len(wrong)} times: {rate:.1e} of images and runs; {[files[a].name for a in wrong]}")
    assert worst >= 0.99
    assert rate < 1e-4
