"""Segmentation by training an encoder's weights together with a decoder."""

from typing import TYPE_CHECKING

import torch

from ..probe import Answer, Trial
from ..tuning.optimisation import count_weights
from .frozen import pixel_feed
from .judging import judge_masks
from .networks import adapted, tune
from .problem import Segmentation
from .setup import Setup, surface_rule
from .training import Plan, predictor, train

if TYPE_CHECKING:
    from ..segment import TunedMasks

CLIP = 1.0


def probe_tuned(probe: "TunedMasks", trial: Trial) -> Answer:
    """Train the weights of the encoder that the method chooses together with a decoder, and score.

    AdamW with weight decay 0.05 on the encoder's matrices, a rate of at least 1e-3 for the decoder, a warm-up and a
    cosine. The given encoder is not changed.
    """
    setup = Setup.of(probe, trial)
    run, encoder = trial.run, trial.encoder
    plan = Plan(probe.epochs, probe.rate or probe.default_rate, run.seed, tune, CLIP)
    torch.manual_seed(run.seed)
    network = adapted(encoder, probe, probe.decoder, setup.problem.classes, setup.size)
    feed = pixel_feed(setup)
    trained = count_weights(network, trained=True)
    chosen = {**train(network, feed, plan), **probe.details()}
    chosen["trained_weights"] = count_weights(network.encoder, trained=True)
    answer = Segmentation(predictor(network, feed), chosen, trained, count_weights(network))
    return judge_masks(trial, setup.whole(answer), surface_rule(probe))
