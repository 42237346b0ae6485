"""Gated attention over bags of feature vectors: the network, and its training with early stopping.

After Ilse et al. 2018 (arXiv 1802.04712), with the layers and the recipe of kaiko's eva: vectors are projected, a
gated attention gives each a weight, and a small network reads their weighted mean.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from biovfm_hf.errors import UserError

from ..probe import Problem, Scores

BATCH = 32
PROJECTED, ATTENTION, HIDDEN = 128, 128, (128, 64)


class GatedAttention(nn.Module):
    """Scores (B, K) of bags of feature vectors, and the attention weights (B, n) of the vectors.

    Args:
        width: D of a vector.
        outputs: K.
        projected: width after the projection.
        attention: width of the attention's two branches, tanh and sigmoid.
        hidden: widths of the network that reads the pooled vector.
    """

    def __init__(
        self,
        width: int,
        outputs: int,
        projected: int = PROJECTED,
        attention: int = ATTENTION,
        hidden: Sequence[int] = HIDDEN,
    ) -> None:
        super().__init__()
        self.project = nn.Linear(width, projected)
        self.content = nn.Linear(projected, attention)
        self.gate = nn.Linear(projected, attention)
        self.weigh = nn.Linear(attention, 1)
        widths = [projected, *hidden]
        layers = [part for pair in pairwise(widths) for part in (nn.Linear(*pair), nn.ReLU())]
        self.read = nn.Sequential(*layers, nn.Linear(widths[-1], outputs))

    def forward(self, bags: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Score bags (B, n, D). Only the first `lengths` (B,) vectors of each bag count; they are at least 1."""
        projected = self.project(bags)
        logits = self.weigh(torch.tanh(self.content(projected)) * torch.sigmoid(self.gate(projected))).squeeze(-1)
        beyond = torch.arange(bags.shape[1], device=bags.device) >= lengths[:, None]
        weights = logits.masked_fill(beyond, -torch.inf).softmax(dim=1)
        return self.read((weights[..., None] * projected).sum(dim=1)), weights


def padded(bags: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Bags (n, D) as one tensor (B, longest, D) padded with zeros, and their lengths (B,).

    Raises:
        UserError: a bag is empty, for which attention is undefined.
    """
    lengths = torch.tensor([len(bag) for bag in bags])
    if (lengths == 0).any():
        raise UserError("a case without images: attention needs one or more; leave the case out")
    tensors = [torch.from_numpy(np.ascontiguousarray(bag, np.float32)) for bag in bags]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True), lengths


def fit_attention(
    problem: Problem, bags: dict[str, list[np.ndarray]], epochs: int, rate: float, patience: int, seed: int
) -> tuple[Scores, list[np.ndarray]]:
    """Train on the bags of `train`, by AdamW without weight decay in batches of 32, and score `val` and `test`.

    The epoch with the lowest validation loss is kept; training ends after `patience` epochs without a lower one.

    Args:
        problem: kind of task, number of outputs, labels.
        bags: {split: vectors (n, D) of each case}.
        epochs: most epochs.
        rate: learning rate of AdamW.
        patience: number of epochs.
        seed: random seed of the initial weights and the order of cases.

    Returns:
        The scores, and the attention weights (n,) of each test case.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GatedAttention(bags["train"][0].shape[1], problem.outputs)
        optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.0)
        best, best_loss, best_epoch = _copy(model), float("inf"), 0
        for epoch in range(1, epochs + 1):
            _train(model, optimizer, problem, bags["train"])
            loss = _validation_loss(model, problem, bags["val"])
            if loss < best_loss:
                best, best_loss, best_epoch = _copy(model), loss, epoch
            elif epoch - best_epoch >= patience:
                break
    model.load_state_dict(best)
    (val, _), (test, weights) = (_score(model, problem, bags[name]) for name in ("val", "test"))
    trained = sum(parameter.numel() for parameter in model.parameters())
    return Scores(val, test, {"epoch": best_epoch, "val_loss": best_loss}, trained), weights


def _train(model: GatedAttention, optimizer: torch.optim.Optimizer, problem: Problem, bags: list[np.ndarray]) -> None:
    model.train()
    targets = torch.from_numpy(problem.targets("train"))
    for rows in torch.randperm(len(bags)).split(BATCH):
        logits, _ = model(*padded([bags[i] for i in rows.tolist()]))
        optimizer.zero_grad()
        _loss(problem, logits, targets[rows]).backward()
        optimizer.step()


def _loss(problem: Problem, logits: Tensor, targets: Tensor) -> Tensor:
    if problem.independent:
        return nn.functional.binary_cross_entropy_with_logits(logits, targets)
    return nn.functional.cross_entropy(logits, targets)


@torch.no_grad()
def _logits(model: GatedAttention, bags: list[np.ndarray]) -> tuple[Tensor, list[np.ndarray]]:
    """Scores (B, K) and the weights (n,) of each bag."""
    model.eval()
    parts, weights = [], []
    for start in range(0, len(bags), BATCH):
        group = bags[start : start + BATCH]
        logits, attention = model(*padded(group))
        parts.append(logits)
        weights += [row[: len(bag)].numpy() for row, bag in zip(attention, group, strict=True)]
    return torch.cat(parts), weights


def _validation_loss(model: GatedAttention, problem: Problem, bags: list[np.ndarray]) -> float:
    return float(_loss(problem, _logits(model, bags)[0], torch.from_numpy(problem.targets("val"))))


def _score(model: GatedAttention, problem: Problem, bags: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    logits, weights = _logits(model, bags)
    scores = logits.sigmoid() if problem.independent else logits.softmax(dim=1)
    return scores.numpy(), weights


def _copy(model: nn.Module) -> dict[str, Any]:
    return {name: value.clone() for name, value in model.state_dict().items()}
