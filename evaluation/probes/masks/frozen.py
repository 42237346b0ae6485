"""Segmentation without training the encoder: decoders on its tokens, and networks that have none."""

from typing import TYPE_CHECKING

import torch

from biovfm_hf.imagenet import IMAGENET_MEAN, IMAGENET_STD

from ...encoders.embed import TokenStore, embed_tokens
from ..probe import Answer, Trial
from ..tuning.optimisation import count_weights
from .convex import fit_linear_decoder
from .decoders import DECODER_BLOCKS, as_maps, make_decoder
from .feeds import PixelFeed, TokenFeed
from .judging import judge_masks
from .networks import first_rows, scores_size
from .problem import Problem, Segmentation
from .scratch import build
from .surfaces import CONVENTION, IGNORED, TOLERANCE, SurfaceRule
from .training import Plan, predictor, train

if TYPE_CHECKING:
    from ..segment import MaskProbe

TOKEN_BATCH = 16  # images whose tokens are made at once, at most
RATE = 1e-3


def surface_rule(probe: "MaskProbe") -> SurfaceRule:
    """How a probe's settings say that surfaces are compared."""
    return SurfaceRule(probe.surface or CONVENTION, probe.tolerance or TOLERANCE, probe.empty or IGNORED)


def probe_frozen(probe: "MaskProbe", trial: Trial) -> Answer:
    """Train the decoder, or the network of a `scratch:` model, and judge."""
    problem, size = Problem.of(trial.task), probe.image_size or trial.encoder.size
    plan = Plan(probe.epochs, probe.rate or RATE, trial.run.seed)
    if trial.encoder.network is not None:
        answer = train_network(trial, problem, size, plan)
    else:
        answer = fit_decoder(probe.decoder, problem, read_tokens(trial, problem, size, probe.decoder), plan, trial)
    return judge_masks(trial, answer, surface_rule(probe))


def read_tokens(trial: Trial, problem: Problem, size: int, decoder: str) -> dict[str, TokenStore]:
    """Tokens of every split that a decoder reads, from the cache or made now."""
    batch = min(trial.run.batch_size, TOKEN_BATCH)
    return {
        name: embed_tokens(
            trial.encoder, split.images, trial.cache, size, DECODER_BLOCKS[decoder], batch, trial.label(name)
        )
        for name, split in problem.splits.items()
    }


def fit_decoder(
    decoder: str, problem: Problem, stores: dict[str, TokenStore], plan: Plan, trial: Trial
) -> Segmentation:
    """Train a decoder on tokens: a linear one by a convex fit, a U-Net by AdamW with a cosine schedule."""
    readers = {name: store.read for name, store in stores.items()}
    if decoder == "linear":
        return fit_linear_decoder(problem, readers, plan.seed)
    device = trial.run.device
    torch.manual_seed(plan.seed)
    example = as_maps(readers["train"](first_rows(len(problem.splits["train"].images))), device)
    network = make_decoder(decoder, example[0].shape[1], problem.classes).to(device)
    feed = TokenFeed(problem, readers, scores_size(network, example), device)
    chosen = train(network, feed, plan)
    return Segmentation(predictor(network, feed), chosen, count_weights(network))


def train_network(trial: Trial, problem: Problem, size: int, plan: Plan) -> Segmentation:
    """Train the network that stands in an encoder's place on the images, and all of its weights."""
    given = trial.encoder.network
    assert given is not None
    torch.manual_seed(plan.seed)
    network = build(given.name, problem.classes, size, given.weights).to(trial.run.device)
    feed = PixelFeed(problem, size, IMAGENET_MEAN, IMAGENET_STD, device=trial.run.device)
    chosen = train(network, feed, plan)
    trained = chosen["trained_weights"] = count_weights(network)
    return Segmentation(predictor(network, feed), chosen, trained, trained)
