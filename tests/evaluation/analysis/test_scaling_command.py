"""`biovfm scaling` end to end: the tables, the pictures and the messages."""

import csv
import functools
import json

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from biovfm_hf.errors import UserError
from biovfm_hf.results.published import FOLDER as PUBLISHED
from biovfm_hf.results.published import table1
from biovfm_hf.results.record import Record
from evaluation.analysis.scaling import analysis, figures, published
from evaluation.analysis.scaling.analysis import analyse_scaling
from evaluation.analysis.scaling.rows import slope_rows
from evaluation.analysis.scaling.tables import read_points
from evaluation.analysis.scaling_command import main
from evaluation.results.table import published_rows
from evaluation.tasks import GROUPS

SIZES = (31.2, 47.4, 111.66, 329.24)


@pytest.fixture
def write(tmp_path):
    def save(text, name="points.csv"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return save


@pytest.fixture
def undrawn(monkeypatch):
    """Skip the pictures in tests that look only at tables."""
    monkeypatch.setattr(figures, "write_figures", lambda *_: [])


@pytest.fixture
def unlimited(monkeypatch):
    """Skip the limits of scores in tests that do not look at them: their intervals take most of the time."""
    monkeypatch.setattr(analysis, "fit_saturating", lambda *_: None)


def published_points():
    """Scores that lie on the published power laws."""
    lines = ["family,params_millions,task,auc"]
    for family, slopes in published.slopes().items():
        lines += [f"{family},{x},{task},{60 * x**a:.8f}" for task, a in slopes.items() for x in SIZES]
    return "\n".join(lines)


@pytest.mark.usefixtures("unlimited")
def test_published_slopes_as_points_give_slopes_and_correlations(write, tmp_path, undrawn, capsys):
    out = tmp_path / "out"
    words = [str(write(published_points())), "--properties", str(PUBLISHED / "properties.csv"), "--out", str(out)]
    assert main(words) == 0
    found = json.loads((out / "summary.json").read_text())
    for family, slopes in published.slopes().items():
        assert found["slopes"][family] == pytest.approx(slopes, abs=1e-6)
    held = found["correlations"]
    assert held["BioVFM-D"] == pytest.approx({"num_samples": 0.51, "num_classes": 0.05}, abs=0.03)
    assert held["BioVFM-M"] == pytest.approx({"num_samples": 0.33, "num_classes": -0.24}, abs=0.03)
    assert set(found["mean_slopes"]) == {"BioVFM-D", "BioVFM-M"}
    assert "mean slope" in found["prediction"]["BioVFM-D"]["statement"]
    assert "cannot distinguish" in found["form"]["BioVFM-D"]
    rows = list(csv.DictReader((out / "slopes.csv").open()))
    assert len(rows) == 26
    assert {row["task"]: row["published"] for row in rows}["chestmnist"] == "0.0452"
    assert len(list(csv.DictReader((out / "correlations.csv").open()))) == 4
    assert "0.51" in capsys.readouterr().out


def test_slopes_that_are_fitted_already_give_the_same_correlations(tmp_path, undrawn):
    words = [str(PUBLISHED / "slopes.csv"), "--properties", str(PUBLISHED / "properties.csv"), "--out", str(tmp_path)]
    assert main(words) == 0
    found = json.loads((tmp_path / "summary.json").read_text())["correlations"]
    assert found["BioVFM-D"]["num_samples"] == pytest.approx(0.51, abs=0.01)


def scores(sizes, tasks, families=("BioVFM-D", "BioVFM-M"), column=""):
    """Points of a study whose scores differ by family, task and size."""
    lines = ["family,params_millions,task,auc" + (",subset" if column else "")]
    lines += [
        f"{family},{x},{task},{70 + f + i % 5 + (1 + i / 9) * np.log(x):.3f}{column}"
        for f, family in enumerate(families) for i, task in enumerate(sorted(tasks)) for x in sizes
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


ENCODERS, OWN = (5.53, 21.67, 85.82, 303.35), (1, 4, 16)
TWELVE = published.twelve()


@pytest.mark.usefixtures("unlimited")
@pytest.mark.parametrize(
    ("sizes", "tasks", "axis", "x", "slopes", "means", "notes"),
    [
        (SIZES, TWELVE, "given", SIZES, True, True, 0),
        (ENCODERS, TWELVE, "published", SIZES, True, True, 0),
        (ENCODERS, TWELVE, "given", ENCODERS, False, False, 1),
        (SIZES, TWELVE, "encoder", ENCODERS, False, False, 1),
        (OWN, TWELVE, "given", None, False, False, 2),
        (SIZES, sorted(TWELVE)[:7], "given", None, True, False, 2),
        (SIZES, TWELVE, "compute", (34.2, 96.1, 337, 1154), False, False, 1),
    ],
)
def test_published_numbers_stand_only_beside_those_of_their_axis_and_tasks(
    write, sizes, tasks, axis, x, slopes, means, notes
):
    """Published sizes once had the paper's x on every axis, and its mean of 12 tasks was shown with other means."""
    described = {"num_samples": {task: 100.0 + i for i, task in enumerate(sorted(tasks))}}
    found = analyse_scaling(read_points(write(scores(sizes, tasks))), described, axis)
    beside = found.published
    assert len(beside.notes) == notes, beside.notes
    assert bool(beside.correlations) == (slopes and means)
    assert beside.mean_curves.get("BioVFM-D", []) == (
        [(pytest.approx(at, rel=5e-3), y) for at, y in zip(x, (92.52, 94.2, 94.23, 94.93), strict=True)] if x else []
    )
    printed = {row["task"]: row["published"] for row in slope_rows(found) if row["family"] == "BioVFM-M"}
    assert printed["bloodmnist"] == (0.0037 if slopes else None)
    assert printed["mean"] == (0.0191 if means else None)
    axes = Figure().subplots()
    figures.draw_mean(axes, found, with_published=True)
    assert ("BioVFM-D, published" in axes.get_legend_handles_labels()[1]) == bool(x)


def test_notes_name_published_numbers_that_are_left_out(write, tmp_path, undrawn, capsys):
    words = [str(write(scores(OWN, "tuv"))), "--out", str(tmp_path)]
    assert main(words) == 0
    assert "published" not in capsys.readouterr().err
    assert main([*words, "--published"]) == 0
    said = capsys.readouterr().err
    assert "x is Parameters (millions)" in said and "means are left out: they are over the twelve" in said
    assert main([str(PUBLISHED / "slopes.csv"), "--out", str(tmp_path), "--published"]) == 0
    assert "a file of slopes does not state it" in capsys.readouterr().err


@pytest.mark.usefixtures("unlimited")
@pytest.mark.parametrize(("tasks", "best"), [(TWELVE, 94.42), (["BreastMNIST"], 92.75), (["t", "u"], None)])
def test_published_data_scaling_stands_beside_the_same_tasks(write, tasks, best):
    text = scores(OWN, tasks, column=",US") + scores(OWN, tasks, column=",CT").partition("\n")[2]
    found = analyse_scaling(read_points(write(text)), {})
    assert max(found.published.subsets.get("BioVFM-D", {"": None}).values(), default=None) == best
    alt = figures._subsets(found, with_published=True)[2]
    assert ("ViT-L, published" in alt) == (best is not None)


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    """Every picture of a study as a figure, laid out as it is saved; each study is drawn once."""

    @functools.cache
    def draw(text, properties=()):
        path = tmp_path_factory.mktemp("drawings") / "points.csv"
        path.write_text(text)
        described = {name: {task: 2.0 + i * k % 7 for i, task in enumerate(sorted(TWELVE))}
                     for k, name in enumerate(properties, 1)}  # fmt: skip
        drawn = {}
        with matplotlib.rc_context(figures.STYLE):
            for name, figure, _ in figures._drawings(
                analyse_scaling(read_points(path), described), with_published=True
            ):
                figure.draw_without_rendering()
                drawn[name] = figure
        return drawn

    return draw


PROPERTIES = ("num_samples", "num_classes", "dbi", "gzip", "entropy")


@pytest.mark.usefixtures("unlimited")
@pytest.mark.parametrize("count", [2, 9])
def test_legends_cover_no_data(drawings, count):
    names = ["BioVFM-D", "BioVFM-M", *(f"Another family {i}" for i in range(7))][:count]
    drawn = drawings(scores(SIZES, TWELVE, names), PROPERTIES)
    assert set(drawn) >= {"summary", "mean_scaling", "task_scaling", "slopes", "correlations", "predictions"}
    for name, figure in drawn.items():
        assert not any(axes.get_legend() for axes in figure.axes)
        boxes = [axes.get_tightbbox() for axes in figure.axes if axes.get_visible()]
        boxes += [text.get_window_extent() for text in (figure._supxlabel, figure._supylabel) if text]
        for legend in figure.legends:
            box = legend.get_window_extent()
            assert not any(box.overlaps(other) for other in boxes), name
            assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0, name


@pytest.mark.usefixtures("unlimited")
def test_twelve_families_have_colours_of_their_own(write):
    """Slopes above the panels differ only in colour; after seven the colours were repeated."""
    found = analyse_scaling(read_points(write(scores(SIZES, "t", [f"f{i:02}" for i in range(22)]))), {})
    looks = [figures._look(found, series) for series in found.slopes]
    assert len({colour for colour, _ in looks[:12]}) == len({marker for _, marker in looks[:12]}) == 12
    assert len(set(looks)) == 22


@pytest.mark.usefixtures("unlimited")
def test_published_numbers_have_the_look_of_their_family(drawings):
    drawn = drawings(scores(SIZES, TWELVE), PROPERTIES)
    for name in ("slopes", "correlations", "summary"):
        lines = [line for axes in drawn[name].axes for line in axes.lines]
        own, theirs = ({(line.get_label().removesuffix(", published"), line.get_color(), line.get_marker())
                        for line in lines if line.get_label().startswith("BioVFM") and line.get_label().endswith(end)}
                       for end in (("BioVFM-D", "BioVFM-M"), ", published"))  # fmt: skip
        assert own == theirs and len(own) == 2, name


@pytest.mark.usefixtures("unlimited")
def test_nine_families_look_different_and_have_all_their_slopes(drawings, write):
    text = scores(SIZES, "tu", [f"f{i}" for i in range(9)])
    found = analyse_scaling(read_points(write(text)), {})
    assert len({figures._look(found, series) for series in found.slopes}) == 9
    panel = drawings(text)["task_scaling"].axes[0]
    assert {words.get_text() for words in panel.texts} == {f"{a['t']:.4f}" for a in found.slopes.values()}


@pytest.mark.usefixtures("unlimited")
def test_published_slopes_lie_within_the_frame(drawings):
    """OctMNIST's .0692 was once outside the frame if a study's own slopes were small."""
    axes = drawings(scores(SIZES, TWELVE), PROPERTIES)["slopes"].axes[0]
    ticks = [line.get_xdata()[0] for line in axes.lines if line.get_label().endswith(", published")]
    assert max(ticks) == 0.0692 and len(ticks) == 24
    assert axes.get_xlim()[1] > 0.0692


def test_every_picture_comes_in_three_formats_with_a_description(write, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    lines = ["family,params_millions,task,auc,low,high,subset"]
    for family in ("A", "B"):
        for task in "uvwxyz":
            for x in (5, 20, 80):
                y = 80 + 3 * np.log(x) / 2 + rng.normal()
                lines.append(f"{family},{x},{task},{y:.3f},{y - 1:.3f},{y + 1:.3f},large")
    lines += [f"A,80,{task},{80 + rng.normal():.3f},,,small" for task in "uvwxyz"]
    tasks = ["task,num_samples,num_classes,dbi,gzip,entropy"]
    tasks += [
        f"{task},{100 * (i + 1)},{i % 3 + 2},{2 + i / 7},{0.5 + i / 20},{5 + i / 9}" for i, task in enumerate("UVWXYZ")
    ]
    words = [str(write("\n".join(lines))), "--properties", str(write("\n".join(tasks), "tasks.csv"))]
    assert main([*words, "--out", str(tmp_path / "out"), "--published"]) == 0
    names = {
        "summary",
        "mean_scaling",
        "task_scaling",
        "slopes",
        "correlations",
        "predictions",
        "gaps",
        "data_scaling",
    }
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} == names
    for name in names:
        for kind in ("png", "svg", "pdf"):
            assert (tmp_path / "out" / f"{name}.{kind}").stat().st_size > 2000
        assert len((tmp_path / "out" / f"{name}.txt").read_text()) > 30
    assert not list((tmp_path / "out").glob(".*"))
    assert names == set(figures.NAMES)
    monkeypatch.setattr(Figure, "savefig", lambda _, path, **__: path.touch())
    assert main([words[0], "--out", str(tmp_path / "out")]) == 0  # without properties, their pictures are removed
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} == names - {"correlations", "predictions"}


def test_long_names_stay_apart_in_the_printed_table(write, tmp_path, undrawn, capsys):
    family, task = "a-family-with-a-name-of-some-length", "a-task-with-a-name-of-some-length"
    rows = "".join(f"{family},{size},{task},{80 + size / 10}\n" for size in (5, 20, 60))
    assert main([str(write(HEAD + rows)), "--out", str(tmp_path)]) == 0
    assert f"{family}  {task} " in capsys.readouterr().out


def test_a_single_size_is_a_reference_beside_a_series_and_an_error_alone(write, tmp_path, undrawn, capsys):
    head = "family,params_millions,task,auc\n"
    both = head + "A,5,t,80\nA,20,t,85\nA,80,t,86\nCLIP,85.8,t,84\n"
    assert main([str(write(both)), "--out", str(tmp_path / "o")]) == 0
    assert "CLIP: one size only" in capsys.readouterr().err
    with pytest.raises(UserError, match="one model size only"):
        main([str(write(head + "A,5,t,80\nA,5,u,85\n")), "--out", str(tmp_path / "o")])


@pytest.mark.usefixtures("unlimited")
def test_a_reference_that_lacks_tasks_is_not_drawn_among_the_means(write, tmp_path):
    rows = "A,5,t,80\nA,20,t,85\nA,5,u,90\nA,20,u,91\nCLIP,86,t,60\nB,86,t,70\nB,86,u,80\n"
    found = analyse_scaling(read_points(write(HEAD + rows)), {})
    axes = Figure().subplots()
    figures.draw_mean(axes, found)
    assert {"CLIP", "B"} & set(axes.get_legend_handles_labels()[1]) == {"B"}
    assert any("CLIP" in note and "lacks 1 of 2 tasks" in note for note in found.notes)


def test_a_task_with_a_missing_size_is_noted_and_left_out_of_the_mean(write, tmp_path, undrawn, capsys):
    text = "family,params_millions,task,auc\nA,5,t,80\nA,20,t,85\nA,80,t,90\nA,5,u,10\nA,80,u,20\n"
    assert main([str(write(text)), "--out", str(tmp_path)]) == 0
    assert "A lacks u at 20" in capsys.readouterr().err
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["mean_slopes"]["A"] == pytest.approx(found["slopes"]["A"]["t"])


def test_gaps_pair_sizes_that_differ_by_a_few_parameters(write, tmp_path, undrawn):
    text = "family,params_millions,task,auc\nA,5,t,80\nA,20,t,85\nB,5.04,t,79\nB,30,t,90\n"
    assert main([str(write(text)), "--out", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "gaps.csv").open()))
    assert [(row["x"], row["gap"]) for row in rows] == [("5", "1")]


