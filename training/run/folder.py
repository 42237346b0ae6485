"""The run folder: the resolved configuration, the metrics and the sample sheet of crops."""

import json
import os
import platform
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.reading.documents import parse_yaml
from biovfm_hf.writing.files import atomic_path, write_text
from biovfm_hf.writing.locks import lock

from ..data.augment_batch import apply_drawn_looks
from ..data.batches import CropBatches
from ..settings.config import TrainConfig
from ..settings.typed import flat, plain, to_yaml
from .provenance import Lineage, note_lineages

# Settings that may change when a run continues: they change neither the images seen nor what is learned from them.
_FREE = (
    "run.",
    "watch.",
    "data.workers",
    "data.cache_mib",
    "data.path",
    "data.revision",
    "batch.per_process",
    "epochs",
)
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
    text = to_yaml(config)
    path = out / "config.yaml"
    if path.is_file():
        before, now = (flat(_settings(source, out)) for source in (path.read_text(encoding="utf-8"), text))
        # keys that an older version's file lacks had their defaults; keys that no longer exist change nothing
        default = flat(_settings(to_yaml(type(config)()), out))
        sections = tuple(f"{name}." for name in plain(config))
        keys = sorted(key for key in before.keys() | now.keys() if key in now or key.startswith(sections))
        changed = [key for key in keys if before.get(key, default.get(key)) != now.get(key)]
        changed = [key for key in changed if not key.startswith(_FREE)]
        if changed and _results(out):
            listed = ", ".join(f"{key} {before.get(key)} -> {now.get(key)}" for key in changed[:4])
            onward = f"with another --out and --model.init_from {out}"
            if changed == ["steps"] and now["steps"] > before.get("steps", default["steps"]):
                onward = f"with: {_more_steps(out, now['steps'] - before.get('steps', default['steps']))}"
            raise UserError(
                f"{out} holds a run with other settings ({listed}); use the same settings, or continue from its "
                f"weights {onward}"
            )
    elif results := _results(out):
        raise UserError(f"{out} holds {results[0]}/ but no config.yaml, so it is not a run folder; use another --out")
    try:
        write_text(path, text)
        return note_lineages(out, config, begun=bool(_results(out)))
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}; choose another --out") from error


def _more_steps(out: Path, steps: int) -> str:
    """The command that trains a finished run's weights further, in a new run, because the schedules have ended."""
    command = ["biovfm", "pretrain", str(out / "config.yaml"), "--out", f"{out}-more", f"model.init_from={out}"]
    return shlex.join([*command, f"steps={steps}"])


def _results(out: Path) -> list[str]:
    """The files in `out` that a run would continue or replace."""
    return [name for name in ("checkpoints", "model", "model_with_decoder", "exports") if (out / name).exists()]


def _settings(text: str, out: Path) -> dict[str, Any]:
    try:
        tree = parse_yaml(text, f"{out}/config.yaml")
    except UserError:
        tree = None
    if not isinstance(tree, dict) or "method" not in tree:
        raise UserError(f"{out}/config.yaml is not of a pretraining run; use another --out")
    return tree


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
