"""The front door: the commands of `biovfm`, and each as a function of `biovfm_hf` with the options as its keywords.

`biovfm_hf.build(raw="raw", out="dataset")` does what `biovfm build --raw raw --out dataset` does. A function's
signature and docstring come from its command's options dataclass; the room behind it loads on first use.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from textwrap import fill, indent
from typing import TYPE_CHECKING, Any, get_type_hints

from .rooms import load_room_module, packages_named

if TYPE_CHECKING:
    from .cards.provenance import Provenance


@dataclasses.dataclass(frozen=True)
class Entry:
    """A command of `biovfm`, a function of `biovfm_hf`, or both, as most are.

    Attributes:
        module: where it is. That of a command has `main(argv) -> int` with a parser of its own.
        summary: what the command does, for `biovfm --help`; "" if there is only the function.
        function: its name in the module; "" if there is only the command.
        options: options dataclass of the function, in the same module; "" if it takes plain arguments.
        example: of the function's use. The examples build on each other, beginning in an empty folder.
    """

    module: str
    summary: str
    function: str = ""
    options: str = ""
    example: str = ""


# in the order of `biovfm --help`
ENTRIES = {
    "quickstart": Entry("biovfm_hf.quickstart.command", "run the whole pipeline on real images, on a CPU, in minutes"),
    "sources": Entry("dataset_builder.sources_command", "list, show, status and download of the 61 public sources"),
    "build": Entry(
        "dataset_builder.build",
        "turn raw sources into a screened Parquet dataset",
        "run",
        "BuildOptions",
        """\
Pictures of your own, and a record that describes them. With `workers=0` all is done in this process; a program that
takes more calls `build` below `if __name__ == "__main__":`, as their processes import it.

>>> from pathlib import Path
>>> import numpy as np
>>> from PIL import Image
>>> folder = Path("raw/scans")
>>> folder.mkdir(parents=True)
>>> random = np.random.default_rng(0)
>>> for number in range(24):
...     coarse = Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8))
...     coarse.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number:02}.png")
>>> lines = ["id: scans", "name: Scans", "modality: Ultrasound", "anatomies: [eye]", "items: ['*.png']", "train: all"]
>>> _ = Path("scans.yaml").write_text("\\n".join([*lines, "access: open"]))  # left out, it would be private

>>> import biovfm_hf
>>> summary = biovfm_hf.build(raw="raw", out="dataset", sources="scans.yaml", size=32, workers=0)
listing the sources below raw
...
24 considered, 24 kept, in dataset
...
next: load_dataset("dataset", "full", split="train")
>>> summary["kept"]
24""",
    ),
    "pretrain": Entry(
        "training.command",
        "pretrain a vision transformer on unlabelled images, in one process",
        "pretrain",
        "",
        """\
>>> import biovfm_hf
>>> changes = {"steps": 2, "batch.size": 4, "data.workers": 0}
>>> biovfm_hf.pretrain("mae_smoke", data="dataset", out="run", overrides=changes).as_posix()
'run/model'
>>> from transformers import AutoModel
>>> AutoModel.from_pretrained("run/model").config.model_type
'biovfm'""",
    ),
    "load_encoder": Entry(
        "evaluation.encoders.load",
        "",
        "load_encoder",
        "",
        """\
>>> import biovfm_hf
>>> encoder = biovfm_hf.load_encoder("run/model")
>>> encoder.name, encoder.size
('run/model', 96)""",
    ),
    "convert": Entry(
        "biovfm_hf.conversion.command",
        "read DINOv2, DINOv3, MAE, timm or transformers weights, and write them back",
        "convert",
        "ConvertOptions",
        """\
>>> import biovfm_hf
>>> converted = biovfm_hf.convert("run/model", to="theirs", format="vit_mae")
>>> AutoModel.from_pretrained("theirs").config.model_type
'vit_mae'""",
    ),
    "embed": Entry(
        "evaluation.commands.embed",
        "turn images into a Parquet file of feature vectors",
        "embed",
        "EmbedOptions",
        """\
>>> import biovfm_hf
>>> features = biovfm_hf.embed(model="run/model", images="raw/scans", out="features.parquet")
>>> len(features.names)
24""",
    ),
    "curate": Entry(
        "evaluation.analysis.curation.command",
        "choose images to pretrain on, balanced or like your own",
        "curate",
        "CurateOptions",
        """\
>>> import biovfm_hf
>>> report = biovfm_hf.curate("features.parquet", keep=12, out="curated", clusters=[4])
>>> len(Path("curated/selection.txt").read_text().splitlines())
12""",
    ),
    "search": Entry(
        "evaluation.commands.search",
        "find the images most like an example, with a contact sheet",
        "search",
        "SearchOptions",
        """\
>>> import biovfm_hf
>>> options = dict(model="run/model", features="features.parquet", out="alike", top=3)
>>> (answer,) = biovfm_hf.search(query="raw/scans/07.png", **options)
>>> answer["found"][0]["id"]
'07.png'""",
    ),
    "probe": Entry(
        "evaluation.commands.probe",
        "score encoders on benchmark tasks, with intervals",
        "probe",
        "ProbeOptions",
        """\