@pytest.mark.usefixtures("unlimited")
def test_the_picture_of_gaps_has_every_two_families(write, monkeypatch):
    rows = "".join(f"{family},{size},t,{80 + size / 10 + number}\n"
                   for number, family in enumerate("ABC") for size in (5, 20))  # fmt: skip
    found = analyse_scaling(read_points(write(HEAD + rows)), {})
    _, figure, text = figures._gaps(found)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["A\nminus B", "A\nminus C", "B\nminus C"]
    assert "A minus B -1.00; A minus C -2.00; B minus C -1.00." in text
    monkeypatch.setattr(figures, "MAX_GAP_PANELS", 2)
    assert "1 further pairs are in gaps.csv." in figures._gaps(found)[2]


HEAD = "family,params_millions,task,auc\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "A,5,t,80\nA,20,t,\n", "line 3: auc is empty"),
        (HEAD + "A,5,t,80\n,20,t,81\n", "line 3: family is empty"),
        (HEAD + "A,5,t,0\n", "line 2: auc is 0; it must be above 0"),
        (HEAD + "A,5,t,-3\n", "must be above 0"),
        (HEAD + "A,-5,t,80\n", "params_millions is -5"),
        (HEAD + "A,5,t,eighty\n", "not a number"),
        (HEAD + "A,5,t,nan\n", "must be finite"),
        (HEAD + "A,5,t,80\nA,5,t,81\n", "lines 2 and 3 give A at 5 M on t twice"),
        (HEAD + "A,5,t\n", "fewer cells"),
        (HEAD + "A,5,t,80,9\n", "more cells"),
        ("family,params_millions,task,auc,colour\nA,5,t,80,red\n", "unknown column colour"),
        ("family,params_millions,task\nA,5,t\n", "lacks the column auc"),
        ("family,params_millions,task,auc,auc\nA,5,t,80,80\n", "twice in the header"),
        ("family,params_millions,task,auc,low,high\nA,5,t,80,81,82\n", "outside its interval"),
        (HEAD, "no rows"),
        ("", "no rows|lacks"),
        ("family,task,slope\nA,t,0.1\nA,t,0.2\n", "given twice"),
        (HEAD + "A,5,t,80\nA,20,t,0.93\n", "line 3: auc is 0.93; give AUC in percent, 93 for this one"),
        (HEAD + "A,5,t,1\n", "line 2: auc is 1; give AUC in percent, 100"),
        (HEAD + "A,5,t,80\nA,20,t,100.1\n", "line 3: auc is 100.1; AUC is in percent and at most 100"),
        (HEAD + "A,5,t,1e308\n", "at most 100"),
        (HEAD + "A,5,t,80\nA,5,Mean,81\n", "line 3: the task is called Mean"),
        ("family,task,slope\nA,mean,0.1\n", "line 2: the task is called mean"),
        (HEAD.replace(",", ";") + "A;5;t;80,5\n", "separated by semicolons; separate them by commas"),
        (HEAD.replace(",", "\t") + "A\t5\tt\t80\n", "separated by tabs"),
    ],
)
def test_unfit_points_get_a_clear_message(write, tmp_path, text, words):
    path = write(text)
    with pytest.raises(UserError, match=words) as caught:
        main([str(path), "--out", str(tmp_path / "out")])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("task,num_samples\nt,10\nt,12\n", "both describe t"),
        ("task,num_samples,dbi\nt,10,1\nu,12,\n", "dbi is missing for u"),
        ("task,num_samples\nt,0\n", "above 0"),
        ("task,size\nt,10\n", "unknown column size"),
        ("task,num_samples\nt,\n", "describes no property"),
    ],
)
def test_unfit_properties_get_a_clear_message(write, tmp_path, text, words):
    points = write(HEAD + "A,5,t,80\nA,20,t,81\n")
    with pytest.raises(UserError, match=words):
        main([str(points), "--properties", str(write(text, "tasks.csv")), "--out", str(tmp_path)])


