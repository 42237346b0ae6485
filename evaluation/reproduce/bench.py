"""Finds the available parts of a reproduction: tasks that open, models with weights, and reasons for missing ones."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError

from ..encoders.device import check_device, default_device, default_precision
from ..encoders.lineup import LINEUP
from ..encoders.segmentation_networks import SCRATCH
from ..probes.probe import Probe, ProbeRun, find_probes
from ..tasks import Task, open_task, read_records
from .options import ReproduceOptions
from .recipe import Cell, Recipe

BASELINES = ("unet", "transunet")  # segmentation networks without weights to load


@dataclass
class Bench:
    """The options of a reproduction, and its opened tasks by name and size (or the reason why one does not open)."""

    options: ReproduceOptions
    opened: dict[tuple[str, int | None], Task | UserError] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        """The results folder that all items share."""
        return self.options.folder

    def task(self, name: str, recipe: Recipe) -> Task:
        """A task, opened once.

        Raises:
            UserError: its files are missing or broken.
        """
        options, size = self.options, self.options.size or recipe.size
        if (name, size) not in self.opened:
            cache = None if options.out is None else options.features_folder
            try:
                opened: Task | UserError = open_task(name, options.data, size, cache, options.download)
            except UserError as error:
                opened = error
            self.opened[name, size] = opened
        task = self.opened[name, size]
        if isinstance(task, UserError):
            raise task
        return task

    def model(self, name: str, recipe: Recipe) -> str:
        """A model's name for the encoder loader: a name, or `NAME=SOURCE`.

        Raises:
            UserError: neither the recipe nor the user has weights for the name.
        """
        given = {**recipe.sources, **self.options.sources}
        if name in given:
            return f"{name}={given[name]}"
        if name in BASELINES:
            return f"{name}={SCRATCH}{name}"
        if name in LINEUP:
            return name
        raise UserError(f"{recipe.weights.get(name, 'no weights are known')}; then give --model {name}=FOLDER")

    def runs(self, cell: Cell, task: Task) -> list[ProbeRun]:
        """The runs of a cell on a task, one per seed.

        Raises:
            UserError: the method lacks a setting, or a value is wrong.
        """
        options = self.options
        device = options.device or default_device()
        check_device(device)
        kinds = [kind for kind in find_probes(cell.method, cell.protocol) if task.record.kind in kind.kinds]
        if not kinds:
            raise UserError(f"method {cell.method} of protocol {cell.protocol} does not suit {task.record.kind} tasks")
        probe = make_probe(kinds[0], {**cell.settings}, options.settings)
        return [
            ProbeRun(
                probe,
                protocol=cell.protocol,
                seed=seed,
                batch_size=options.batch_size,
                device=device,
                precision=options.precision or default_precision(device),
                resamples=options.resamples,
                trust_remote_code=options.trust_remote_code,
            )
            for seed in dict.fromkeys(options.seed)
        ]

    @staticmethod
    def settings_of(cell: Cell) -> set[str]:
        """Names of the settings of a cell's method."""
        return {item.name for probe in probes_of(cell) for item in fields(probe) if item.init}


def probes_of(cell: Cell) -> list[type[Probe]]:
    """The probes of a cell's method that suit its tasks.

    Raises:
        UserError: there is no such method.
    """
    kinds = {read_records()[task].kind for task in cell.tasks}
    return [probe for probe in find_probes(cell.method, cell.protocol) if kinds & {*probe.kinds}]


def make_probe(kind: type[Probe], settings: dict[str, Any], changed: dict[str, Any]) -> Probe:
    """A probe with the settings of a recipe, and with those of the user's changes that it has.

    Raises:
        UserError: it lacks one of the recipe's settings, or a value is wrong.
    """
    known = {item.name for item in fields(kind) if item.init}
    if unknown := set(settings) - known:
        raise UserError(f"method {kind.name} has no setting {', '.join(sorted(unknown))}")
    return kind(**settings | {name: value for name, value in changed.items() if name in known})
