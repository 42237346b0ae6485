"""The catalogue: the 61 sources, the fields of a record, and one-line messages for mistakes."""

import string
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biovfm_hf.errors import UserError
from dataset_builder.build import build
from dataset_builder.catalog.globs import compile_glob
from dataset_builder.catalog.load import load_catalog
from dataset_builder.catalog.records import load_source
from dataset_builder.catalog.source import MODALITIES, anatomies
from tests.dataset_builder.conftest import RECORD

BENCHMARKS = {
    *(
        "PathMNIST",
        "ChestMNIST",
        "DermaMNIST",
        "OCTMNIST",
        "PneumoniaMNIST",
        "RetinaMNIST",
        "BreastMNIST",
        "BloodMNIST",
    ),
    *("TissueMNIST", "OrganAMNIST", "OrganCMNIST", "OrganSMNIST", "NoduleMNIST3D"),
}
FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# The catalogue


def test_the_catalogue_holds_the_papers_61_sources():
    sources = load_catalog()
    paper = [source for source in sources if source.in_paper]
    assert len(paper) == 61 and "pmc-oa" in {source.id for source in sources} - {source.id for source in paper}
    assert sum(source.images_in_paper for source in paper) == 21_472_715
    assert {modality for source in paper for modality in source.modalities} == set(MODALITIES)
    assert len(set(anatomies().values())) == 30
    assert {region for source in paper for region in source.anatomies} == set(anatomies().values())
    assert [source.id for source in sources] == [Path(source.record).stem for source in sources]


def test_overlaps_name_real_benchmarks_and_sources():
    ids = {source.id for source in load_catalog()}
    overlaps = [overlap for source in load_catalog() for overlap in source.overlaps]
    assert {overlap.benchmark for overlap in overlaps if overlap.benchmark} <= BENCHMARKS
    assert {overlap.source for overlap in overlaps if overlap.source} <= ids
    behind = {(source.id, o.benchmark) for source in load_catalog() for o in source.overlaps if o.benchmark}
    assert {("chestxray-14", "ChestMNIST"), ("nct-crc-he-100k", "PathMNIST"), ("isic-archive", "DermaMNIST")} < behind
    assert {("sam-med2d-20m", "BreastMNIST"), ("uls23", "OrganAMNIST")} < behind


def test_unknown_facts_stay_unknown():
    by_id = {source.id: source for source in load_catalog()}
    missing = [name for name, source in by_id.items() if not source.layout_established]
    assert missing == ["vicavr", "vindr-bodypartxr", "vindr-multiphase"]
    assert all(by_id[name].train is None and not by_id[name].items for name in missing)
    assert by_id["vindr-multiphase"].access is None and by_id["stare"].licence is None
    for source in by_id.values():
        assert all(len(entry.sha256 or "a" * 64) == 64 and len(entry.md5 or "a" * 32) == 32 for entry in source.files)


# Records


def test_a_record_of_ones_own_loads_and_is_outside_the_paper(record):
    source = record()
    assert source.modality == "CT" and source.folder == "mine" and source.in_paper is False
    assert source.items[0].kind == "image" and source.layout_established


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"modalty": "CT"}, ["unknown key 'modalty'", "did you mean modality?"]),
        ({"modality": "Xray"}, ["modalities", "'Xray'", "did you mean X-Ray?"]),
        ({"modality": None}, ["'modalities' is missing"]),
        ({"anatomies": ["lungg"]}, ["anatomies.0", "did you mean lung?", "30 regions"]),
        ({"id": "a/b"}, ["id", "letters, digits"]),
        ({"items": None}, ["'items' is missing", "layout_established: false"]),
        ({"items": [{"pattern": "*.png", "kind": "picture"}]}, ["items.0.kind", "'picture'", "image"]),
        ({"items": [{"patern": "*.png"}]}, ["items.0", "did you mean pattern?"]),
        ({"items": ["../*.png"]}, ["items.0.pattern", "not a usable glob"]),
        ({"items": ["a{b.png"]}, ["items.0.pattern", "not closed"]),
        ({"items": [{"pattern": "*", "intensity": {"window": [5, 1]}}]}, ["items.0.intensity", "lower one first"]),
        ({"items": [{"pattern": "*", "intensity": "dark"}]}, ["items.0.intensity", "as-is"]),
        ({"items": [{"pattern": "*", "fps": 0}]}, ["items.0.fps", "between 0 and 1000"]),
        ({"items": [{"pattern": "*.h5", "kind": "hdf5"}]}, ["items.0.adapter", "hdf5_rows"]),
        ({"items": [{"pattern": "*", "adapter": "hdf5_row"}]}, ["adapter", "did you mean hdf5_rows?"]),
        ({"train": "some"}, ["train", "all, {path: REGEX} or a table"]),
        ({"train": {"path": "("}}, ["train.path", "not a usable regular expression"]),
        ({"train": {"table": "a.csv"}}, ["train", "'match' is missing"]),
        ({"subject": {"path": "abc"}}, ["subject.path", "no group"]),
        ({"subject": {"table": "a.csv", "match": "x"}}, ["subject", "'column' is missing"]),
        ({"folder": "../elsewhere"}, ["folder", "leaves the raw folder"]),
        ({"folder": "/etc"}, ["folder", "leaves the raw folder"]),
        ({"access": "opened"}, ["access", "did you mean open?"]),
        ({"year": "2020"}, ["year", "a whole number"]),
        ({"in_paper": "yes"}, ["in_paper", "true or false"]),
        ({"files": [{"url": "file:///etc/passwd", "name": "x"}]}, ["files.0.url", "not an http(s) address"]),
        ({"files": [{"url": "https://a/b", "name": "../x"}]}, ["files.0.name", "leaves the source's folder"]),
        ({"overlaps": [{"relation": "contains", "note": "x"}]}, ["overlaps.0", "benchmark or a source"]),
    ],
)
def test_a_mistake_in_a_record_is_named_with_file_key_and_nearest_word(record, changes, words):
    with pytest.raises(UserError) as error:
        record(**changes)
    message = str(error.value)
    assert "mine.yaml" in message and "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("text", ["[1, 2", "- a\n- b", "", "a: &x [*x]\n", "!!python/object/apply:os.system [ls]"])
def test_what_is_no_record_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"bad\.yaml") as error:
        load_source(path)
    assert "\n" not in str(error.value)


