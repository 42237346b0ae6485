"""The run folder: the resolved configuration, the metrics and the sample sheet of crops."""

import json
import os
import platform
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.writing.files import atomic_path, write_text
from biovfm_hf.writing.locks import lock

from ..data.augment_batch import apply_drawn_looks
from ..data.batches import CropBatches
from ..settings.config import TrainConfig
from ..settings.typed import to_yaml
from .provenance import Lineage, note_lineages
from .same_run import check_same_run, results_in

_SHEET_IMAGES = 8


def hold_run_folder(out: Path) -> ExitStack:
    """Create `out` and lock it against other runs until the result is closed or this process dies.

    A process that a killed launcher left behind continues to write, and would mix its files with those of a new run.

    Raises:
        UserError: another process is training in `out`, or it cannot be written.
    """
    hold, holder = ExitStack(), out / ".holder"
    try:
        if not hold.enter_context(lock(out / ".lock", wait=False, remove=True)):
            name = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
            raise UserError(f"{out}: {name} is training there; wait until it ends, or stop it")
        hold.callback(holder.unlink, missing_ok=True)
        write_text(holder, f"process {os.getpid()} on {platform.node()}")
    except OSError as error:
        hold.close()
        raise UserError(f"cannot write to {out}: {error.strerror}; choose another --out") from error
    return hold


def prepare_run_folder(out: Path, config: TrainConfig) -> dict[str, Lineage]:
    """Create `out` with `config.yaml`, or check that an existing `config.yaml` describes the same run.

    Returns:
        The lineage of each model that the run exports.

    Raises:
        UserError: `out` belongs to a run with other settings, or cannot be written.
    """
    check_same_run(out, config)
    try:
        write_text(out / "config.yaml", to_yaml(config))
        return note_lineages(out, config, begun=bool(results_in(out)))
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}; choose another --out") from error


def append_metrics(out: Path, record: dict[str, Any]) -> None:
    """Add one line to `metrics.jsonl`."""
    with (out / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def trim_metrics(out: Path, step: int) -> None:
    """Drop lines after `step`, and a line cut short by a kill, so that a continued run logs each step once."""
    path = out / "metrics.jsonl"
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record.get("step", 0) <= step:
            kept.append(line + "\n")
    write_text(path, "".join(kept))


def write_crop_sheet(path: Path, dataset: CropBatches) -> None:
    """A picture of the crops that the model will see: one row per image, global crops first, before normalisation."""
    from PIL import Image

    batch = apply_drawn_looks(dataset[0], dataset.config.augment)
    count = min(dataset.share.images, _SHEET_IMAGES)
    side = batch["global_crops"].shape[-1]
    columns = [
        batch[name].unflatten(0, (-1, dataset.share.images))
        for name in ("global_crops", "local_crops")
        if name in batch
    ]
    tiles = [view[:count].permute(0, 2, 3, 1).byte().numpy() for group in columns for view in group]
    sheet = np.full((count * (side + 2), len(tiles) * (side + 2), 3), 255, dtype=np.uint8)
    for column, views in enumerate(tiles):
        for row, view in enumerate(views):
            top, left = row * (side + 2), column * (side + 2)
            sheet[top : top + view.shape[0], left : left + view.shape[1]] = view
    with atomic_path(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")
