"""The material of a report: the content of the given folders, read once."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from biovfm_hf.results.record import Record

from ..inputs.compute import Power, compute_lines
from ..inputs.dataset import DatasetSummary, summarise_dataset
from ..inputs.kinds import Inputs
from ..inputs.model import ModelSummary, summarise_model
from ..inputs.results import Comparison, load_comparisons, load_results
from ..inputs.run import RunSummary, summarise_run
from .pictures import PictureStore

MAX_ROWS = 1500


@dataclass(frozen=True)
class Material:
    """The sections' input. `results` and `scalings` are folders with figures; `models` have their compute lines."""

    store: PictureStore
    seed: int = 0
    private_images: bool = False
    datasets: list[DatasetSummary] = field(default_factory=list)
    runs: list[RunSummary] = field(default_factory=list)
    models: list[tuple[ModelSummary, list[str]]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    results: list[Path] = field(default_factory=list)
    scalings: list[Path] = field(default_factory=list)

    def withholds(self, private: tuple[str, ...], picture: str) -> bool:
        """Whether a picture of these private sources or tasks is left out; the page then says so."""
        if not private or self.private_images:
            return False
        self.store.left_out.append(f"{picture}: shows private images of {', '.join(private)}")
        return True


def read_material(inputs: Inputs, store: PictureStore, seed: int, private_images: bool) -> Material:
    """Read every input.

    Raises:
        UserError: an input is damaged.
    """
    runs = [summarise_run(path) for path in inputs.runs]
    by_folder = dict(zip((path.resolve() for path in inputs.runs), runs, strict=True))
    models = [(summarise_model(path), by_folder.get(path.resolve().parent)) for path in inputs.models]
    folders = [path for path in inputs.results if path.is_dir()]
    return Material(
        store=store,
        seed=seed,
        private_images=private_images,
        datasets=[summarise_dataset(path) for path in inputs.datasets],
        runs=_distinct(runs),
        models=[(model, compute_lines(model, run, Power())) for model, run in models],
        records=[record for path in inputs.results for record in load_results(path)],
        comparisons=[row for path in folders for row in load_comparisons(path)],
        results=folders,
        scalings=inputs.scalings,
    )


def _distinct(runs: list[RunSummary]) -> list[RunSummary]:
    """The runs, with a number after names that occur twice."""
    seen: dict[str, int] = {}
    named = []
    for run in runs:
        seen[run.name] = seen.get(run.name, 0) + 1
        named.append(run if seen[run.name] == 1 else replace(run, name=f"{run.name} ({seen[run.name]})"))
    return named
