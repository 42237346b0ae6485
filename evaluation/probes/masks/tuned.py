"""Segmentation by training an encoder's weights together with a decoder."""

import torch

from ..probe import Answer, Trial
from ..tuning.adaptations import Adaptation
from ..tuning.optimisation import count_weights
from .frozen import pixel_feed
from .judging import judge_masks
from .networks import adapted, tune
from .problem import Segmentation
from .settings import MaskProbe
from .setup import Setup, surface_rule
from .training import MaskRecipe, predictor, train

CLIP = 1.0


def probe_tuned(probe: MaskProbe, adaptation: Adaptation, trial: Trial) -> Answer:
    """Train the weights of the encoder that the adaptation chooses together with a decoder, and score.

    AdamW with weight decay 0.05 on the encoder's matrices, a rate of at least 1e-3 for the decoder, a warm-up and a
    cosine. The given encoder is not changed.
    """
    setup = Setup.of(probe, trial)
    run, encoder = trial.run, trial.encoder
    recipe = MaskRecipe(probe.epochs, probe.rate or adaptation.default_rate, run.seed, tune, CLIP)
    torch.manual_seed(run.seed)
    network = adapted(encoder, adaptation, probe.decoder, setup.problem.classes, setup.size)
    feed = pixel_feed(setup)
    trained = count_weights(network, trained=True)
    chosen = {**train(network, feed, recipe), **adaptation.details()}
    chosen["trained_weights"] = count_weights(network.encoder, trained=True)
    answer = Segmentation(predictor(network, feed), chosen, trained, count_weights(network))
    return judge_masks(trial, setup.whole(answer), surface_rule(probe))
