"""Gathers the facts of a model card from the folders that its options name."""

from dataclasses import dataclass
from pathlib import Path

from biovfm_hf.cards.provenance import Provenance, read_provenance
from biovfm_hf.errors import UserError
from biovfm_hf.reading.documents import read_yaml
from biovfm_hf.results.record import Record

from ..inputs.compute import Power
from ..inputs.dataset import DatasetSummary, summarise_dataset
from ..inputs.model import ModelSummary, summarise_model
from ..inputs.results import load_results
from ..inputs.run import RunSummary, summarise_run
from .base import BaseModel, find_bases
from .distillation import Distillation, find_distillation
from .earlier import earlier_license
from .figures import Figures, choose_figures
from .licence import Licence, derived_licence
from .options import CardOptions
from .records import matching_records


@dataclass(frozen=True)
class CardFacts:
    """All facts of a card; the card states those that are None or empty as not recorded.

    `bases` is None if the origin of the weights is not known, and empty if they began as random ones.
    """

    model: ModelSummary
    model_id: str
    name: str
    records: list[Record]
    run: RunSummary | None
    dataset: DatasetSummary | None
    dataset_ids: tuple[str, ...]
    bases: tuple[BaseModel, ...] | None
    distillation: Distillation | None
    licence: Licence
    power: Power
    figures: Figures
    provenance: Provenance


def gather(options: CardOptions) -> CardFacts:
    """Read every folder that the options name.

    Raises:
        UserError: a folder is not of the kind that its option needs, or the results are of another model.
    """
    folder = options.model_dir
    readme = folder / "README.md"
    model = summarise_model(folder)
    records = load_results(options.results) if options.results else []
    own_records = matching_records(records, folder, options.known_as) if records else []
    others = {record.model for record in records} - {record.model for record in own_records}
    run = _run(options.run, folder)
    dataset = summarise_dataset(options.dataset) if options.dataset else None
    bases = find_bases(folder, options.run, options.base_model)
    distillation = find_distillation(options, bases or (), own_records, records)
    stated = options.license or earlier_license(readme)
    figures = choose_figures(options.results, others, options.private_images)
    marks = read_provenance(folder)
    derived = derived_licence(bases or (), dataset, marks.licences)
    sources = marks.private_sources + (dataset.provenance.private_sources if dataset else ())
    return CardFacts(
        model=model,
        model_id=options.repo_id or folder.resolve().name,
        name=options.repo_id or model.name,
        records=own_records,
        run=run,
        dataset=dataset,
        dataset_ids=options.dataset_id,
        bases=bases,
        distillation=distillation,
        licence=Licence(stated) if stated and not marks.licences else derived,
        power=Power(options.watts, options.grid),
        figures=figures,
        provenance=Provenance(sources, licences=marks.licences) | Provenance(private_tasks=figures.private_tasks),
    )


def _run(folder: Path | None, model_dir: Path) -> RunSummary | None:
    if folder is None:
        return None
    if not (folder / "metrics.jsonl").is_file():
        raise UserError(
            f"{folder}: no metrics.jsonl, so no training run; give the --out folder of a pretraining script"
        )
    run = summarise_run(folder)
    settings = model_dir / "training_config.yaml"  # a run writes this beside the weights
    method = read_yaml(settings).get("method") if settings.is_file() else None
    if method is not None and method != run.config.get("method"):
        raise UserError(
            f"{folder}: a run with method {run.config.get('method')}, but {model_dir} was made with {method}; "
            "give its own run"
        )
    return run
