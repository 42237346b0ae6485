"""`biovfm card`: the model card, written from what actually happened."""

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biovfm_hf.documents import read_yaml
from biovfm_hf.errors import UserError
from biovfm_hf.files import write_text
from biovfm_hf.markdown import plain
from biovfm_hf.options import argument, check_options, option, parse_options

from .. import formats
from ..inputs.compute import Power, compute_lines, energy_kwh
from ..inputs.dataset import DatasetSummary, summarise_dataset
from ..inputs.hub_names import check_hub_names
from ..inputs.leakage import MAX_OVERLAPS, leakage_lines
from ..inputs.model import ModelSummary, summarise_model
from ..inputs.results import (
    Interval,
    Record,
    load_results,
    metric_order,
    published_comparison,
    results_rows,
    way_words,
)
from ..inputs.run import RunSummary, group_of, summarise_run
from ..templating import template_environment
from .earlier import END, earlier_license, kept_text, written_text
from .figures import carry_figures
from .model_index import eval_results, leaderboard_yaml

EPILOG = """examples:
  biovfm card run/model --results results --run run --dataset data
  biovfm card run/model --results results --repo-id you/biovfm-tiny --license apache-2.0
  biovfm card run/model --results results --run run --watts 700 --grid 380
"""


@dataclass(frozen=True)
class CardInputs:
    """Everything a card is written from; None or empty is said in the card as not recorded."""

    model: ModelSummary
    model_id: str
    name: str
    records: list[Record]
    run: RunSummary | None
    dataset: DatasetSummary | None
    dataset_ids: list[str]
    license: str
    power: Power
    pictures: list[dict[str, str]]


def records_of_model(records: list[Record], model: Path, known_as: str | None) -> list[Record]:
    """The records that belong to the model folder, by `known_as` or else by the folder's path or name.

    Raises:
        UserError: none do, or they are not all of the same weights. A card never takes over the numbers of another
            model.
    """
    if known_as is not None:
        mine = [record for record in records if record.model == known_as]
    else:
        mine = [record for record in records if _same_model(record.model, model)]
    revisions = {record.revision for record in mine}
    if len(revisions) > 1:
        raise UserError(
            f"{known_as or model}: the results are of several weights under this name "
            f"({', '.join(sorted(revisions))}); probe it again into a folder of its own"
        )
    if mine:
        return mine
    names = ", ".join(sorted({record.model for record in records})[:8])
    raise UserError(
        f"{known_as or model}: the results hold no record of this model, only of: {names}; "
        "probe this model, or name its record with --known-as"
    )


def _same_model(name: str, model: Path) -> bool:
    if Path(name).resolve() == model.resolve():
        return True
    wanted = model.resolve().parts
    parts = Path(name).parts
    return bool(parts) and not Path(name).is_absolute() and parts == wanted[-len(parts) :]


def card_metadata(inputs: CardInputs) -> Any:
    """The card's YAML block: licence, library, pipeline, tags, datasets, emissions and the model-index."""
    from huggingface_hub import ModelCardData

    extra: dict[str, Any] = {}
    energy = energy_kwh(inputs.run, inputs.power)
    if energy is not None and inputs.power.grams_per_kwh is not None:
        extra["co2_eq_emissions"] = {
            "emissions": round(energy * inputs.power.grams_per_kwh, 3),
            "source": "estimate: logged time, stated power draw and grid intensity",
            "training_type": "pre-training",
        }
    recipe = str(inputs.model.config.get("initialization") or "")
    return ModelCardData(
        license=inputs.license,
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=[
            "biovfm",
            "medical",
            "biomedical-imaging",
            "self-supervised-learning",
            "vit",
            *([recipe] if recipe else []),
        ],
        datasets=inputs.dataset_ids or None,
        model_name=inputs.name,
        eval_results=eval_results(inputs.records) or None,
        **extra,
    )


def render_card(inputs: CardInputs) -> str:
    """The whole README.md text: YAML block and Markdown body, checked by `check_card`."""
    import yaml

    run, dataset = inputs.run, inputs.dataset
    final = run.final if run is not None else {}
    config = (
        yaml.safe_dump(without_paths(run.config), sort_keys=False, allow_unicode=True).strip()
        if run and run.config
        else ""
    )
    body = _rendered(
        "card.md.j2",
        name=inputs.name,
        model=inputs.model,
        model_id=inputs.model_id,
        description=_description(inputs),
        image_size=plain(inputs.model.config.get("image_size", "not stated")),
        first_patch=1 + int(inputs.model.config.get("num_register_tokens") or 0),
        run=run,
        dataset=dataset,
        dataset_ids=inputs.dataset_ids,
        sources=_by_count(dataset.sources) if dataset else [],
        cells=_by_count(dataset.cells) if dataset else [],
        outcomes=_by_count(dataset.outcomes or {})[:30] if dataset else [],
        leakage=leakage_lines(dataset.leakage) if dataset else [],
        overlaps=dataset.leakage.overlaps[:MAX_OVERLAPS] if dataset and dataset.leakage else [],
        final_losses=[(name, value) for name, value in final.items() if group_of(name) == "loss"],
        final_watch=[(name, value) for name, value in final.items() if group_of(name) == "watch"],
        config_yaml=config.replace("```", "'''"),
        compute=compute_lines(inputs.model, run, inputs.power),
        pictures=inputs.pictures,
        **_results_context(inputs.records),
    )
    text = f"---\n{card_metadata(inputs).to_yaml()}\n---\n\n{body.strip()}\n\n{END}\n"
    check_card(text)
    return text


