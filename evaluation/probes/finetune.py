"""Fine-tuning an encoder with a linear head; `lora` and `bitfit` differ in which weights they train."""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.options import option

from ..encoders.embed import prefetch
from ..encoders.load import Encoder
from ..encoders.processes import make_accelerator
from ..statistics.kinds import MULTILABEL
from ..tasks import Split, Task
from .judging import judge
from .probe import Answer, Probe, Scores, Trial, epochs_setting, one_hot, rate_setting, register

if TYPE_CHECKING:
    from torch import Tensor, nn

HEAD_RATE = 1e-3  # the head's highest learning rate, at least
EPOCHS = 20
BATCH_SIZE = 32


@register
@dataclass(frozen=True)
class FineTune(Probe):
    """Training all weights of the encoder with a linear head.

    `default_rate` is the highest learning rate of the encoder's weights.
    """

    name = "finetune"
    title = "training all weights of the encoder"
    trains_encoder = True
    default_rate: ClassVar[float] = 3e-5
    epochs: int | None = epochs_setting()
    rate: float | None = rate_setting()
    batch_size: int = option(BATCH_SIZE, f"images per step, at most {BATCH_SIZE}", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "batch_size", min(self.batch_size, BATCH_SIZE))

    def run(self, trial: Trial) -> Answer:
        """Train, keep the epoch of lowest validation loss, and judge; nothing is cached."""
        plan = Plan(self, self.epochs or EPOCHS, self.rate or self.default_rate, self.batch_size, trial.run.seed)
        return judge(trial, probe_finetune(trial.encoder, trial.task, plan))

    def prepare(self, module: "nn.Module") -> "nn.Module":
        """Choose which of the module's weights are trained; it may be changed."""
        return module.requires_grad_(True)


@dataclass(frozen=True)
class Plan:
    """How to fine-tune: the `method`, which prepares the module; `epochs`; highest `rate`; `batch` size; `seed`."""

    method: FineTune
    epochs: int
    rate: float
    batch: int
    seed: int


