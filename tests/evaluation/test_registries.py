"""The registries: what every entry must have, and that one entry is all that a new kind of thing needs."""

import json
import re
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from biovfm_hf.errors import UserError
from biovfm_hf.options import option
from evaluation.commands import probe as command
from evaluation.commands.settings import SHARED
from evaluation.encoders.encoder import Encoder, to_square
from evaluation.encoders.families import FAMILIES, Family, name_forms, register_family
from evaluation.encoders.load import load_encoder
from evaluation.encoders.tokens import Encoded
from evaluation.probes.judging import judge
from evaluation.probes.probe import PROBES, Probe, Scores, probe_classes, register
from evaluation.statistics import detection, metrics
from evaluation.statistics.bootstrap import PROTOCOLS
from evaluation.tasks import SPLITS, Split, read_records
from evaluation.tasks.corruptions.benchmark import CORRUPTIONS, benchmarks
from evaluation.tasks.images import FileImages
from evaluation.tasks.layouts import known_layouts, layout
from model_cards.card.model_index import eval_results
from model_cards.card.render import render_results
from model_cards.inputs.results import load_comparisons, load_results
from model_cards.leaderboard.command import LeaderboardOptions, leaderboard
from model_cards.report.command import ReportOptions, report

FAST = ["--device", "cpu", "--resamples", "20", "--no-figures"]


def test_every_probe_has_a_name_a_title_kinds_and_settings_with_help():
    for (name, protocol, task), kind in probe_classes().items():
        assert kind.name == name and protocol in kind.protocols and kind.title and task in kind.kinds
        assert kind().identity.keys() <= {"version", *(item.name for item in fields(kind))}
        assert all(item.metadata["help"] for item in fields(kind))
        assert kind.few_shot == ("shots" in {item.name for item in fields(kind)})
    options = {item.name for item in fields(command.options_class())}
    declared = {item.name for kind in PROBES.values() for item in fields(kind) if item.init}
    assert declared <= options


@dataclass(frozen=True)
class Attentive(Probe):
    """A probe to be registered with a field that the tests add."""

    name: ClassVar[str] = "sample-attentive"
    title: ClassVar[str] = "attention over the tokens"
    protocols: ClassVar[tuple[str, ...]] = ("fast",)

    def run(self, trial):
        raise NotImplementedError


def register_with(*settings, method="sample-attentive", **attributes):
    """Register `Attentive` under the name of a method, with settings; the modules come last, in the names' order."""
    added = {"__module__": f"probes.{method}", "name": method, **attributes}
    register(make_dataclass("Sample", settings, bases=(Attentive,), frozen=True, namespace=added))


@pytest.mark.parametrize(
    ("name", "kind", "default"),
    [("size", int, option(224, "input size", least=1)), ("subject_column", str, option("", "whose"))],
)
def test_a_probe_cannot_take_the_name_of_an_option(registries, name, kind, default):
    register_with((name, kind, default))
    with pytest.raises(UserError, match=f"{name} of method sample-attentive .* already an option"):
        command.options_class()


def test_probes_agree_in_type_and_range_of_a_setting(registries):
    register_with(("sample_warmth", float, option(0.5, "softness", above=0)))
    register_with(("sample_warmth", int, option(3, "softness", least=1)), method="sample-second")
    with pytest.raises(
        UserError, match=r"float, above 0 for method sample-attentive .* and int, least 1 for sample-s"
    ):
        command.options_class()


@pytest.mark.parametrize(
    ("settings", "attributes", "gap"),
    [
        ([("strength", float, 2.0)], {}, "has no help text for its setting strength; declare it by option"),
        ([("strength", float, field(default=2.0, metadata={"help": ""}))], {}, "has no help text for its setting str"),
        ([], {"title": ""}, "has no title; set it in the class"),
        ([], {"name": ""}, "has no name; set it in the class"),
    ],
)
def test_an_incomplete_probe_is_refused_with_its_class_and_gap(registries, settings, attributes, gap):
    with pytest.raises(UserError, match=rf"probe Sample \(probes.sample-attentive\) {gap}"):
        register_with(*settings, **attributes)


def test_a_probe_whose_settings_are_not_fields_is_refused(registries):
    class Plain(Attentive):
        strength: float = option(2.0, "how strong")

    with pytest.raises(UserError, match=r"probe Plain .* is not a dataclass; write @dataclass"):
        register(Plain)


def test_the_help_text_has_the_defaults_of_the_probes(registries):
    def text_of(name):
        return {item.name: item.metadata["help"] for item in fields(command.options_class())}[name]

    defaults: dict[str, set] = {}
    for item in (item for kind in PROBES.values() for item in fields(kind) if item.init and item.default is not None):
        defaults.setdefault(item.name, set()).add(item.default)
    several = {name: values for name, values in defaults.items() if len(values) > 1 and name not in SHARED}
    assert "features" in several
    for name, values in several.items():
        assert {*map(str, values)} <= set(re.findall(r"[\w.]+", text_of(name).rpartition("(default: ")[2]))
    for method, value in (("sample-a", 0.5), ("sample-b", 0.07)):
        register_with(("sample_warmth", float, option(value, "softness")), method=method, protocols=PROTOCOLS)
    assert text_of("sample_warmth") == "softness (default: 0.5 for sample-a, 0.07 for sample-b)"
    register_with(("sample_warmth", float, option(0.07, "softness")), method="sample-c")
    assert text_of("sample_warmth") == "softness (default: 0.5 for sample-a, else 0.07)"
    assert re.search(r"\n  sample-a +attention over the tokens\n", command.build_parser().format_help())