def render_results(records: list[Record], name: str) -> str:
    """The card's part on results alone: one model's records, as `render_card` writes them under the title `name`."""
    return _rendered("results.md.j2", name=name, **_results_context(records))


def _results_context(records: list[Record]) -> dict[str, Any]:
    mean, table, why_not = published_comparison(records)
    measured = [entry for record in records for entry in record.metrics.values()]
    return {
        "tables": _result_tables(records),
        "few_shot": any(record.is_few_shot for record in records),
        "all_intervals": all(entry.low is not None for entry in measured),
        "mean": mean,
        "table": table,
        "why_not": why_not,
    }


def _rendered(template: str, **context: Any) -> str:
    environment = template_environment(md=plain, interval=formats.interval, code=_code, percent=_percent)
    text = environment.get_template(template).render(**context)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text))


def check_card(text: str) -> None:
    """Read `text` back with huggingface_hub's own parser: metadata must parse and every result must survive.

    Raises:
        UserError: the text is not a valid card.
    """
    from huggingface_hub import ModelCard

    try:
        card = ModelCard(text)
        again = ModelCard(f"---\n{card.data.to_yaml()}\n---\n")
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"README.md: huggingface_hub does not accept this card ({error}); mend its YAML block"
        ) from error
    if not card.data.get("license"):
        raise UserError("README.md: states no license; add one to its YAML block, or write the card with: biovfm card")
    if card.data.get("eval_results") != again.data.get("eval_results"):
        raise UserError("README.md: the card's results do not survive reading and writing; write it anew: biovfm card")


def _description(inputs: CardInputs) -> str:
    model, run = inputs.model, inputs.run
    text = f"A vision transformer for biomedical images with {formats.short_count(model.parameters)} parameters"
    if run is None:
        return f"{text}, of the {plain(model.family)} family."
    text += f", pretrained with the {plain(model.family)} recipe"
    seen = f" on {formats.count(run.images)} images seen" if run.images else ""
    return f"{text} for {formats.count(run.steps)} steps{seen}, without labels."


