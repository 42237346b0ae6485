"""DINOv2's training objective: a student that learns from its own moving average (arXiv 2304.07193).

Three terms: DINO (class tokens of all crops against the teacher's class tokens of the global crops), iBOT (masked
patches against the teacher's patches there) and KoLeo (spreads the class tokens of a batch). With a Gram teacher there
is a fourth: similarities between patches stay as they were (`gram.py`).
"""

import copy
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from biovfm_hf.modeling_biovfm import BioVFMModel

from ...optimizer import update_average
from ...schedule import StepValues
from .config import DINOConfig, GramConfig
from .gram import gram_loss, resize_patches
from .heads import DINOHead
from .losses import Part, centred_softmax, koleo_loss, prototype_cross_entropy, sinkhorn_knopp, update_center


class DINONetwork(nn.Module):
    """One network, student or teacher: `backbone`, `dino_head`, and `ibot_head` if it is separate."""

    def __init__(self, backbone: BioVFMModel, config: DINOConfig) -> None:
        super().__init__()
        width, normed = backbone.config.hidden_size, config.weight_norm
        self.backbone = backbone
        self.dino_head = DINOHead(width, config.prototypes, config.hidden, config.bottleneck, config.layers, normed)
        if config.ibot_separate_head:
            ibot_sizes = (config.ibot_prototypes, config.ibot_hidden, config.ibot_bottleneck, config.ibot_layers)
            self.ibot_head = DINOHead(width, *ibot_sizes, normed)

    def scores(self, cls_tokens: Tensor, patch_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Prototype scores of class tokens (M, D) and of patch tokens (P, D): (M, K) and (P, K')."""
        if hasattr(self, "ibot_head"):
            dino, ibot = self.dino_head, self.ibot_head
            return dino.last_layer(dino(cls_tokens)), ibot.last_layer(ibot(patch_tokens))
        together = self.dino_head.last_layer(self.dino_head(torch.cat([cls_tokens, patch_tokens])))
        return together.split([len(cls_tokens), len(patch_tokens)])

    def cross_entropy(
        self, cls_tokens: Tensor, patch_tokens: Tensor, cls_parts: list[Part], patch_part: Part, temperature: float
    ) -> tuple[Tensor, list[Tensor]]:
        """`prototype_cross_entropy` of class tokens and patch tokens: the total, and each part's value."""
        if hasattr(self, "ibot_head"):
            dino, ibot = self.dino_head, self.ibot_head
            total, values = prototype_cross_entropy(dino(cls_tokens), dino.last_layer, cls_parts, temperature)
            patch = prototype_cross_entropy(ibot(patch_tokens), ibot.last_layer, [patch_part], temperature)
            return total + patch[0], values + patch[1]
        vectors = self.dino_head(torch.cat([cls_tokens, patch_tokens]))
        return prototype_cross_entropy(vectors, self.dino_head.last_layer, [*cls_parts, patch_part], temperature)


class DINOObjective(nn.Module):
    """Student and teacher in one module, so that DDP or FSDP2 wraps one module and `forward` is the whole step.

    Args:
        backbone: a `BioVFMModel` with a mask token. The student takes it, the average a copy of it.
        config: heads, targets and weights.
        frozen: a teacher in place of the average, of any width, with the student's prototypes and patches; the
            student then sees all patches, as in DINOv3's distillation.

    `average` follows the student and is exported; `teacher` gives the targets, and is the average unless there is a
    frozen one. Neither needs a gradient, both stay in evaluation mode. `dino_center` (1, K) and
    `ibot_center` are buffers.
    """

    dino_center: Tensor
    ibot_center: Tensor

    def __init__(self, backbone: BioVFMModel, config: DINOConfig, frozen: DINONetwork | None = None) -> None:
        super().__init__()
        if backbone.embeddings.mask_token is None:
            raise ValueError("the backbone has no mask token; build it with use_mask_token=True")
        self.config = config
        self.student = DINONetwork(backbone, config)
        average = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.teacher = average if frozen is None else frozen.requires_grad_(False).eval()
        self.followed: DINONetwork | None = None if frozen is None else average
        patch_prototypes = config.ibot_prototypes if config.ibot_separate_head else config.prototypes
        self.gram_teacher: BioVFMModel | None = None
        self.gram = GramConfig()
        self.register_buffer("dino_center", torch.zeros(1, config.prototypes))
        self.register_buffer("ibot_center", torch.zeros(1, patch_prototypes))

    @property
    def average(self) -> DINONetwork:
        """The student's moving average, which is exported."""
        return self.teacher if self.followed is None else self.followed

    def train(self, mode: bool = True) -> "DINOObjective":
        """Set training mode for the student only, because the other networks never drop paths."""
        super().train(mode)
        for network in (self.teacher, self.followed, self.gram_teacher):
            if network is not None:
                network.eval()
        return self

    def anchor(self, gram_teacher: BioVFMModel, config: GramConfig) -> None:
        """Set the frozen encoder to which similarities between patches are anchored."""
        self.gram_teacher, self.gram = gram_teacher.requires_grad_(False).eval(), config

    @torch.no_grad()
    def refresh_anchor(self) -> None:
        """Replace the frozen encoder by a copy of the teacher's current one."""
        assert self.gram_teacher is not None
        for ours, theirs in zip(self.gram_teacher.parameters(), self.teacher.backbone.parameters(), strict=True):
            ours.copy_(theirs)  # one by one, because torch cannot copy a list of shards

    def forward(self, batch: Mapping[str, Any], values: StepValues) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch of B images.

        Args:
            batch: `global_crops` (2B, 3, H, W), all first crops, then all second crops; `local_crops` (nB, 3, h, w),
                crop by crop, or None; `anchor_crops` (2B, 3, S, S), the Gram teacher's, if it has its own; `masks`
                (2B, N) bool; `mask_indices` (M,), the masked patches in the flattened masks; computed if not given,
                which on a GPU waits for the device.
            values: of this step; `teacher_temp`, `local_weight` and `gram_weight` are read.

        Returns:
            The loss, and detached scalars by name: `dino_local_crops_loss`, `dino_global_crops_loss`, `koleo_loss`
            and `ibot_loss` as DINOv2 logs them (before `dino_weight` and `ibot_weight`, KoLeo's after its weight; the
            last two halved); `*_gap`, ln K minus the mean cross-entropy in nats, which is 0 when the features have
            collapsed; `teacher_entropy` in nats.
        """
        if "mask_indices" not in batch:
            batch = {**batch, "mask_indices": batch["masks"].flatten().nonzero().flatten()}
        dino_targets, patch_targets = self._targets(batch, values.teacher_temp)
        anchored = bool(values.gram_weight) and self.gram_teacher is not None
        global_cls, local_cls, patches, all_patches = self._student_tokens(batch, anchored)
        images = len(global_cls) // 2
        local_weight = 1.0 if values.local_weight is None else values.local_weight
        parts = {
            **self._class_parts(dino_targets, len(local_cls), local_weight),
            "ibot": self._patch_part(patch_targets, batch),
        }
        cls_tokens, (*cls_parts, patch_part) = torch.cat([global_cls, local_cls]), parts.values()
        total, losses = self.student.cross_entropy(
            cls_tokens, patches, cls_parts, patch_part, self.config.student_temp
        )
        koleo = self.config.koleo_weight * (self._koleo(global_cls[:images]) + self._koleo(global_cls[images:]))
        report = {"koleo_loss": koleo.detach() / 2, **self._report(parts, losses, dino_targets)}
        if not anchored:
            return total + koleo, report
        gram = self._gram_loss(all_patches, batch)
        return total + koleo + cast(float, values.gram_weight) * gram, {**report, "gram_loss": gram.detach()}

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move every parameter of the average (heads too) towards the student's: momentum * a + (1 - momentum) * s."""
        update_average(list(self.average.parameters()), list(self.student.parameters()), momentum)

    @torch.no_grad()
    def _targets(self, batch: Mapping[str, Any], temperature: float | None) -> tuple[Tensor, Tensor]:
        """Teacher assignments of the class tokens (2B, K), crops swapped, and of the masked patches (M, K)."""
        if temperature is None:
            raise ValueError("the step values have no teacher_temp; use DINOSchedule")
        rows = self._target_rows(batch, self.teacher.backbone)
        (tokens,) = self.teacher.backbone.forward_packed([batch["global_crops"]], output_rows=[rows])
        crops = len(batch["global_crops"])
        # swapped, so that row i of the student's crops is paired with the other crop of the same image
        dino_scores, patch_scores = self.teacher.scores(tokens[:crops].roll(crops // 2, 0), tokens[crops:])
        if self.config.centering == "sinkhorn_knopp":
            return sinkhorn_knopp(dino_scores, temperature), sinkhorn_knopp(patch_scores, temperature)
        dino = centred_softmax(dino_scores, self.dino_center, temperature)
        patch_targets = centred_softmax(patch_scores, self.ibot_center, temperature)
        update_center(self.dino_center, dino_scores, self.config.center_momentum)
        update_center(self.ibot_center, patch_scores, self.config.center_momentum)
        return dino, patch_targets

    def _koleo(self, cls_tokens: Tensor) -> Tensor:
        return koleo_loss(cls_tokens, self.config.koleo_neighbours, self.config.koleo_group)

    def _gram_loss(self, patches: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """`gram_loss` of the student's patch tokens (2B, N, D); its crops have their masks."""
        teacher = cast(BioVFMModel, self.gram_teacher)
        crops = batch.get("anchor_crops", batch["global_crops"])
        patch = teacher.config.patch_size
        grid, own = (tuple(side // patch for side in images.shape[-2:]) for images in (crops, batch["global_crops"]))
        with torch.no_grad():
            tokens = teacher(crops).last_hidden_state[:, 1 + teacher.config.num_register_tokens :]
            targets = resize_patches(tokens, grid, own, self.gram)
        if self.gram.tokens != "all":
            chosen = batch["masks"] if self.gram.tokens == "masked" else ~batch["masks"]
            patches, targets = patches[chosen], targets[chosen]
        return gram_loss(patches, targets, self.gram)

    def _student_tokens(self, batch: Mapping[str, Any], anchored: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Class tokens of the global (2B, D) and local (nB, D) crops, and the masked patch tokens (M, D).

        If they are `anchored`, all patch tokens (2B, N, D) too.
        """
        backbone = self.student.backbone
        hidden = batch["masks"] if self.followed is None else torch.zeros_like(batch["masks"])
        crops, masks, rows = [batch["global_crops"]], [hidden], [self._target_rows(batch, backbone)]
        if batch.get("local_crops") is not None:
            crops.append(batch["local_crops"])
            masks.append(None)
            rows.append(self._class_rows(batch["local_crops"], backbone))
        if anchored:
            rows[0] = torch.cat([rows[0], self._patch_rows(batch)])
        tokens = backbone.forward_packed(crops, masks, rows)
        local_cls = tokens[1] if len(tokens) > 1 else tokens[0][:0]
        images, masked = len(batch["global_crops"]), len(batch["mask_indices"])
        global_cls, patches, every = tokens[0].tensor_split([images, images + masked])
        return global_cls, local_cls, patches, every.unflatten(0, (images, -1))

    def _patch_rows(self, batch: Mapping[str, Any]) -> Tensor:
        """Where all patches (2B * N,) stand in the global crops' flattened tokens."""
        images, patches = batch["masks"].shape
        prefix = 1 + self.student.backbone.config.num_register_tokens
        rows = torch.arange(images * patches, device=batch["masks"].device)
        return rows + (rows // patches + 1) * prefix

    def _target_rows(self, batch: Mapping[str, Any], backbone: BioVFMModel) -> Tensor:
        """Where the class tokens (2B,), then the masked patches (M,) stand in the global crops' flattened tokens."""
        patches = batch["masks"].shape[1]
        prefix = 1 + backbone.config.num_register_tokens
        indices = batch["mask_indices"]
        masked = indices + (indices // patches + 1) * prefix
        return torch.cat([self._class_rows(batch["global_crops"], backbone), masked])

    def _class_rows(self, crops: Tensor, backbone: BioVFMModel) -> Tensor:
        """Where the class tokens stand in the flattened tokens of `crops` (B, 3, H, W)."""
        config = backbone.config
        length = 1 + config.num_register_tokens + crops[0, 0].numel() // config.patch_size**2
        return torch.arange(len(crops), device=crops.device) * length

    def _class_parts(self, targets: Tensor, local_rows: int, local_weight: float) -> dict[str, Part]:
        """How class tokens are compared with the (2B, K) targets, weighted as DINOv2 does.

        It is the mean over all pairs of a student's and a teacher's crop: 2 pairs of global crops (4 if a crop is also
        paired with itself) and 2n pairs with a local crop. (If n is 0, this counts one such pair, as DINOv2 does.)
        """
        images, config = len(targets) // 2, self.config
        pairs = (4 if config.same_crop_pairs else 2) + max(2 * local_rows // images, 1)
        weight, factor = 1.0 / (images * pairs), config.dino_weight
        both = targets[:images] + targets[images:] if local_rows or config.same_crop_pairs else targets  # (B, K)
        own = both if config.same_crop_pairs else targets
        parts = {"dino_global_crops": Part(2 * images, own, weight, factor)}
        if local_rows:  # a local crop is paired with both global crops
            parts["dino_local_crops"] = Part(local_rows, both, weight, factor * local_weight)
        return parts

    def _patch_part(self, targets: Tensor, batch: Mapping[str, Any]) -> Part:
        """How masked patches are compared with the (M, K) targets: by the mean over each image, then over images.

        Images without a mask count too, as in DINOv2.
        """
        masks, indices = batch["masks"], batch["mask_indices"]
        per_image = 1.0 / (len(masks) * masks.sum(dim=1).clamp(min=1))
        return Part(len(indices), targets, per_image[indices // masks.shape[1]], self.config.ibot_weight)

    @torch.no_grad()
    def _report(self, parts: dict[str, Part], losses: list[Tensor], dino_targets: Tensor) -> dict[str, Tensor]:
        report = {"teacher_entropy": torch.special.entr(dino_targets).sum(dim=-1).mean()}
        for (name, part), loss in zip(parts.items(), losses, strict=True):
            report[f"{name}_loss"] = loss / 2 if name == "ibot" else loss
            if part.rows:
                weight = part.weights.sum() if isinstance(part.weights, Tensor) else part.weights * part.rows
                several = name == "dino_local_crops" or (name == "dino_global_crops" and self.config.same_crop_pairs)
                targets = 2 if several else 1  # of each row's target
                report[f"{name}_gap"] = math.log(part.targets.shape[1]) - loss / (weight * targets)
        return report