def test_files_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00\x80" * 50)
    with pytest.raises(UserError, match="not a readable CSV"):
        main([str(tmp_path / "x.csv"), "--out", str(tmp_path)])
    with pytest.raises(UserError, match="no such file"):
        main([str(tmp_path / "y.csv"), "--out", str(tmp_path)])


def test_empty_property_columns_are_left_out(write, tmp_path, undrawn):
    points = write(HEAD + "".join(f"A,{x},{t},{80 + x / 9 + ord(t) % 5}\n" for x in (5, 20, 80) for t in "rstuv"))
    tasks = write("task,num_samples,num_classes,dbi,gzip\n" + "".join(f"{t},{ord(t)},2,,\n" for t in "rstuv"), "t.csv")
    assert main([str(points), "--properties", str(tasks), "--out", str(tmp_path)]) == 0
    held = json.loads((tmp_path / "summary.json").read_text())["correlations"]["A"]
    assert set(held) == {"num_samples", "num_classes"}
    assert held["num_classes"] is None


def test_sizes_are_listed(capsys):
    assert main(["sizes"]) == 0
    written = capsys.readouterr().out
    head, *rows = written.splitlines()
    assert "329.24" in written and "DINOv2 GFLOP/img" in head and "MAE GFLOP/img" in head
    assert {len(row) for row in rows} == {len(head)} and "vit-small-plus" in written