def without_paths(value: Any) -> Any:
    """`value` with every absolute path shortened to its last part: a published card names no folder of a machine."""
    if isinstance(value, dict):
        return {key: without_paths(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_paths(entry) for entry in value]
    if isinstance(value, str) and (value.startswith(("/", "~")) or re.match(r"[A-Za-z]:[\\/]", value)):
        return re.split(r"[\\/]", value.rstrip("/\\"))[-1]
    return value


def _by_count(counts: dict[Any, int]) -> list[tuple[Any, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))


def _code(value: object) -> str:
    return " ".join(str(value).replace("`", "'").replace("|", "/").split())[:200]


def _percent(entry: Interval | list[float]) -> str:
    value, low, high = (entry.value, entry.low, entry.high) if isinstance(entry, Interval) else entry
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _result_tables(records: list[Record]) -> list[dict[str, Any]]:
    """Classification and segmentation apart, since they have no metric in common."""
    tables = []
    for title, wanted in (("Classification", False), ("Segmentation", True)):
        chosen = [record for record in records if record.method.startswith("segment") == wanted]
        if chosen:
            rows = list(zip(chosen, _telling_ways(chosen), strict=True))
            tables.append({"title": title, "rows": rows, "metrics": metric_order(chosen)[:6]})
    return tables


def _telling_ways(records: list[Record]) -> list[str]:
    """Settings and seed of each record, in words, where those of the same method and protocol, or seeds, differ."""
    ways = {(record.method, record.protocol, record.settings) for record in records}
    several = len(ways) > len({(method, protocol) for method, protocol, _ in ways})
    seeds = len({record.seed for record in records}) > 1
    return [way_words("", record.settings if several else "", str(record.seed) if seeds else "") for record in records]


@dataclass(frozen=True)
class CardOptions:
    """What a model card is written from. What is not given is said in the card to be not recorded."""

    model_dir: Path = argument("folder with config.json and model.safetensors", metavar="MODEL_DIR")
    results: Path | None = option(None, "folder with results.json (biovfm probe --out)", metavar="DIR")
    run: Path | None = option(None, "training run (config.yaml, metrics.jsonl)", metavar="RUN_DIR")
    dataset: Path | None = option(None, "dataset folder it was trained on", metavar="DATASET_DIR")
    repo_id: str | None = option(None, "the name on the Hub, for title and usage lines", metavar="OWNER/NAME")
    dataset_id: tuple[str, ...] = option((), "dataset on the Hub; may be given several times", metavar="OWNER/NAME")
    known_as: str | None = option(None, "the model's name in the results, if not its folder", metavar="NAME")
    benchmark: str | None = option(
        None, "also write .eval_results for this leaderboard on the Hub", metavar="OWNER/NAME"
    )
    license: str | None = option(None, "licence id (default: the old card's, else apache-2.0)", metavar="ID")
    watts: float | None = option(
        None, "mean power draw of all devices in watts, for the energy estimate", above=0, metavar="W"
    )
    grid: float | None = option(None, "grams of CO2e per kWh, for the emissions estimate", above=0, metavar="G")

    def __post_init__(self) -> None:
        check_options(self)
        for name, needed in (("benchmark", "results"), ("watts", "run"), ("grid", "watts")):
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise UserError(f"{name}: says nothing without {needed}; give both")
        check_hub_names([name for name in [self.repo_id, *self.dataset_id] if name])
        check_hub_names([self.benchmark] if self.benchmark else [], owner=True)


@dataclass(frozen=True)
class WrittenCard:
    """A card that was written: its file, and how many results and pictures it shows."""

    path: Path
    results: int
    pictures: int
    notes: tuple[str, ...] = ()


def card(options: CardOptions) -> WrittenCard:
    """Write the model folder's README.md, and its results in machine-readable form beside it.

    Raises:
        UserError: a folder is not of the kind that its option asks for, or the results are of another model.
    """
    model_dir = options.model_dir
    readme = model_dir / "README.md"
    model = summarise_model(model_dir)
    records = load_results(options.results) if options.results else []
    mine = records_of_model(records, model_dir, options.known_as) if records else []
    others = {record.model for record in records} - {record.model for record in mine}
    inputs = CardInputs(
        model=model,
        model_id=options.repo_id or model_dir.resolve().name,
        name=options.repo_id or model.name,
        records=mine,
        run=_run(options.run, model_dir),
        dataset=summarise_dataset(options.dataset) if options.dataset else None,
        dataset_ids=list(options.dataset_id),
        license=(earlier_license(readme) if options.license is None else options.license) or "apache-2.0",
        power=Power(options.watts, options.grid),
        pictures=carry_figures(options.results, model_dir, others, written_text(readme)),
    )
    gone = not mine and (model_dir / "results" / "biovfm.json").is_file()
    kept = kept_text(readme)
    write_text(readme, render_card(inputs) + (f"\n{kept}\n" if kept else ""))
    _write_results(inputs, model_dir, options.benchmark)
    notes = ("the earlier card's scores and pictures go, since no results were given",) if gone else ()
    return WrittenCard(readme, len(inputs.records), len(inputs.pictures), notes)


def main(argv: list[str]) -> int:
    """`biovfm card`. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="biovfm card",
        description="Write MODEL_DIR/README.md, the model card, from what actually happened: the model's own config, "
        "the results file, the training run and the dataset folder. What is not given is said to be not recorded; no "
        "number is filled in. Text below the card's last line is kept when the card is written again.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    written = card(parse_options(parser, CardOptions, argv))
    for note in written.notes:
        print(f"note: {note}")
    print(f"{written.path}: {written.results} results, {written.pictures} pictures")
    return 0


def _write_results(inputs: CardInputs, model_dir: Path, benchmark: str | None) -> None:
    """Leave the card's records as a results file, and in the Hub's form for `benchmark`; earlier ones go."""
    results, board = model_dir / "results" / "biovfm.json", model_dir / ".eval_results" / "biovfm.yaml"
    for file in (results, board):
        file.unlink(missing_ok=True)
    if inputs.records:
        write_text(results, json.dumps(results_rows(inputs.records, inputs.model_id), indent=1) + "\n")
        if benchmark:
            write_text(board, leaderboard_yaml(inputs.records, benchmark))


def _run(folder: Path | None, model_dir: Path) -> RunSummary | None:
    if folder is None:
        return None
    if not (folder / "metrics.jsonl").is_file():
        raise UserError(
            f"{folder}: no metrics.jsonl, so no training run; give the --out folder of a pretraining script"
        )
    run = summarise_run(folder)
    settings = model_dir / "training_config.yaml"  # what a run leaves beside the weights
    method = read_yaml(settings).get("method") if settings.is_file() else None
    if method is not None and method != run.config.get("method"):
        said = run.config.get("method")
        raise UserError(
            f"{folder}: a run with method {said}, but {model_dir} was made with {method}; give its own run"
        )
    return run
