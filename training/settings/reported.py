"""What a report says of the settings and the logged values that the runs of all objectives have."""

from dataclasses import fields

from biovfm_hf.cards.objective import Logged

from ..schedule import StepValues

# the main ones of a run: key -> title
MAIN_SETTINGS = {
    "method": "Objective",
    "model.size": "Size",
    "model.init_from": "Started from",
    "model.num_hidden_layers": "Blocks",
    "model.hidden_size": "Width",
    "model.patch_size": "Patch, pixels",
    "augment.global_size": "Global crops, pixels",
    "augment.local_count": "Local crops of an image",
    "augment.local_size": "Local crops, pixels",
    "augment.preset": "Augmentation",
    "batch.size": "Images a step",
    "steps": "Steps",
    "optim.base_lr": "Learning rate before scaling",
    "optim.weight_decay": "Weight decay",
    "run.precision": "Precision",
    "seed": "Seed",
}
LOGGED = {
    **{item.name: Logged("schedule") for item in fields(StepValues)},
    "grad_norm": Logged("schedule", "Norm of the gradient before clipping."),
    "rankme": Logged("watch", "Effective rank of the features (RankMe). Collapse shows as a fall towards 1."),
    "knn": Logged("watch", "Balanced accuracy of nearest neighbours on a small labelled task, held-out images."),
    **dict.fromkeys(("images_per_second", "memory_gib", "mfu"), Logged("speed")),
}