A task of your own is a CSV file. Here the label is whether the corner of the picture is bright.

>>> splits = ["train"] * 12 + ["val"] * 6 + ["test"] * 6
>>> lines = ["image,label,split"]
>>> for path, split in zip(sorted(folder.iterdir()), splits):
...     lines.append(f"{path.resolve()},{int(np.array(Image.open(path))[0, 0] > 127)},{split}")
>>> _ = Path("corners.csv").write_text("\\n".join(lines))

>>> import biovfm_hf
>>> options = dict(model="run/model", tasks="corners.csv", out="results", resamples=100, no_figures=True)
>>> (record,) = biovfm_hf.probe(method="knn", **options)
done  run/model  corners  knn  auc ...
>>> interval = record.intervals["auc"]
>>> interval.low <= interval.value <= interval.high
True
>>> record.n_test
6""",
    ),
    "score": Entry(
        "evaluation.commands.score",
        "metrics and intervals for scores that you already have",
        "score",
        "ScoreOptions",
        """\
>>> labels = np.arange(200) % 2
>>> scores = np.clip(labels + random.normal(0, 0.7, 200), 0, 1)
>>> np.savez("scores.npz", val_labels=labels, val_scores=scores, test_labels=labels, test_scores=scores)
>>> import biovfm_hf
>>> metrics = biovfm_hf.score("scores.npz", task="binary-class", resamples=200)["metrics"]
>>> metrics["auc"]["low"] < metrics["auc"]["value"] < metrics["auc"]["high"]
True""",
    ),
    "analyse": Entry(
        "evaluation.analysis.layers.command",
        "what each layer of a model holds, and how alike models are",
        "analyse",
        "AnalyseOptions",
        """\
>>> import biovfm_hf
>>> analysis = biovfm_hf.analyse("run/model", images="raw/scans", out="layers", resamples=20)
>>> Path("layers/layers.png").is_file()
True""",
    ),
    "scaling": Entry(
        "evaluation.analysis.scaling_command",
        "slopes, correlations and figures of a scaling study",
        "scaling",
        "ScalingOptions",
        """\
>>> rows = [f"{family},{size},x,{80 * size**slope}" for family, slope in [("A", 0.02), ("B", 0.01)]
...         for size in (5, 20, 80, 300)]
>>> _ = Path("points.csv").write_text("\\n".join(["family,params_millions,task,auc", *rows]))
>>> import biovfm_hf
>>> analysis = biovfm_hf.scaling("points.csv", out="scaling")
>>> Path("scaling/slopes.csv").is_file()
True""",
    ),
    "reproduce": Entry(
        "evaluation.reproduce.command",
        "the two papers' tables and figures, beside the printed numbers",
        "reproduce",
        "ReproduceOptions",
        """\
The radiology study's table of the encoders that it used needs neither data nor weights.

>>> import biovfm_hf
>>> (outcome,) = biovfm_hf.reproduce("radiology-table2", out="papers")
models:
...
radiology-table2: 13 of 13 made; papers/radiology-table2
>>> Path("papers/radiology-table2/table.md").is_file()
True""",
    ),
    "report": Entry(
        "model_cards.report.command",
        "one HTML page of data, training and results",
        "report",
        "ReportOptions",
        """\
>>> import biovfm_hf
>>> written = biovfm_hf.report(["dataset", "run"], out="report.html")
>>> Path("report.html").is_file()
True""",
    ),
    "leaderboard": Entry(
        "model_cards.leaderboard.command",
        "a page of models by tasks with real ranks; export a Space",
        "leaderboard",
        "LeaderboardOptions",
        """\
>>> import biovfm_hf
>>> boards = biovfm_hf.leaderboard("results", out="board", export="space")
>>> Path("board/index.html").is_file()
True""",
    ),
    "card": Entry(
        "model_cards.card.command",
        "write the model card from what actually happened",
        "card",
        "CardOptions",
        """\
>>> import biovfm_hf
>>> written = biovfm_hf.card("run/model", run="run", dataset="dataset")
>>> Path("run/model/README.md").read_text().startswith("---")
True""",
    ),
    "push": Entry(
        "model_cards.hub.command",
        "send a model or dataset folder to the Hub",
        "push",
        "PushOptions",
        """\
