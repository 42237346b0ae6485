"""Fine-tuning an encoder with a linear head for classes."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from biovfm_hf.errors import UserError

from ...encoders.embed import prefetch
from ...encoders.encoder import Encoder
from ...encoders.processes import make_accelerator
from ...statistics.kinds import MULTILABEL
from ...tasks import Split, Task
from ..probe import Scores, log_loss, one_hot
from .adaptations import Adaptation
from .optimisation import count_weights, make_optimizer, optimised, trained_state, warmup_cosine


@dataclass(frozen=True)
class TuningRecipe:
    """Settings of fine-tuning: its `name`, the weights to train, `epochs`, highest `rate`, `batch` size, `seed`."""

    name: str
    adaptation: Adaptation
    epochs: int
    rate: float
    batch: int
    seed: int


class Classifier(nn.Module):
    """An encoder with a linear layer on its class token and mean patch token: pixels (B, 3, H, W) -> scores (B, K).

    The layer computes in float32, even if the encoder runs under autocast, so that scores do not tie.

    Args:
        encoder: how to read the module.
        module: the encoder's module, possibly changed by an adaptation.
        example: one image's pixels (1, 3, H, W), from which the width of the vectors follows.
        outputs: K.
    """

    def __init__(self, encoder: Encoder, module: nn.Module, example: Tensor, outputs: int) -> None:
        super().__init__()
        self.about, self.encoder = encoder, module.eval()
        with torch.no_grad():
            width = self._vector(example.to(encoder.device)).shape[1]
        self.head = nn.Linear(width, outputs).to(encoder.device)

    def _vector(self, pixels: Tensor) -> Tensor:
        summary = self.about.read(self.encoder, pixels, 0, self.about.reading).summary()
        return torch.cat([summary["class"], summary["mean"]], 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Scores before the softmax or the sigmoids."""
        vector = self._vector(pixels)
        with torch.autocast(pixels.device.type, enabled=False):
            return self.head(vector.float())


@dataclass(frozen=True)
class TrainingTask:
    """An encoder, a task and the batch size: what all steps of a training share."""

    encoder: Encoder
    task: Task
    batch: int

    @property
    def independent(self) -> bool:
        """Whether each output is a yes or no of its own."""
        return self.task.record.kind == MULTILABEL

    def pixels(self, split: Split, rows: np.ndarray, rng: np.random.Generator | None = None) -> Tensor:
        """The pixels of some images, randomly cropped if a generator is given."""
        images = [split.images[int(row)] for row in rows]
        return self.encoder.preprocess([random_crop(image, rng) for image in images] if rng else images)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy; binary cross-entropy if outputs are independent."""
        if self.independent:
            return functional.binary_cross_entropy_with_logits(logits, targets)
        return functional.cross_entropy(logits, targets)

    def targets(self, name: str) -> Tensor:
        """The targets (N_images, K) of a split's images, taken from their cases."""
        split = self.task.splits[name]
        assert split.labels is not None
        labels = split.labels if split.case_of_image is None else split.labels[split.case_of_image]
        return torch.from_numpy(one_hot(labels, self.task.num_outputs))


def probe_finetune(encoder: Encoder, task: Task, recipe: TuningRecipe) -> Scores:
    """Train the encoder and a head on its class token and mean patch token; keep the epoch of lowest validation loss.

    AdamW with weight decay 0.05 on matrices, a linear warm-up over a tenth of the steps, then cosine to 0. Training
    images are cropped at random (75 to 100 % of the area) and not mirrored, because left and right can be classes. A
    case with several images is scored by the mean of their probabilities. The given encoder is not changed.

    Args:
        encoder: the encoder to start from.
        task: a classification task.
        recipe: training settings.

    Raises:
        UserError: LoRA without PEFT, a model with nothing to adapt, or a rate at which the loss diverges.
    """
    torch.manual_seed(recipe.seed)
    training = TrainingTask(encoder, task, recipe.batch)
    example = training.pixels(task.splits["train"], np.arange(1))
    module = recipe.adaptation.prepare(copy.deepcopy(encoder.module))
    model = Classifier(encoder, module, example, task.num_outputs)
    best, best_loss, best_epoch = None, float("inf"), 0
    for epoch in _train(model, training, recipe):
        loss = _validate(model, training)
        if loss < best_loss:
            best, best_loss, best_epoch = trained_state(model), loss, epoch
    if best is None:
        raise UserError(
            f"{recipe.name} of {encoder.name} on {task.name} diverged; give a lower --rate than {recipe.rate}"
        )
    model.load_state_dict(best, strict=False)
    val, test = (predict_cases(model, training, task.splits[name]) for name in ("val", "test"))
    chosen = {"epoch": best_epoch + 1, "val_loss": best_loss, "trained_weights": count_weights(module, trained=True)}
    return Scores(
        val, test, chosen | recipe.adaptation.details(), count_weights(model, trained=True), count_weights(model)
    )


