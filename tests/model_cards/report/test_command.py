"""The HTML report: one file, self-contained, escaped, accessible, whatever it was given."""

import base64
import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biovfm_hf.errors import UserError
from model_cards import formats
from model_cards.inputs import results
from model_cards.inputs.kinds import find_inputs
from model_cards.inputs.run import Series, summarise_run
from model_cards.report import charts, evaluation, figures
from model_cards.report import command as report
from model_cards.report.material import Material
from model_cards.report.pictures import PictureStore

VOID = {"meta", "img", "link", "br", "hr", "input", "wbr"}


class Page(HTMLParser):
    """Collects tags, and checks that they close in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.wrong, self.words = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="session")
def folders(make, tmp_path_factory, dataset_dir, run_dir):
    root = tmp_path_factory.mktemp("report")
    rows = make.rows("a/model", ["t1", "t2"]) + make.rows("timm/b", ["t1", "t2"], shift=-0.02)
    row = {
        "task": "t1",
        "method": "linear",
        "metric": "auc",
        "model_a": "a/model",
        "model_b": "timm/b",
        "difference": 0.02,
    }
    comparisons = [
        {**row, "low": 0.01, "high": 0.03, "p": 0.0004, "p_holm": 0.0008},
        {**row, "task": "t2", "low": -0.01, "high": 0.05, "p": 0.4, "p_holm": 0.4},
    ]
    return {
        "data": dataset_dir,
        "run": run_dir,
        "other": make.run(root / "run-mae", steps=200, seed=1),
        "results": make.results(root / "results", rows, comparisons),
        "scaling": make.scaling(root / "scaling"),
    }


def written(tmp_path, *inputs):
    out = tmp_path / "report.html"
    assert report.main([*map(str, inputs), "--out", str(out)]) == 0
    return out.read_text()


@pytest.fixture(scope="session")
def full(folders, saved_model, tmp_path_factory):
    return written(tmp_path_factory.mktemp("out"), *folders.values(), saved_model)


def test_every_section_follows_from_its_input(full, folders, tmp_path):
    ids = {attributes["id"] for attributes in Page(full).all("h2")}
    assert ids == {"findings", "dataset", "training", "model", "evaluation", "scaling"}
    alone = Page(written(tmp_path, folders["scaling"]))
    assert [attributes["id"] for attributes in alone.all("h2")] == ["scaling"]


def test_numbers_are_those_of_the_files(full):
    text = re.sub(r"<[^>]+>", " ", full)
    assert "90 images of 45 subjects from 3 sources" in text
    assert "nearly uniform" in text and "CC-BY-NC-4.0" in text
    assert "0.810" in text and "0.780 to 0.840" in text
    assert "+0.020" in text and "<td>a &gt; b</td>" in full and "no difference shown" in text
    assert "0.0224" in text and "0.0191" in text


def test_the_page_needs_nothing_but_itself(full):
    page = Page(full)
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.all("img"))
    assert "default-src 'none'" in full and "url(" not in full and "@import" not in full
    links = [attributes["href"] for attributes in page.all("a")]
    assert links and all(link.startswith("#") for link in links)
    assert len(full.encode()) < 10_000_000


def test_the_page_can_be_heard_and_tabbed(full):
    page = Page(full)
    assert page.wrong == [] and page.open == []
    assert page.all("html")[0]["lang"] == "en" and len(page.all("h1")) == 1 and page.all("main")
    assert all(attributes.get("scope") for attributes in page.all("th"))
    assert all(image.get("alt") for image in page.all("img"))
    assert all(svg.get("aria-hidden") == "true" or svg.get("aria-label") for svg in page.all("svg"))
    assert page.all("a")[0] == {"class": "skip", "href": "#content"}
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) and all(link["href"][1:] in ids for link in page.all("a"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    scrolling = [attributes for attributes in page.all("div") if "scroll" in attributes.get("class", "")]
    assert scrolling and all(d.get("tabindex") == "0" and d.get("aria-label") for d in scrolling)


def contrast(first, second):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_contrast(scheme):
    blocks = re.findall(r":root \{(.*?)\}", (report.TEMPLATES / "report.css").read_text(), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[scheme]))
    for name in ("ink", "soft", "link"):
        assert contrast(colours[name], colours["page"]) >= 4.5, name
    for index in range(charts.STYLES):
        assert contrast(colours[f"c{index}"], colours["page"]) >= 3, index


def test_hostile_names_stay_text(make, tmp_path):
    nasty = "\"><script>alert(1)</script><img src=x onerror=y>'{{7*7}}"
    data = make.dataset(tmp_path / "data", hostile=nasty.replace("/", ""))
    run = make.run(tmp_path / "run<b>", name=nasty)
    results = make.results(tmp_path / "results", make.rows(nasty, [nasty]))
    text = written(tmp_path, data, run, results)
    page = Page(text)
    assert page.wrong == [] and not page.all("script")
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert "{{7*7}}" in text or "{{7*7}}" in "".join(page.words)


def test_broken_and_huge_pictures_are_named_not_fatal(make, tmp_path):
    results = make.results(tmp_path / "results", make.rows("m", ["t"]))
    (results / "figures" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (results / "figures" / "bomb.png").write_bytes(png_header(60_000, 60_000))
    text = written(tmp_path, results)
    assert "broken.png: " in text and "bomb.png: " in text and len(Page(text).all("img")) == 1


def png_header(width, height):
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def test_ranks_roc_and_pca_come_first_and_what_is_not_shown_is_named(make, tmp_path, monkeypatch):
    results = make.results(tmp_path / "results", make.rows("m", ["t"]))
    for name in ("attention_m_t", "confusion_t", "roc_t", "ranks_t"):
        (results / "figures" / f"{name}.png").write_bytes(make.image(3, 40))
    monkeypatch.setattr(figures, "MAX_FIGURES", 3)
    text = written(tmp_path, results)
    assert re.findall("<figcaption>(.*?)</figcaption>", text) == [
        "Mean rank of each model over the tasks, with differences too small to count: t",
        "Patch tokens as colours; patches of one colour are similar to the model: map",
        "Share of cases found at each share of false alarms: t",
    ]
    paper = re.findall('<figure class="plate drawn ?([^"]*)">', text)
    assert [" ".join(words.split()) for words in paper] == ["paper", "", "paper"]  # dark only where no image is shown
    assert "attention_m_t.png: in the folder figures" in text and "confusion_t.png: in the folder figures" in text


def test_pictures_stop_at_the_budget(make):
    store = PictureStore(budget=3000)
    found = [store.add(make.image(shade, 200), f"picture {shade}", 200) for shade in range(1, 9)]
    shown = [picture for picture in found if picture]
    assert 0 < len(shown) < 8 and len(store.left_out) == 8 - len(shown)
    assert sum(len(picture.src) for picture in shown) <= 3000 + 60 * len(shown)
    assert base64.b64decode(shown[0].src.split(",")[1])[:4] == b"RIFF"


@pytest.mark.parametrize(
    ("log", "said"),
    [(b'{"step": 1}\nnonsense\n{"step": 2}\n', "line 2"), (b'{"a": "' + b"x" * 2**20 + b'"}\n', "longer than 1 MiB")],
)
def test_damaged_logs_are_refused(tmp_path, log, said):
    (tmp_path / "metrics.jsonl").write_bytes(log)
    with pytest.raises(UserError, match=said):
        summarise_run(tmp_path)


def test_a_torn_last_line_and_nan_do_not_hurt(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": NaN}\n{"step": 3, "lo')
    run = summarise_run(tmp_path)
    assert run.series["loss"].values == [2.5] and run.skipped_values == 1 and run.steps == 2
    assert "logged 1 value that is not a finite number" in written(tmp_path, tmp_path)


@pytest.mark.parametrize("text", ["a: &x [1]\nb: *x\n", "- 1\n", "a: [\n", "!!python/object/apply:os.system ['x']\n"])
def test_hostile_configs_are_refused(tmp_path, text):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1}\n')
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml"):
        summarise_run(tmp_path)


def test_a_long_log_stays_bounded():
    series = Series()
    for step in range(200_000):
        series.add(step, step * 2.0)
    assert len(series.steps) <= 65_536 and series.last == (199_999, 399_998.0)
    assert series.steps == sorted(series.steps) and all(
        v == 2 * s for s, v in zip(series.steps, series.values, strict=True)
    )


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=500))
def test_buckets_keep_extremes_and_draw_inside_the_box(points):
    line = charts.Line("x", [x for x, _ in points], [y for _, y in points])
    rows = charts.bucketed(line)
    assert len(rows) <= charts.BUCKETS
    assert min(row[2] for row in rows) == min(line.y) and max(row[3] for row in rows) == max(line.y)
    drawn = re.findall(
        r"[ML](-?[\d.]+) (-?[\d.]+)", re.findall(r'line s0" d="([^"]+)"', charts.line_chart("t", [line]))[0]
    )
    assert all(0 <= float(x) <= charts.WIDTH and 0 <= float(y) <= charts.HEIGHT for x, y in drawn)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_lie_inside_and_are_few(low, span):
    high = low + span
    found = charts.ticks(low, high)
    assert 1 <= len(found) <= 6
    assert all(low <= tick <= high for tick in found)


def test_ranks_share_ties_and_need_common_tasks(make, tmp_path):
    from model_cards.inputs.results import load_results

    def ranks(rows):
        return evaluation.mean_ranks(
            load_results(make.results(tmp_path / str(len(list(tmp_path.iterdir()))), rows)), "auc", names
        )

    names = {"a": "a", "b": "b", "c": "c"}
    three = make.rows("a", ["t", "u"], shift=0.1) + make.rows("b", ["t", "u"]) + make.rows("c", ["t", "u"])
    assert ranks(three) == [("a", 1.0, 2), ("b", 2.5, 2), ("c", 2.5, 2)]
    assert ranks(make.rows("a", ["t", "u"]) + make.rows("b", ["t"])) == []


def test_a_model_of_several_weights_has_no_rank(make, tmp_path):
    rows = [row for model in "abc" for row in make.rows(model, ["t", "u"])]
    rows[0]["revision"] = "trained on"
    held = results.load_results(make.results(tmp_path / "results", rows))
    assert {name for name, *_ in evaluation.mean_ranks(held, "auc", dict(zip("abc", "abc", strict=True)))} == {
        "b",
        "c",
    }


def test_settings_have_tables_of_their_own(make, tmp_path):
    """As `--features both`, then `--features class` in one folder: two tables, and differences that say of which."""
    held = {"both": 0.1, "class": 0.0}
    rows = [{**row, "settings": {"features": name}} for name, shift in held.items() for model in "ab"
            for row in make.rows(model, ["t", "u"], shift=shift * (model == "a"))]  # fmt: skip
    differing = dict(task="t", method="linear", protocol="fast", seed=0, metric="auc", model_a="a", model_b="b", p=0.2)
    differences = [{**differing, "settings": {"features": name}, "difference": shift} for name, shift in held.items()]
    text = written(tmp_path, make.results(tmp_path / "results", rows, differences))
    assert text.count("<h3>linear, fast protocol</h3>") == 2
    for name in held:
        assert f"Settings: features {name}." in text
        assert f'<span class="interval">fast protocol, features {name}, seed 0</span>' in text
    assert text.count("Mean rank by AUC over 2 tasks") == 2


def test_rows_say_their_seed_what_few_shot_ranges_are_and_why_there_is_no_p(make, tmp_path):
    few = {"method": "fewshot-4", "few_shot": True}
    rows = [{**row, **few, "seed": seed} for seed in (0, 1) for row in make.rows("a", ["t"])]
    common = dict(task="t", method="fewshot-4", protocol="fast", seed=0, metric="auc", model_a="a", model_b="b")
    difference = {**common, "settings": {}, "difference": 0.1, "p": None, "p_holm": None, "reason": "made before"}
    text = written(tmp_path, make.results(tmp_path / "results", rows, [difference]))
    assert all(f'a<span class="interval">seed {seed}</span></td>' in text for seed in (0, 1))
    assert "the ranges hold 95% of the draws" in text
    assert 'not tested<span class="interval">made before</span>' in text


def test_rows_left_out_are_counted_in_each_table(make, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "MAX_ROWS", 3)
    common = dict(task="t", method="linear", protocol="fast", seed=0, model_a="a", model_b="b", difference=0.1, p=0.2)
    rows = [{**common, "settings": {}, "metric": metric} for metric in ["auc"] * 2 + ["mcc"] * 2]
    folder = make.results(tmp_path / "results", make.rows("a", ["t"]), rows)
    held, records = results.load_comparisons(folder), results.load_results(folder)
    material = Material(PictureStore(0), records=records, comparisons=held)
    assert evaluation.evaluation_section(material)["comparisons_left_out"] == 0


def test_short_names_distinguish_models():
    assert evaluation.shortened(["out/dino/model", "out/mae/model"]) == ["dino", "mae"]
    assert evaluation.shortened(["timm/vit", "run/model"]) == ["vit", "run"]
    assert evaluation.shortened(["x", "x/y"]) == ["x", "y"]


def test_a_folder_of_folders_is_searched(make, tmp_path):
    make.run(tmp_path / "out" / "run")
    make.results(tmp_path / "out" / "results", make.rows("m", ["t"]))
    (tmp_path / "out" / "notes").mkdir()
    found = find_inputs([tmp_path / "out", tmp_path / "out" / "run"])
    assert found.runs == [tmp_path / "out" / "run"] and found.results == [tmp_path / "out" / "results"]


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_unknown_inputs_say_what_is_expected(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=name):
        report.main([str(tmp_path / name), "--out", str(tmp_path / "r.html")])


def test_a_dataset_without_our_columns_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "data" / "x.parquet")
    with pytest.raises(UserError, match="no column 'source'"):
        report.main([str(tmp_path), "--out", str(tmp_path / "r.html")])
    (tmp_path / "data" / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match="not readable as Parquet"):
        report.main([str(tmp_path), "--out", str(tmp_path / "r.html")])


def test_a_results_json_file_alone_will_do(make, tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(make.rows("m", ["t"])))
    assert 'id="evaluation"' in written(tmp_path, path)


@pytest.mark.parametrize(
    ("size", "said"),
    [(10, "1 kB"), (11_400, "11 kB"), (999_499, "999 kB"), (999_500, "1.0 MB"), (9_960_000, "10.0 MB")],
)
def test_file_sizes_are_never_nothing(size, said):
    assert formats.file_size(size) == said