def test_the_help_text_has_what_a_setting_means_for_each_probe(registries):
    def add(method, text):
        register_with(("sample_warmth", float, option(0.5, text)), method=method, protocols=PROTOCOLS)

    def meaning():
        return {item.name: item.metadata["help"] for item in fields(command.options_class())}["sample_warmth"]

    add("sample-b", "Sample-B: warmth of the votes")
    assert meaning() == "Sample-B: warmth of the votes (default: 0.5)"
    add("sample-a", "warmth of the prototypes")  # its module comes before the other's
    add("sample-c", "warmth of the prototypes")
    assert meaning() == ("sample-a, sample-c: warmth of the prototypes; Sample-B: warmth of the votes (default: 0.5)")


def test_every_metric_has_a_title_and_what_computes_it():
    entries = [*metrics.METRICS.values(), *metrics.MASK_METRICS.values(), *metrics.BOX_FIGURES.values()]
    assert all(entry.title for entry in entries)
    assert all(callable(entry.cases or entry.pooled) for entry in metrics.MASK_METRICS.values())
    assert set(metrics.BOX_FIGURES) <= set(detection.NAMES)


def test_a_new_metric_has_the_last_column_of_its_kind(registries):
    before = metrics.table_metrics()
    assert before[:5] == ["mcc", "balanced_accuracy", "f1_macro", "auc", "accuracy"]
    metrics.register(metrics.Metric("theirs", "Theirs", lambda weighted: weighted, column=True))
    place = before.index("dice")  # the first of another kind
    assert metrics.table_metrics() == [*before[:place], "theirs", *before[place:]]
    assert "accuracy" not in metrics.table_metrics(averaged=True)


def test_every_record_of_a_task_has_a_modality():
    assert [name for name, record in read_records().items() if not record.modality] == []


def test_every_corruption_has_a_kind_and_strengths_that_some_set_uses():
    used = {name for each in benchmarks().values() for name in each.strengths}
    assert used == set(CORRUPTIONS) and all(entry.kind and callable(entry.apply) for entry in CORRUPTIONS.values())
    for each in benchmarks().values():
        assert set(each.alexnet) == set(each.strengths) and each.name in read_records()
        assert all(len(strengths) == 5 for strengths in each.strengths.values())


def test_every_layout_of_a_record_has_a_reader():
    assert {record.layout for record in read_records().values()} <= known_layouts().keys()


def test_every_family_takes_its_prefix():
    assert [family.name for family in FAMILIES.values() if not family.prefix] == ["transformers"]
    assert all(callable(family.load) for family in FAMILIES.values())


def test_help_and_messages_say_what_names_every_family_takes():
    text = {item.name: item.metadata["help"] for item in fields(command.options_class())}["model"]
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for family in FAMILIES.values():
        assert family.rest and f", {family.form}" in f", {text}".replace("; ", ", ")
        assert f"`{family.prefix}" in page, f"docs/evaluation.md needs a sentence on `{family.prefix}`"
    with pytest.raises(UserError, match="no such folder") as error:
        load_encoder("dinov2x-b")
    assert name_forms() in str(error.value) and str(error.value).endswith("; did you mean dinov2-b?")


def test_the_form_of_a_new_familys_names_is_in_the_message(registries):
    register_family(Family("sample family", "sample:", "CELLS", load_pixels, needs="nothing"))
    with pytest.raises(UserError, match="sample:CELLS"):
        load_encoder("./nowhere")


@pytest.fixture
def registries():
    """Puts the registries back as they were."""
    kept = [(registry, dict(registry)) for registry in (probe_classes(), metrics.METRICS, FAMILIES, known_layouts())]
    yield
    for registry, entries in kept:
        registry.clear()
        registry.update(entries)