def _train(model: Classifier, training: TrainingTask, recipe: TuningRecipe) -> Iterator[int]:
    """Train, and yield the number of each epoch when it is done."""
    accelerator, device = make_accelerator(training.encoder.precision), training.encoder.device
    # Processes share out whole runs (see `suite.run_suite`), so each has its own model; nothing runs in parallel.
    forward = accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
    train, targets = training.task.splits["train"], training.targets("train")
    steps = -(-len(train.images) // recipe.batch)
    optimizer = make_optimizer(model.encoder, model.head, recipe.rate)
    schedule = LambdaLR(optimizer, warmup_cosine(steps * recipe.epochs))
    optimizer = accelerator.prepare_optimizer(optimizer, device_placement=False)
    rng = np.random.default_rng(recipe.seed)
    name = f"{recipe.name} {training.task.name}"
    for epoch in tqdm(range(recipe.epochs), desc=name, unit="epoch", disable=None, leave=False):
        model.train()
        batches = np.array_split(rng.permutation(len(train.images)), steps)
        crops = [(rows, np.random.default_rng([recipe.seed, epoch, int(rows[0])])) for rows in batches]
        loaded = prefetch(lambda item: training.pixels(train, *item), crops)
        for rows, pixels in zip(batches, loaded, strict=True):
            loss = training.loss(forward(pixels.to(device)), targets[rows].to(device))
            optimizer.zero_grad()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(optimised(optimizer), 1.0)
            optimizer.step()
            schedule.step()
        yield epoch


def random_crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random part of an image (H, W, 3) with 75 to 100 % of its area and the same aspect ratio."""
    share = float(np.sqrt(rng.uniform(0.75, 1)))
    height, width = (max(1, round(side * share)) for side in image.shape[:2])
    top = rng.integers(0, image.shape[0] - height + 1)
    left = rng.integers(0, image.shape[1] - width + 1)
    return image[top : top + height, left : left + width]


def predict_cases(model: Classifier, training: TrainingTask, split: Split) -> np.ndarray:
    """Probabilities (N_cases, K) of a split.

    Raises:
        UserError: some probabilities are not finite.
    """
    model.eval()
    count = len(split.images)
    rows = [np.arange(start, min(start + training.batch, count)) for start in range(0, count, training.batch)]
    parts = []
    with torch.inference_mode():
        for pixels in prefetch(lambda batch: training.pixels(split, batch), rows):
            logits = model(pixels.to(training.encoder.device))
            parts.append((logits.sigmoid() if training.independent else logits.softmax(1)).cpu().numpy())
    probabilities = np.concatenate(parts)
    if not np.isfinite(probabilities).all():
        raise UserError(
            f"{training.encoder.name}: fine-tuning gave values that are not finite; give a lower --rate, or check its "
            "weights"
        )
    if split.case_of_image is None:
        return probabilities
    sums = np.zeros((split.num_cases, probabilities.shape[1]))
    np.add.at(sums, split.case_of_image, probabilities)
    return (sums / np.bincount(split.case_of_image)[:, None]).astype(np.float32)


def _validate(model: Classifier, training: TrainingTask) -> float:
    """The mean validation loss."""
    split = training.task.splits["val"]
    assert split.labels is not None
    truth = one_hot(split.labels, training.task.num_outputs)
    return log_loss(predict_cases(model, training, split), truth, training.independent)