def test_published_tables_are_whole():
    assert len(table1()["rows"]) == 6
    for row in table1()["rows"]:
        for value, low, high in (row[name] for name in table1()["metrics"]):
            assert low < value < high
    probe = Record("", "", "", method="linear", protocol="biovfm")
    assert published_rows(probe, GROUPS["medmnist"], ["auc"])["BioVFM (published)"] == {
        "auc": {"value": 0.944, "low": 0.939, "high": 0.9484}
    }
    assert published.mean_slopes() == {"BioVFM-D": 0.0088, "BioVFM-M": 0.0191}
    assert published.mean_curves()["BioVFM-D"][-1] == (329.24, 94.93)
    for family, slope in published.mean_slopes().items():
        x, y = np.log(np.array(published.mean_curves()[family])).T
        assert np.polyfit(x, y, 1)[0] == pytest.approx(slope, abs=3e-4)


def test_points_of_any_metric_from_0_to_1(tmp_path):
    lines = ["family,params_millions,task,metric,score,low,high"]
    lines += [f"D,{size},vessels,Dice,{0.4 * size**0.05:.6f},0.3,0.9" for size in (5, 20, 80, 300)]
    points = tmp_path / "points.csv"
    points.write_text("\n".join(lines))
    assert main([str(points), "--out", str(tmp_path / "out"), "--published"]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["metric"] == "Dice" and summary["slopes"]["D"]["vessels"] == pytest.approx(0.05, abs=1e-4)
    (row,) = [r for r in csv.DictReader((tmp_path / "out" / "slopes.csv").open()) if r["task"] == "vessels"]
    assert float(row["logit_a"]) > 0.05 and row["limit"] and not row["published"]
    assert "Dice against model size" in (tmp_path / "out" / "task_scaling.txt").read_text()
    points.write_text("\n".join([lines[0], "D,5,vessels,Dice,40,,"]))
    with pytest.raises(UserError, match="a score is from 0 to 1"):
        main([str(points), "--out", str(tmp_path / "out")])
