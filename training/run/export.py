"""Exports an objective as model folders that plain transformers loads, and pushes them to the Hub."""

import copy
import json
import logging
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from biovfm_hf import BioVFMImageProcessor
from biovfm_hf.cards.objective import tag_of, write_objective
from biovfm_hf.cards.origin import public_name
from biovfm_hf.cards.stub import STUB_FIELD
from biovfm_hf.conversion.place import read_object
from biovfm_hf.errors import UserError, one_line, require
from biovfm_hf.hub.calls import hub_api, steady
from biovfm_hf.size_names import size_words
from biovfm_hf.writing.files import atomic_path, write_text

from ..settings.config import TrainConfig
from ..settings.typed import to_yaml
from .checkpoint import model_tensors
from .provenance import Lineage

logger = logging.getLogger(__name__)


def write_model_folder(
    target: Path,
    module: nn.Module,
    tensors: dict[str, Tensor],
    config: TrainConfig,
    step: int,
    flops_per_image: float,
    lineage: Lineage,
) -> None:
    """Write weights, config, image processor, the run's configuration, its objective and a card stub, atomically.

    The weights behind the model, and the restrictions that come with it, are written beside it too.

    Args:
        target: the model folder; an existing one is replaced.
        module: the model, sharded or not. A BioVFM model is saved with stochastic depth switched off; a timm
            network becomes a folder that timm and transformers load.
        tensors: the model's state, on the CPU.
        config: the run's configuration.
        step: number of optimiser steps that led to these weights.
        flops_per_image: floating-point operations that one image takes in training.
        lineage: what the model is made from.
    """
    with atomic_path(target) as temporary:
        if isinstance(module, PreTrainedModel):
            size = _save_ours(temporary, module, tensors, config)
        else:
            size = _save_timm(temporary, module, tensors, config, lineage.provenance.licences)
        (temporary / "training_config.yaml").write_text(to_yaml(_public(config)), encoding="utf-8")
        (temporary / "README.md").write_text(card_stub(config, size, step), encoding="utf-8")
        write_objective(temporary, config.facts(flops_per_image))
        lineage.write(temporary)


def _save_ours(folder: Path, module: PreTrainedModel, tensors: dict[str, Tensor], config: TrainConfig) -> str:
    """Save a BioVFM model with its image processor. Returns its size as text."""
    kind: Any = next(
        kind for kind in type(module).__mro__ if not issubclass(kind, FSDPModule)
    )  # FSDP2 puts its own class in front
    model_config: Any = copy.deepcopy(module.config)
    model_config.drop_path_rate = 0.0
    with torch.device("meta"):
        model = kind(model_config)
    model.load_state_dict(tensors, strict=True, assign=True)
    disable_progress_bar()  # one shard, milliseconds
    model.save_pretrained(folder)
    size = model_config.image_size
    BioVFMImageProcessor(
        size={"height": size, "width": size}, image_mean=list(config.augment.mean), image_std=list(config.augment.std)
    ).save_pretrained(folder)
    return size_words(model_config.to_dict())


def _save_timm(
    folder: Path, module: Any, tensors: dict[str, Tensor], config: TrainConfig, licences: tuple[str, ...]
) -> str:
    """Save a timm network. Returns its name as text."""
    timm = require("timm", "encoders")
    name = module.pretrained_cfg["architecture"]
    model = timm.create_model(name, num_classes=0)
    model.load_state_dict(tensors, strict=True)
    side = config.augment.global_size
    data = {"input_size": (3, side, side), "mean": config.augment.mean, "std": config.augment.std, "crop_pct": 1.0}
    # nothing of timm's own weights for this network, such as their licence, is true of these
    model.pretrained_cfg.update(data, tag=None, hf_hub_id=None, url=None, license=next(iter(licences), None))
    timm.models.save_for_hf(model, str(folder), safe_serialization=True)
    settings = read_object(folder / "config.json")
    settings.get("model_args", {}).pop("num_classes", None)  # transformers passes it too, and twice is an error
    write_text(folder / "config.json", json.dumps(settings, indent=1))
    return size_words(settings)


def _public(config: TrainConfig) -> TrainConfig:
    """The settings without paths of this machine, because a model folder may be published."""
    return config.renamed(lambda name: name and public_name(name))


def card_stub(config: TrainConfig, size: str, step: int) -> str:
    """A short card of a model of this `size`, from facts known during training; `biovfm card` writes the full card."""
    return f"""---
library_name: transformers
pipeline_tag: image-feature-extraction
tags: [biovfm, medical-imaging, self-supervised, {tag_of(config.title)}]
{STUB_FIELD}: true
---

# {size}, pretrained with {config.title}

Self-supervised pretraining with BioVFM-HF by {config.description[0]}: {step:,} steps of {config.batch.size:,} images
({step * config.batch.size:,} images seen), crops of {config.augment.global_size} pixels, seed {config.seed}.
`training_config.yaml` holds every setting. Not evaluated yet; `biovfm card` writes a full card from results.

    from transformers import AutoModel, AutoImageProcessor
    model = AutoModel.from_pretrained("THIS_FOLDER", trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained("THIS_FOLDER", trust_remote_code=True)

Not a medical device; for research.
"""


def export_models(
    target: Path,
    modules: dict[str, nn.Module],
    config: TrainConfig,
    step: int,
    flops_per_image: float,
    lineages: dict[str, Lineage],
    write: bool,
) -> None:
    """Write each module as the model folder `target / NAME`. All processes must call this; those with `write` write.

    Args:
        target: folder that receives the model folders.
        modules: folder name -> model inside the objective.
        config: the run's configuration.
        step: number of optimiser steps that led to these weights.
        flops_per_image: floating-point operations that one image takes in training.
        lineages: folder name -> what that model is made from; a folder without one is as `model`.
        write: whether this process touches the disk.
    """
    tensors = {name: model_tensors(module) for name, module in modules.items()}  # before a write can fail
    for name, module in modules.items() if write else ():
        lineage = lineages.get(name, lineages["model"])
        write_model_folder(target / name, module, tensors[name], config, step, flops_per_image, lineage)


def open_repository(repository: str) -> None:
    """Create the private repository that exports are pushed to, or check that it exists.

    Raises:
        UserError: the name is impossible, or there is no access or no network. It is raised now, not after hours of
            work.
    """
    try:
        steady(lambda: hub_api().create_repo(repository, private=True, exist_ok=True), "creating the repository")
    except UserError as error:
        raise UserError(
            f"cannot push to {repository}: {error}; or leave out --push-to-hub and push the model later"
        ) from error


def push_in_background(
    folder: Path, repository: str, step: int, earlier: Sequence[threading.Thread] = ()
) -> threading.Thread:
    """Upload a model folder to the Hub in the background; repeated failures give a warning.

    It waits for the `earlier` uploads, so that a slow one does not replace new weights with old ones.
    """

    def push() -> None:
        for thread in earlier:
            thread.join()
        try:
            sent = {"repo_id": repository, "folder_path": folder, "commit_message": f"Step {step}"}
            steady(lambda: hub_api().upload_folder(**sent), f"sending step {step:,}")
            tqdm.write(f"step {step:,} is at {repository} on the Hub", file=sys.stderr)
        except Exception as error:  # training continues whatever happens to the network
            logger.warning("cannot push %s to %s: %s", folder, repository, one_line(error))

    thread = threading.Thread(target=push, name=f"push-{step}")
    thread.start()
    return thread
