"""Method `detect`: boxes from the patch tokens of an encoder that is frozen or also trained."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from biovfm_hf.errors import UserError, require
from biovfm_hf.options import option

from ..encoders.embed import embed_tokens, prefetch
from ..encoders.encoder import to_square
from ..encoders.processes import make_accelerator
from ..statistics.detection import class_figures, group_boxes, match_all, mean_figures
from ..statistics.kinds import DETECTION
from ..tasks import Split, Task
from ..tasks.boxes import ImageBoxes, truth_rows
from ..tasks.images import Images, combined_digest
from .judging import Detections, judge_detection
from .probe import Answer, Probe, Trial, epochs_setting, rate_setting, register, size_setting

if TYPE_CHECKING:
    from torch import Tensor

    from .networks.detector import Detector

BATCH = 8  # most images per step
EPOCHS, STEPS = 30, 600  # at least this many epochs, and more if few images need more for this many steps
RATE, TUNED_RATE = 1e-3, 1e-4  # of the detector, and of an encoder that is also trained
DECAY = 0.05
LOOKS = 10  # validations during training

Read = Callable[[str, np.ndarray, bool], "Tensor"]  # tokens (B, h, w, D) of some images of a split, mirrored or not


@register
@dataclass(frozen=True)
class Detect(Probe):
    """A feature pyramid and FCOS on patch tokens, scored by COCO's average precision."""

    name = "detect"
    title = "boxes by a feature pyramid and FCOS on patch tokens, frozen or also trained"
    kinds = (DETECTION,)
    normalises_alike = True
    stratifies = False  # cases have no class
    image_size: int | None = size_setting()
    tune: bool = option(False, "detection: train the encoder's weights too")
    mirror: bool = option(False, "detection: also train on mirrored images; for tasks where sides mean nothing")
    epochs: int | None = epochs_setting()
    rate: float | None = rate_setting()
    batch_size: int = option(BATCH, f"images per step, at most {BATCH}", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "batch_size", min(self.batch_size, BATCH))

    @property
    def record_name(self) -> str:
        """The method's name, with a suffix if the encoder is trained."""
        return "detect-tuned" if self.tune else self.name

    @property
    def trains(self) -> bool:
        """Whether the encoder's weights are trained."""
        return self.tune

    def run(self, trial: Trial) -> Answer:
        """Train the detector, keep its best state by validation AP, and score the test images."""
        require("torchvision", "detect")
        if trial.encoder.network is not None:
            raise UserError(f"{trial.encoder.name} is a network for segmentation; method detect does not apply to it")
        size = self.image_size or trial.encoder.size
        recipe = DetectorRecipe(self.epochs, self.rate or RATE, trial.run.seed, self.batch_size, self.mirror)
        return judge_detection(trial, _tuned(trial, size, recipe) if self.tune else _frozen(trial, size, recipe))


