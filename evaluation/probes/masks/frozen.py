"""Segmentation without training an encoder: decoders on frozen tokens, and networks without an encoder."""

from dataclasses import replace

import torch

from biovfm_hf.imagenet import IMAGENET_MEAN, IMAGENET_STD

from ..probe import Answer, Trial
from ..tuning.optimisation import count_weights
from .augment import augmentation
from .convex import fit_linear_decoder
from .decoders import as_maps, make_decoder
from .feeds import PixelFeed, TokenFeed
from .judging import judge_masks
from .networks import adapted, first_rows, scores_size
from .problem import Segmentation
from .scratch import build
from .settings import MaskProbe
from .setup import Setup, surface_rule
from .training import MaskRecipe, predictor, train

RATE = 1e-3


def probe_frozen(probe: MaskProbe, trial: Trial) -> Answer:
    """Train the decoder, or the network without an encoder, and score it."""
    setup = Setup.of(probe, trial)
    return judge_masks(trial, setup.whole(fit_frozen(setup)), surface_rule(probe))


def fit_frozen(setup: Setup) -> Segmentation:
    """Train what a set-up's settings specify on its problem.

    Without augmentation, a decoder reads tokens that are computed once; a linear decoder is fitted convexly and a
    U-Net is trained by AdamW. With augmentation, the encoder runs in every step and either decoder is trained by
    AdamW. A network without an encoder is trained on the images.
    """
    recipe = MaskRecipe(setup.probe.epochs, setup.probe.rate or RATE, setup.trial.run.seed)
    if setup.trial.encoder.network is not None:
        return _train_network(setup, recipe)
    if setup.probe.augment is not None:
        return _train_online(setup, recipe)
    if setup.probe.decoder == "linear":
        return fit_linear_decoder(setup.problem, setup.readers(), recipe.seed)
    return _train_decoder(setup, recipe)


def _train_decoder(setup: Setup, recipe: MaskRecipe) -> Segmentation:
    device, readers = setup.trial.run.device, setup.readers()
    torch.manual_seed(recipe.seed)
    example = as_maps(readers["train"](first_rows(len(setup.problem.splits["train"].images))), device)
    network = make_decoder(setup.probe.decoder, example[0].shape[1], setup.problem.classes).to(device)
    feed = TokenFeed(setup.problem, readers, scores_size(network, example), device)
    chosen = train(network, feed, recipe)
    return Segmentation(predictor(network, feed), chosen, count_weights(network))


def _train_online(setup: Setup, recipe: MaskRecipe) -> Segmentation:
    torch.manual_seed(recipe.seed)
    network = adapted(setup.trial.encoder, None, setup.probe.decoder, setup.problem.classes, setup.size)
    feed = pixel_feed(setup)
    chosen = train(network, feed, recipe)
    return Segmentation(predictor(network, feed), chosen, count_weights(network.decoder))


def _train_network(setup: Setup, recipe: MaskRecipe) -> Segmentation:
    stand_in = setup.trial.encoder.network
    assert stand_in is not None
    torch.manual_seed(recipe.seed)
    network = build(stand_in.name, setup.problem.classes, setup.size, stand_in.weights).to(setup.trial.run.device)
    feed = replace(pixel_feed(setup), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    chosen = train(network, feed, recipe)
    trained = chosen["trained_weights"] = count_weights(network)
    return Segmentation(predictor(network, feed), chosen, trained, trained)


def pixel_feed(setup: Setup) -> PixelFeed:
    """The images of a set-up, preprocessed for its encoder and augmented as its probe says."""
    encoder, augment = setup.trial.encoder, setup.probe.augment
    return PixelFeed(
        setup.problem, setup.size, encoder.mean, encoder.std, augmentation(augment) if augment else None,
        setup.trial.run.device,
    )  # fmt: skip
