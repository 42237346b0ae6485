"""The images that a folder or a dataset gives to `biovfm embed`."""

import numpy as np
import pytest
from PIL import Image

from biovfm_hf.errors import UserError
from evaluation.commands.images import open_images
from tests.evaluation.commands.conftest import write_dataset


def test_no_dataset_is_waited_for_without_a_network(monkeypatch):
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://nowhere.invalid")
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)

    def load_dataset(*_, **__):
        raise FileNotFoundError(f"offline: {constants.HF_HUB_OFFLINE}")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match="offline: True"):
        open_images("someone/scans", None, "train", 32)


@pytest.mark.parametrize(
    ("sides", "part"), [((500, 500), 1), ((512, 640), 2), ((1100, 1100), 4), ((4096, 4096), 8), ((1130, 1168), 2)]
)
def test_large_jpegs_are_decoded_small_and_look_the_same(tmp_path, sides, part):
    coarse = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(coarse).resize(sides, Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=90)
    images = open_images(str(tmp_path), None, "train", 224).images
    rows = open_images(write_dataset(tmp_path / "set", [(tmp_path / "a.jpg").read_bytes()]), None, "train", 224).images
    assert images[0].shape == (sides[1] // part, sides[0] // part, 3) and np.array_equal(images[0], rows[0])
    whole = np.asarray(Image.open(tmp_path / "a.jpg"))
    small, expected = (np.asarray(Image.fromarray(image).resize((224, 224), 3), float) for image in (images[0], whole))
    assert np.abs(small - expected).mean() < 0.5


def test_jpegs_of_sides_without_a_common_part_are_decoded_whole(tmp_path):
    """565 x 584 at 1/8 is 71 x 73: in a square of 48 that image was 47 wide; from the whole file it is 46."""
    Image.new("RGB", (565, 584)).save(tmp_path / "a.jpg")
    images = open_images(str(tmp_path), None, "train", 48).images
    assert images[0].shape == (584, 565, 3)