>>> import biovfm_hf
>>> pushed = biovfm_hf.push("run/model", "owner/my-model")
>>> pushed.private
True""",
    ),
    "demo": Entry("model_cards.demo.command", "try a model on images in the browser; export a Space"),
}
COMMANDS = {name: entry for name, entry in ENTRIES.items() if entry.summary}
FUNCTIONS = {name: entry for name, entry in ENTRIES.items() if entry.function}


def open_door(name: str) -> Callable[..., Any]:
    """The function `name` of the front door, with the signature and the docstring that its options give it.

    Raises:
        UserError: this installation lacks the room, or the room lacks a package.
    """
    entry = FUNCTIONS[name]
    with packages_named(entry.module):
        module = load_room_module(entry.module)
    function = getattr(module, entry.function)
    options = getattr(module, entry.options) if entry.options else None

    def call(*arguments: Any, **keywords: Any) -> Any:
        given = signature.bind(*arguments, **keywords)
        with packages_named(entry.module):
            return function(options(**given.arguments)) if options else function(*given.args, **given.kwargs)

    signature = _signature(function, options)
    call.__name__ = call.__qualname__ = name
    call.__module__ = str(__package__)
    call.__doc__ = _docstring(inspect.getdoc(function) or "", options, entry.example)
    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


def encoder_provenance(name: str) -> "Provenance":
    """The restrictions on work that builds on an encoder, by any name that `load_encoder` takes.

    Raises:
        UserError: this installation lacks the room, or the room lacks a package; or the encoder's files are damaged.
    """
    return _ask("evaluation.encoders.provenance", "encoder_provenance", name)


def check_encoder(name: str) -> None:
    """Refuse a name that `load_encoder` cannot take, as far as that is known without loading torch.

    Raises:
        UserError: this installation lacks the room, or the room lacks a package; or there is no such encoder.
    """
    _ask("evaluation.encoders.load", "check_encoder", name)


def counted_objectives() -> list[str]:
    """The objectives for which the size alone determines the operations of a step, from training's registry."""
    return _ask("training.recipes", "counted_objectives")


def objective_title(objective: str) -> str:
    """The title of one of training's objectives."""
    return _ask("training.recipes", "objective_title", objective)


def overridden_config(config: str, overrides: Mapping[str, Any]) -> str:
    """The text of a config file for `biovfm pretrain` that holds a config with overrides in it, checked.

    Args:
        config: YAML file, or the name of a shipped one.
        overrides: config keys and values, as `{"optim.base_lr": 0.001}`.

    Raises:
        UserError: no such config, an unknown key, a wrong value or no weights to begin with; or this installation
            lacks the room, or the room lacks a package.
    """
    return _ask("training.config_file", "overridden_config", config, overrides)


def check_data(address: str) -> None:
    """Refuse an address of training data that is neither a path that exists nor has the form of a Hub id.

    Raises:
        UserError: there is nothing; or this installation lacks the room, or the room lacks a package.
    """
    _ask("training.data.files", "has_files", address)


def resolved_settings(config: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config for `biovfm pretrain` with overrides, those left at their defaults included.

    Args:
        config: YAML file, or the name of a shipped one.
        overrides: config keys and values, as `{"optim.base_lr": 0.001}`.

    Raises:
        UserError: no such config, an unknown key or a wrong value; or this installation lacks the room, or the room
            lacks a package.
    """
    return _ask("training.config_file", "resolved_settings", config, overrides)


def recipe_flops(objective: str, size: str) -> float:
    """Operations of one image in a step of an objective's recipe for a named size.

    Raises:
        UserError: the operations of that objective do not follow from the size; or this installation lacks the room,
            or the room lacks a package.
    """
    return _ask("training.recipes", "recipe_flops", objective, size)


def _ask(module: str, function: str, *arguments: Any) -> Any:
    """Call a function of another room; rooms may not import each other."""
    with packages_named(module):
        return getattr(load_room_module(module), function)(*arguments)


def _signature(function: Callable[..., Any], options: type | None) -> inspect.Signature:
    """The options' fields as parameters: a command's positional arguments may be positional here too."""
    own = inspect.signature(function, eval_str=True)
    if options is None:
        return own
    hints = get_type_hints(options)
    by_place = [field for field in dataclasses.fields(options) if field.metadata.get("positional")]
    by_name = [field for field in dataclasses.fields(options) if field not in by_place]
    kinds = [inspect.Parameter.POSITIONAL_OR_KEYWORD] * len(by_place) + [inspect.Parameter.KEYWORD_ONLY] * len(by_name)
    parameters = [
        inspect.Parameter(field.name, kind, default=_default(field), annotation=hints[field.name])
        for field, kind in zip([*by_place, *by_name], kinds, strict=True)
    ]
    return inspect.Signature(parameters, return_annotation=own.return_annotation)


def _default(field: "dataclasses.Field[Any]") -> Any:
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


def _docstring(text: str, options: type | None, example: str) -> str:
    """The function's docstring with the options' fields as arguments, and the example."""
    if options:
        text = re.sub(r"`options\.(\w+)`", r"`\1`", text)
        later = re.search(r"^(Returns|Raises):", text, flags=re.MULTILINE)
        head, tail = (text[: later.start()], text[later.start() :]) if later else (text, "")
        arguments = [
            fill(f"{field.name}: {field.metadata['help']}.", 110, initial_indent=" " * 4, subsequent_indent=" " * 8)
            for field in dataclasses.fields(options)
        ]
        text = "\n".join([head.rstrip(), "", "Args:", *arguments, "", tail]).rstrip()
    return f"{text}\n\nExamples:\n{indent(example, '    ')}\n"