@pytest.fixture
def new_kinds(registries, tmp_path):
    """A probe, a metric, an encoder family and a layout, each by its one entry; the record of a task that uses it."""

    @register
    @dataclass(frozen=True)
    class Centroid(Probe):
        """The class whose mean feature is nearest."""

        name: ClassVar[str] = "sample-probe"
        title: ClassVar[str] = "the class of the nearest mean"
        sharpness: float = option(1.0, "sample-probe: how far scores lie from one another", above=0)

        def run(self, trial):
            problem = trial.problem("mean")
            truth = problem.targets("train")
            means = truth.T @ problem.features["train"] / truth.sum(0)[:, None]

            def scored(part):
                distance = ((problem.features[part][:, None] - means) ** 2).sum(2)
                return torch.from_numpy(-self.sharpness * distance).softmax(1).numpy()

            return judge(trial, Scores(scored("val"), scored("test"), {"sharpness": self.sharpness}))

    metrics.register(metrics.Metric("sample_column", "Further", lambda weighted: weighted.decided["mcc"], column=True))
    metrics.register(
        metrics.Metric(
            "sample_metric",
            "Error",
            squared_error,
            metrics.Needs.PROBABILITIES,
            compared=True,
            column=True,
            lower_is_better=True,
            hub="their_error",
        )
    )
    register_family(Family("sample family", "sample:", "CELLS", load_pixels, needs="nothing"))

    @layout("sample-layout")
    def read_halves(record, root):
        splits = {}
        for name in SPLITS:
            paths = sorted((root / name).rglob("*.png"))
            labels = np.array([int(path.parent.name == "class1") for path in paths])
            splits[name] = Split(FileImages(paths), labels=labels)
        return splits

    (tmp_path / "halves.yaml").write_text(
        "name: sample-task\ntitle: Stripes\nkind: binary-class\nmetric: sample_metric\nlayout: sample-layout\n"
        "modality: drawings\n"
        "classes: ['no', 'yes']\nsplits: given\nlicence: CC0\ncitation: none\noptions: {marker: train/class0}\n"
    )
    return tmp_path / "halves.yaml"


def squared_error(weighted):
    """Brier's score, on which models differ that decide alike."""
    return weighted.calibration["brier"]


def load_pixels(source):
    """A model whose tokens are the mean colours of a grid of cells."""
    side = int(source.removeprefix("sample:"))

    def read(module, pixels, blocks, reading):
        tokens = module(pixels).flatten(2).transpose(1, 2)
        return Encoded(tokens, tokens, (side, side))

    def preprocess(images):
        return to_square(images, 32, (0.0,) * 3, (1.0,) * 3)

    pool = torch.nn.AdaptiveAvgPool2d(side)
    return Encoder(source, f"pixels-{side}", pool, preprocess, "as they are", 32, (0.0,) * 3, (1.0,) * 3, read=read)


def test_a_new_probe_metric_family_and_layout_run_and_are_in_records_and_tables(new_kinds, tmp_path, class_folder):
    out = tmp_path / "results"
    words = ["--model", "sample:2", "--model", "sample:4", "--tasks", str(new_kinds), "--data", str(class_folder)]
    words += ["--out", str(out), "--method", "sample-probe,linear", *FAST]
    assert command.main([*words, "--sharpness", "0.5"]) == 0
    records = json.loads((out / "results.json").read_text())
    assert {(r["model"], r["method"], r["task"]) for r in records} == {
        (model, method, "sample-task") for model in ("sample:2", "sample:4") for method in ("sample-probe", "linear")
    }
    assert all(r["metrics"]["sample_metric"]["low"] is not None and r["primary"] == "sample_metric" for r in records)
    assert {r["modality"] for r in records} == {"drawings"}
    assert {r["settings"].get("sharpness") for r in records} == {0.5, None}
    table = (out / "table.md").read_text()
    assert all(r["titles"]["sample_metric"] == "Error" and r["titles"]["auc"] == "AUC" for r in records)
    assert "| Error |" in table and "sample-probe, protocol fast (precision fp32, sharpness 0.5)" in table
    rows = load_comparisons(out)
    assert {"sample_metric", "auc"} <= {row.metric for row in rows}
    assert {(row.title, row.lower_is_better) for row in rows if row.metric == "sample_metric"} == {("Error", True)}
    card = render_results(load_results(out), "pixels")
    assert re.search(r"\| MCC \| BA \| F1 \(positive class\) \| AUC \| Accuracy \|.* Further \|.* Error \|\n", card)
    named = {entry.metric_type for entry in eval_results(load_results(out))}
    assert {"their_error", "roc_auc", "matthews_correlation", "f1", "recall", "accuracy"} <= named
    report(ReportOptions((out,), tmp_path / "report.html"))
    assert "Error" in (tmp_path / "report.html").read_text()
    boards = leaderboard(LeaderboardOptions((str(out),), tmp_path / "board"))
    assert {board.title for board in boards} == {"Error"}
    for board in boards:
        first, last = (board.cells[model, "sample-task"].entry.score.value for model in board.models)
        assert first < last
    # another setting is another record: nothing of an earlier run is taken for it
    command.main([*words, "--sharpness", "2"])
    again = json.loads((out / "results.json").read_text())
    assert {r["settings"]["sharpness"] for r in again if r["method"] == "sample-probe"} == {0.5, 2.0}


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="a metric auc already"):
        metrics.register(metrics.Metric("auc", "AUC", squared_error))
    with pytest.raises(ValueError, match="a family timm"):
        register_family(Family("timm", "other:", "NAME", load_pixels))
    with pytest.raises(ValueError, match="a reader already"):
        layout("busi")(lambda record, root: {})
