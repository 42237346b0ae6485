"""Reconstructions: visible patches are the image's own, hidden ones the decoder's, and private images stay out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from biovfm_hf import BioVFMConfig, BioVFMForMaskedAutoencoding, BioVFMImageProcessor
from biovfm_hf.cards.provenance import Provenance
from model_cards.inputs.dataset import summarise_dataset
from model_cards.inputs.run import RunSummary, summarise_run
from model_cards.report.material import Material
from model_cards.report.pictures import PictureStore
from model_cards.report.reconstructions import GREY, paint, reconstructions

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
DECODER = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}


@pytest.fixture(scope="module")
def run(make, tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    """Of a masked autoencoder, with its decoder beside it."""
    folder = make.run(tmp_path_factory.mktemp("painted") / "run-mae", 3)
    torch.manual_seed(0)
    config = BioVFMConfig(**SIZES, **DECODER, norm_pix_loss=True)
    BioVFMForMaskedAutoencoding(config).save_pretrained(folder / "model_with_decoder")
    BioVFMImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "model_with_decoder")
    return summarise_run(folder)


def test_visible_patches_are_the_images_and_hidden_ones_the_decoders(run: RunSummary, make) -> None:
    assert run.decoder is not None
    (view,) = paint(run.decoder, [make.image(5, 32)])
    image, seen, painted = (part.astype(int) for part in view)
    grey = (seen == GREY).all(axis=2).reshape(4, 8, 4, 8).all(axis=(1, 3))  # of each patch
    assert grey.sum() == 12  # three quarters of sixteen
    hidden = grey.repeat(8, 0).repeat(8, 1)
    assert np.abs(painted - image)[~hidden].max() <= 1 and (seen == image)[~hidden].all()
    assert np.abs(painted - image)[hidden].max() > 20


def test_the_middle_of_an_image_is_shown_at_the_scale_of_training(run: RunSummary, make) -> None:
    assert run.decoder is not None
    whole, part = (paint(run.decoder, [make.image(1, 64)], share)[0][0] for share in (1.0, 0.25))
    assert np.ptp(part.astype(int)) < 0.7 * np.ptp(whole.astype(int))  # a ramp, of which half is shown


def test_a_report_shows_them_for_the_datasets_images(run: RunSummary, dataset_dir: Path) -> None:
    material = Material(PictureStore(10**6), datasets=[summarise_dataset(dataset_dir)])
    picture = reconstructions(run, material)
    assert picture is not None and picture.alt.endswith("run-mae: 6 images") and "painted" in picture.caption
    assert reconstructions(replace(run, decoder=None), material) is None
    assert reconstructions(run, Material(PictureStore(10**6))) is None


def test_images_of_private_sources_stay_out(run: RunSummary, dataset_dir: Path) -> None:
    dataset = summarise_dataset(dataset_dir)
    dataset = replace(dataset, provenance=Provenance(tuple(dataset.sources)))
    assert reconstructions(run, Material(PictureStore(10**6), datasets=[dataset])) is None
    assert reconstructions(run, Material(PictureStore(10**6), datasets=[dataset], private_images=True)) is not None


def test_a_damaged_decoder_is_named_and_the_report_goes_on(run: RunSummary, dataset_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "biovfm"}')
    material = Material(PictureStore(10**6), datasets=[summarise_dataset(dataset_dir)])
    assert reconstructions(replace(run, decoder=tmp_path), material) is None
    assert material.store.left_out[0].startswith("reconstructions of run-mae: ")