@dataclass(frozen=True)
class DetectorRecipe:
    """Training settings of a detector.

    Attributes:
        epochs: number of epochs; None derives it from the number of images.
        rate: highest learning rate.
        seed: random seed of weights and order.
        batch: images per step.
        mirror: whether every other batch is mirrored.
    """

    epochs: int | None
    rate: float
    seed: int
    batch: int
    mirror: bool

    def passes(self, images: int) -> int:
        """Number of epochs."""
        return self.epochs or max(EPOCHS, -(-STEPS * self.batch // max(images, 1)))


@dataclass(frozen=True)
class Mirrored:
    """Images with left and right exchanged."""

    images: Images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return np.ascontiguousarray(self.images[index][:, ::-1])

    def fingerprint(self) -> str:
        """A digest of the images and the mirroring."""
        return combined_digest([b"mirrored", self.images.fingerprint().encode()])


def _frozen(trial: Trial, size: int, recipe: DetectorRecipe) -> Detections:
    """Train a detector on stored tokens."""
    stores: dict[tuple[str, bool], Any] = {}
    passes = [(name, False) for name in trial.task.splits] + ([("train", True)] if recipe.mirror else [])
    for name, mirrored in passes:
        images = trial.task.splits[name].images
        stores[name, mirrored] = embed_tokens(
            trial.encoder, Mirrored(images) if mirrored else images, trial.cache, size, 0,
            batch_size=min(trial.run.batch_size, 16), label=trial.label(name),
        )  # fmt: skip

    def read(name: str, rows: np.ndarray, mirrored: bool) -> "Tensor":
        return stores[name, mirrored].read(rows)[0].to(trial.run.device)

    return train_detector(trial.task, read, None, recipe, trial.run.device)


def _tuned(trial: Trial, size: int, recipe: DetectorRecipe) -> Detections:
    """Train encoder and detector together; the encoder's rate is a tenth of the detector's or less."""
    encoder = trial.encoder
    module = copy.deepcopy(encoder.module).requires_grad_(True)
    accelerator = make_accelerator(encoder.precision)

    def read(name: str, rows: np.ndarray, mirrored: bool) -> "Tensor":
        images = [trial.task.splits[name].images[int(row)] for row in rows]
        images = [image[:, ::-1] for image in images] if mirrored else images
        pixels = to_square(images, size, encoder.mean, encoder.std).to(encoder.device)
        with accelerator.autocast():
            return encoder.read(module, pixels, 0, encoder.reading).patches().float()

    return train_detector(trial.task, read, module, recipe, trial.run.device)


@dataclass(frozen=True)
class Training:
    """The parts of a detector's training.

    Attributes:
        task: a detection task.
        read: function that returns tokens.
        detector: the detector that reads them.
        modules: the detector, and the encoder if it is trained too.
        sizes: {split: (N, 2) width and height of its images}.
        recipe: training settings.
    """

    task: Task
    read: Read
    detector: "Detector"
    modules: list[Any]
    sizes: dict[str, np.ndarray]
    recipe: DetectorRecipe

    def epoch(self, optimizer: Any, schedule: Any, rng: np.random.Generator) -> None:
        """Train on every image once.

        Raises:
            UserError: the loss is not finite.
        """
        import torch

        for module in self.modules:
            module.train()
        images = len(self.sizes["train"])
        for rows in np.array_split(rng.permutation(images), -(-images // self.recipe.batch)):
            loss = self._loss(rows, mirrored=bool(self.recipe.mirror and rng.random() < 0.5))
            if not torch.isfinite(loss):
                raise UserError(f"detect on {self.task.name} diverged; give a lower --rate than {self.recipe.rate}")
            optimizer.zero_grad()
            loss.backward()
            for module in self.modules:
                torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            schedule.step()

    def _loss(self, rows: np.ndarray, mirrored: bool) -> "Tensor":
        tokens = self.read("train", rows, mirrored)
        return self.detector.loss(
            tokens, _targets(self.task.splits["train"], self.sizes["train"], rows, tokens, mirrored)
        )

    def detect(self, name: str) -> np.ndarray:
        """Detections (n, 7) in the images of a split: image, class, x, y, width, height in image pixels, score."""
        import torch

        for module in self.modules:
            module.eval()
        parts, sizes = [np.zeros((0, 7))], self.sizes[name]
        with torch.no_grad():
            for start in range(0, len(sizes), self.recipe.batch):
                rows = np.arange(start, min(start + self.recipe.batch, len(sizes)))
                tokens = self.read(name, rows, False)
                for row, detections in zip(rows, self.detector.detect(tokens), strict=True):
                    shares = detections["boxes"].cpu().numpy().astype(np.float64) / _units(tokens)
                    parts.append(_rows(int(row), detections, shares * np.tile(sizes[row], 2)))
        return np.concatenate(parts)

    def ap(self) -> float:
        """Mean AP on the validation images; 0 if none is defined."""
        truth = truth_rows(self.task.splits["val"].boxes or [])
        classes = group_boxes(truth, self.detect("val"), len(self.sizes["val"]), self.task.num_outputs)
        ap = mean_figures([class_figures(match_all(images)) for images in classes])["AP"]
        return 0.0 if np.isnan(ap) else ap


def train_detector(task: Task, read: Read, module: Any, recipe: DetectorRecipe, device: str) -> Detections:
    """Train a detector (and `module`, from whose outputs `read` makes tokens) and detect in the test images.

    AdamW with weight decay 0.05, a linear warm-up over a tenth of the steps, then cosine to 0. Ten times during
    training the AP on the validation images is measured, and the state with the highest AP is kept (the last of equal
    ones).

    Args:
        task: a detection task.
        read: function that returns tokens.
        module: the encoder's module, None if it is frozen.
        recipe: training settings.
        device: device of the detector.

    Raises:
        UserError: the loss is not finite.
    """
    import torch
    from tqdm import tqdm

    from .networks.detector import Detector  # needs torchvision
    from .tuning.optimisation import warmup_cosine  # needs torch

    torch.manual_seed(recipe.seed)
    with torch.no_grad():
        width = read("train", np.arange(1), False).shape[-1]
    detector: Any = Detector(width, task.num_outputs).to(device)
    sizes = {name: image_sizes(split.images) for name, split in task.splits.items()}
    training = Training(task, read, detector, [detector, *([] if module is None else [module])], sizes, recipe)
    images, epochs = len(sizes["train"]), recipe.passes(len(sizes["train"]))
    optimizer = _optimizer(detector, module, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(-(-images // recipe.batch) * epochs))
    rng, best, best_ap, best_epoch = np.random.default_rng(recipe.seed), None, -1.0, 0
    looks = set(np.linspace(0, epochs, LOOKS + 1)[1:].round().astype(int).tolist())
    for epoch in tqdm(range(1, epochs + 1), desc=f"detect {task.name}", unit="epoch", disable=None, leave=False):
        training.epoch(optimizer, schedule, rng)
        if epoch in looks and (ap := training.ap()) >= best_ap:
            best, best_ap, best_epoch = [copy.deepcopy(each.state_dict()) for each in training.modules], ap, epoch
    for each, state in zip(training.modules, best or [], strict=True):
        each.load_state_dict(state)
    weights = sum(parameter.numel() for each in training.modules for parameter in each.parameters())
    chosen = {"epoch": best_epoch, "val_AP": best_ap}
    return Detections(training.detect("test"), chosen, weights, None if module is None else weights)


def _optimizer(detector: Any, module: Any, recipe: DetectorRecipe) -> Any:
    import torch

    groups: list[dict[str, Any]] = [{"params": list(detector.parameters())}]
    if module is not None:
        groups.append({"params": list(module.parameters()), "lr": min(recipe.rate / 10, TUNED_RATE)})
    return torch.optim.AdamW(groups, lr=recipe.rate, weight_decay=DECAY)


def _rows(image: int, detections: dict[str, "Tensor"], corners: np.ndarray) -> np.ndarray:
    """A table (n, 7) of one image's detections, whose corners (n, 4) are given."""
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    labels, scores = (detections[name].cpu().numpy().astype(np.float64) for name in ("labels", "scores"))
    return np.column_stack([np.full(len(boxes), float(image)), labels, boxes, scores])


def image_sizes(images: Images) -> np.ndarray:
    """Width and height (N, 2) of each image."""
    shapes = prefetch(lambda index: images[index].shape[:2], list(range(len(images))))
    return np.array([(width, height) for height, width in shapes], np.float64)


def _targets(
    split: Split, sizes: np.ndarray, rows: np.ndarray, tokens: "Tensor", mirrored: bool
) -> list[dict[str, "Tensor"]]:
    """The true boxes of images, in the detector's units."""
    import torch

    assert split.boxes is not None
    scale = _units(tokens)
    targets = []
    for row in rows:
        things = split.boxes[int(row)].things
        corners = corner_form(things, sizes[row])
        if mirrored:
            corners[:, [0, 2]] = 1 - corners[:, [2, 0]]
        boxes = torch.from_numpy((corners * scale).astype(np.float32)).to(tokens.device)
        targets.append({"boxes": boxes, "labels": torch.from_numpy(things.labels).to(tokens.device)})
    return targets


def corner_form(things: ImageBoxes, size: np.ndarray) -> np.ndarray:
    """Left, top, right and bottom (n, 4) as fractions of an image's width and height `size` (2,), clipped to 0..1."""
    corners = np.concatenate([things.boxes[:, :2], things.boxes[:, :2] + things.boxes[:, 2:]], axis=1)
    return np.clip(corners / np.tile(size, 2), 0, 1)


def _units(tokens: "Tensor") -> np.ndarray:
    """Width, height, width, height of an image in the detector's units."""
    from .networks.detector import PATCH

    return np.array([tokens.shape[2], tokens.shape[1]] * 2, np.float64) * PATCH