def test_an_unknown_id_is_reported_with_the_nearest():
    with pytest.raises(UserError, match=r"did you mean chexpert\?"):
        load_source("chexprt")
    with pytest.raises(UserError, match=r"absent\.yaml"):
        load_source("absent.yaml")


ANY_YAML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*RECORD, "kind", "pattern", "path", "table"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@FAST
@given(ANY_YAML)
def test_any_yaml_is_a_record_or_a_user_error(tmp_path, data):
    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump(data))
    try:
        load_source(path)
    except UserError as error:
        assert "\n" not in str(error)


# Globs


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("**/a/*.png", ["a/x.png", "z/y/a/x.PNG"], ["a/b/x.png", "xa/x.png", "a/x.jpg"]),
        ("*.png", ["x.png", ".png"], ["a/x.png"]),
        ("**/im[0-9][0-9].p?m", ["im01.ppm", "q/im99.pgm"], ["im1.ppm", "im001.ppm"]),
        ("a{.zip,/**}", ["a.zip", "a/b/c"], ["a", "ab/c", "a.zip/x"]),
        ("x[!a]y", ["xby"], ["xay", "x/y"]),
        ("A(B)+.png", ["A(B)+.png"], ["AB.png"]),
        ("**", ["a", "a/b"], [""][:0]),
    ],
)
def test_globs(glob, yes, no):
    assert all(compile_glob(glob).fullmatch(path) for path in yes)
    assert not any(compile_glob(glob).fullmatch(path) for path in no)


@given(st.lists(st.text(string.ascii_letters + "()+.- _", min_size=1, max_size=6), min_size=1, max_size=5))
def test_a_plain_path_is_a_glob_of_itself_below_any_folder(parts):
    path = "/".join(parts)
    if ".." not in parts:
        assert compile_glob(path).fullmatch(path) and compile_glob("**/" + path).fullmatch("x/y/" + path)


# Anatomies


@pytest.mark.parametrize("access", ["private", None])
def test_an_own_source_may_name_any_anatomy_and_the_card_tells_it(tmp_path, access, make):
    make.png(tmp_path / "raw" / "own" / "1.png", make.picture(1))
    record = make.record(tmp_path, "own", access=access, anatomies=["cell culture"])
    build(tmp_path / "raw", tmp_path / "out", [record], workers=0, size=32)
    assert pq.read_table(tmp_path / "out" / "manifest.parquet")["anatomy"].to_pylist() == ["cell culture"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Anatomies in words of their sources, outside the 30 regions: cell culture." in card


@pytest.mark.parametrize("access", ["private", "open"])
def test_anatomies_may_be_left_out(tmp_path, access, make):
    record = make.record(tmp_path, "own", access=access)
    record.write_text("".join(line for line in record.open() if "anatomies" not in line and "- breast" not in line))
    make.png(tmp_path / "raw" / "own" / "1.png", make.picture(1))
    build(tmp_path / "raw", tmp_path / "out", [record], workers=0, size=32)
    assert pq.read_table(tmp_path / "out" / "manifest.parquet")["anatomy"].to_pylist() == [None]


def test_a_published_source_keeps_to_the_regions(tmp_path, make):
    with pytest.raises(UserError, match="'placenta' is not one of the 30 regions"):
        load_source(make.record(tmp_path, "own", anatomies=["placenta"]))
    with pytest.raises(UserError, match="is not one of the 30 regions"):
        load_source(make.record(tmp_path, "own", access="private", anatomies=["x" * 61]))