def probe_finetune(encoder: Encoder, task: Task, plan: Plan) -> Scores:
    """Train the encoder and a head on its class token and mean patch token; keep the epoch of lowest validation loss.

    AdamW with weight decay 0.05 on matrices, a linear warm-up over a tenth of the steps, then cosine to 0. Training
    images are cropped at random (75 to 100 % of the area) and not mirrored, because left and right can be classes.
    Cases of several images are scored by the mean of their images' probabilities. The encoder given is left as it is.

    Args:
        encoder: what to start from.
        task: a classification task.
        plan: how.

    Raises:
        UserError: LoRA without PEFT, or a model with nothing to adapt.
    """
    import torch
    from tqdm import tqdm

    torch.manual_seed(plan.seed)
    accelerator = make_accelerator(encoder.precision)
    model = classifier(encoder, plan.method.prepare(copy.deepcopy(encoder.module)), task)
    # Several processes share out whole runs (see `suite.run_suite`), so the model of each is its own: not parallel.
    model = accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
    optimizer = _optimizer(model, plan.rate)
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    independent = task.record.kind == MULTILABEL
    train = task.splits["train"]
    targets = _image_targets(train, task.num_outputs)
    steps = -(-len(train.images) // plan.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(steps * plan.epochs))
    optimizer = accelerator.prepare_optimizer(optimizer, device_placement=False)
    rng = np.random.default_rng(plan.seed)
    best, best_loss, best_epoch = None, float("inf"), 0
    for epoch in tqdm(
        range(plan.epochs), desc=f"{plan.method.name} {task.name}", unit="epoch", disable=None, leave=False
    ):
        model.train()
        batches = np.array_split(rng.permutation(len(train.images)), steps)
        crops = [(rows, np.random.default_rng([plan.seed, epoch, int(rows[0])])) for rows in batches]
        loaded = prefetch(lambda item: _load(encoder, train, *item), crops)
        for rows, pixels in zip(batches, loaded, strict=True):
            loss = _loss(model(pixels.to(encoder.device)), targets[rows].to(encoder.device), independent)
            optimizer.zero_grad()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
        loss_now = _validate(encoder, model, task, independent, plan.batch)
        if loss_now < best_loss:
            best, best_loss, best_epoch = _trained_state(model), loss_now, epoch
    if best is None:
        raise UserError(
            f"{plan.method.name} of {encoder.name} on {task.name} diverged; give a lower --rate than {plan.rate}"
        )
    model.load_state_dict(best, strict=False)
    probabilities = {n: predict(encoder, model, task.splits[n], independent, plan.batch) for n in ("val", "test")}
    trained = sum(p.numel() for p in model.encoder.parameters() if p.requires_grad)
    chosen = {"epoch": best_epoch + 1, "val_loss": best_loss, "trained_weights": trained}
    head = sum(p.numel() for p in model.head.parameters())
    parameters = sum(p.numel() for p in model.parameters())
    return Scores(probabilities["val"], probabilities["test"], chosen, trained + head, parameters)


def classifier(encoder: Encoder, module: "nn.Module", task: Task) -> "nn.Module":
    """The module with a linear layer on its class token and mean patch token: pixels (B, 3, H, W) -> scores (B, K).

    The layer works in float32, also where the module runs under autocast, so that scores do not tie.
    """
    import torch

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = module
            with torch.no_grad():
                width = self.vector(encoder.preprocess([task.splits["train"].images[0]]).to(encoder.device)).shape[1]
            self.head = torch.nn.Linear(width, task.num_outputs).to(encoder.device)

        def vector(self, pixels: "Tensor") -> "Tensor":
            summary = encoder.read(self.encoder, pixels, 0, encoder.reading).summary()
            return torch.cat([summary["class"], summary["mean"]], 1)

        def forward(self, pixels: "Tensor") -> "Tensor":
            vector = self.vector(pixels)
            with torch.autocast(pixels.device.type, enabled=False):
                return self.head(vector.float())

    module.eval()
    return Classifier()


def _optimizer(model: Any, rate: float) -> Any:
    import torch

    matrices = [p for p in model.encoder.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.encoder.parameters() if p.requires_grad and p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": list(model.head.parameters()), "lr": max(rate, HEAD_RATE), "weight_decay": 0.0}
    ]
    groups += [{"params": matrices, "weight_decay": 0.05}] if matrices else []
    groups += [{"params": vectors, "weight_decay": 0.0}] if vectors else []
    return torch.optim.AdamW(groups, lr=rate)


def warmup_cosine(total: int) -> Any:
    """The share of the highest rate at each of `total` steps: rising over a tenth of them, then a cosine to 0."""
    warm = max(1, total // 10)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(total - warm, 1))))

    return factor


def _image_targets(split: Split, outputs: int) -> "Tensor":
    import torch

    assert split.labels is not None
    labels = split.labels if split.case_of_image is None else split.labels[split.case_of_image]
    return torch.from_numpy(one_hot(labels, outputs))


def _load(encoder: Encoder, split: Split, rows: np.ndarray, rng: np.random.Generator | None = None) -> "Tensor":
    images = [split.images[int(row)] for row in rows]
    return encoder.preprocess([random_crop(image, rng) for image in images] if rng else images)


def random_crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random part of an image (H, W, 3) with 75 to 100 % of its area and its proportions."""
    share = float(np.sqrt(rng.uniform(0.75, 1)))
    height, width = (max(1, round(side * share)) for side in image.shape[:2])
    top = rng.integers(0, image.shape[0] - height + 1)
    left = rng.integers(0, image.shape[1] - width + 1)
    return image[top : top + height, left : left + width]


def _loss(logits: "Tensor", targets: "Tensor", independent: bool) -> "Tensor":
    from torch.nn import functional

    if independent:
        return functional.binary_cross_entropy_with_logits(logits, targets)
    return functional.cross_entropy(logits, targets)


def predict(encoder: Encoder, model: "nn.Module", split: Split, independent: bool, batch: int) -> np.ndarray:
    """Probabilities (N_cases, K) of a split."""
    import torch

    model.eval()
    rows = [np.arange(s, min(s + batch, len(split.images))) for s in range(0, len(split.images), batch)]
    parts = []
    with torch.inference_mode():
        for pixels in prefetch(lambda batch_rows: _load(encoder, split, batch_rows), rows):
            logits = model(pixels.to(encoder.device))
            parts.append((logits.sigmoid() if independent else logits.softmax(1)).cpu().numpy())
    found = np.concatenate(parts)
    if not np.isfinite(found).all():
        raise UserError(
            f"{encoder.name}: fine-tuning gave values that are not finite; give a lower --rate, or check its weights"
        )
    if split.case_of_image is None:
        return found
    sums = np.zeros((split.num_cases, found.shape[1]))
    np.add.at(sums, split.case_of_image, found)
    return (sums / np.bincount(split.case_of_image)[:, None]).astype(np.float32)


def _validate(encoder: Encoder, model: "nn.Module", task: Task, independent: bool, batch: int) -> float:
    found = np.clip(predict(encoder, model, task.splits["val"], independent, batch), 1e-7, 1 - 1e-7)
    labels = task.splits["val"].labels
    assert labels is not None
    truth = one_hot(labels, task.num_outputs)
    losses = -truth * np.log(found)
    if independent:
        losses -= (1 - truth) * np.log(1 - found)
    return float(losses.sum(1).mean())


def _trained_state(model: "nn.Module") -> dict[str, "Tensor"]:
    """Copies of what training changes: trained weights and buffers."""
    kept = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    return kept | {name: buffer.clone() for name, buffer in model.named_buffers()}
