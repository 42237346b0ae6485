"""Refuses a run folder that holds a run with other settings, from its config.yaml."""

import shlex
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError
from biovfm_hf.reading.documents import parse_yaml

from ..settings.config import TrainConfig
from ..settings.typed import flat, plain, to_yaml

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


def check_same_run(out: Path, config: TrainConfig, unknown: tuple[str, ...] = ()) -> None:
    """Refuse a folder `out` with the results of another run, or with a config.yaml of something else.

    Args:
        out: the run folder, which may be missing.
        config: the settings of this run.
        unknown: how keys begin whose values are not known yet, as initial weights give them.

    Raises:
        UserError: says what is there, such as the settings that differ, and how to go on.
    """
    results, path = results_in(out), out / "config.yaml"
    if not path.is_file():
        if results:
            raise UserError(
                f"{out} holds {results[0]}/ but no config.yaml, so it is not a run folder; use another --out"
            )
        return
    before, now = (flat(_settings(source, out)) for source in (path.read_text(encoding="utf-8"), to_yaml(config)))
    # keys that an older version's file lacks had their defaults; keys that no longer exist change nothing
    default = flat(_settings(to_yaml(type(config)()), out))
    sections = tuple(f"{name}." for name in plain(config))
    keys = sorted(key for key in before.keys() | now.keys() if key in now or key.startswith(sections))
    changed = [key for key in keys if before.get(key, default.get(key)) != now.get(key)]
    changed = [key for key in changed if not key.startswith((*_FREE, *unknown))]
    if not (changed and results):
        return
    listed = ", ".join(f"{key} {before.get(key)} -> {now.get(key)}" for key in changed[:4])
    onward = f"with another --out and --model.init_from {out}"
    steps = before.get("steps", default["steps"])
    if changed == ["steps"] and now["steps"] > steps:
        onward = f"with: {_more_steps(out, now['steps'] - steps)}"
    raise UserError(
        f"{out} holds a run with other settings ({listed}); use the same settings, or continue from its weights "
        f"{onward}"
    )


def _more_steps(out: Path, steps: int) -> str:
    """The command that trains a finished run's weights further, in a new run, because the schedules have ended."""
    command = ["biovfm", "pretrain", str(out / "config.yaml"), "--out", f"{out}-more", f"model.init_from={out}"]
    return shlex.join([*command, f"steps={steps}"])


def results_in(out: Path) -> list[str]:
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
