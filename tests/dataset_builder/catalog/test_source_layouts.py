"""Every established source: a miniature of its raw layout yields exactly the training part and the right subjects."""

import importlib.util
from pathlib import Path

import pytest

from biovfm_hf.reading.image_files import NOT_INPUT
from dataset_builder.catalog.load import load_catalog
from dataset_builder.catalog.records import load_source
from dataset_builder.catalog.source import NOT_ESTABLISHED
from dataset_builder.item import Item
from dataset_builder.plan.listing import list_items

SPEC = importlib.util.spec_from_file_location("miniatures", Path(__file__).parents[1] / "miniatures.py")
miniatures = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(miniatures)
LAYOUTS = miniatures.LAYOUTS


def written(item: Item) -> str:
    """The item's name in miniatures.yaml."""
    path = item.path.partition("/")[2]
    if item.kind == "hdf5" and item.member is not None:
        row = item.row
        return f"{path}#{item.member if row is None else row}"
    if item.kind == "dicom_series" and item.files:
        return f"{path}#{item.member}"
    if item.kind == "dicom_series" and item.members:
        return f"{path}!{item.members[0].name}"
    return path if item.member is None else f"{path}!{item.member}"


@pytest.mark.parametrize("name", LAYOUTS)
def test_exactly_the_training_part_with_its_subjects(name, tmp_path):
    miniatures.write_miniature(name, tmp_path)
    items = list(list_items(load_source(name), tmp_path))
    selected = {written(item): item.subject for item in items if item.excluded is None}
    assert selected == LAYOUTS[name].get("take", {})
    excluded = [written(item) for item in items if item.excluded not in (None, NOT_INPUT)]
    beside = [written(item) for item in items if item.excluded == NOT_INPUT]
    assert sorted(excluded) == sorted(LAYOUTS[name].get("leave", []))
    assert sorted(beside) == sorted([*LAYOUTS[name].get("ignore", []), *LAYOUTS[name].get("text", {})])
    assert len(items) == len({(item.path, item.member, item.row, item.files, item.members) for item in items})
    assert list(list_items(load_source(name), tmp_path)) == items


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_selected_item_has_its_facts(name, tmp_path):
    miniatures.write_miniature(name, tmp_path)
    source = load_source(name)
    for item in list_items(source, tmp_path):
        assert item.modality in source.modalities or (item.modality is None and len(source.modalities) > 1)
        if item.excluded is None:
            assert item.anatomy is None or item.anatomy in source.anatomies
            assert (tmp_path / item.path).exists()


def test_every_source_has_a_miniature_or_says_why_not(tmp_path):
    for source in load_catalog():
        if source.layout_established:
            assert source.id in LAYOUTS, f"add a miniature of {source.id} to tests/dataset_builder/miniatures.yaml"
            continue
        (tmp_path / source.id).mkdir()
        (tmp_path / source.id / "1.png").write_bytes(miniatures.content("1.png"))
        items = list(list_items(source, tmp_path))
        assert [item.excluded for item in items] == [f"the raw layout of {source.id} is {NOT_ESTABLISHED}"]


def test_sources_without_an_established_training_part_select_nothing(tmp_path):
    for name in ("dca1", "drsam"):
        miniatures.write_miniature(name, tmp_path)
        reasons = {item.excluded for item in list_items(load_source(name), tmp_path)}
        assert reasons - {NOT_INPUT} == {"mask", f"the training part of {name} is {NOT_ESTABLISHED}"}


def test_modalities_and_anatomies_of_mixed_sources(tmp_path):
    expected = {
        "sam-med2d-20m": {("CT", "abdomen"), ("MR", "brain"), ("Ultrasound", "breast"), ("X-Ray", "chest")},
        "radimagenet": {("CT", "lung"), ("MR", "knee"), ("Ultrasound", None)},
        "rp3d-diagds": {("CT", "abdomen"), ("MR", "abdomen"), ("X-Ray", "lower limb")},
        "lc25000": {("Microscopy", "colon and rectum"), ("Microscopy", "lung")},
        "uls23": {
            ("CT", region) for region in (None, "bone", "liver and gallbladder", "lung", "lymph nodes")
        },
        "fastmri": {("MR", region) for region in ("brain", "knee", "prostate")},
    }  # fmt: skip
    for name, pairs in expected.items():
        miniatures.write_miniature(name, tmp_path)
        items = [item for item in list_items(load_source(name), tmp_path) if item.excluded is None]
        assert {(item.modality, item.anatomy) for item in items} == pairs


def test_slices_of_a_series_follow_their_position_not_their_names(tmp_path):
    miniatures.write_miniature("fastmri", tmp_path)
    series = [item for item in list_items(load_source("fastmri"), tmp_path) if item.kind == "dicom_series"]
    first = next(item for item in series if item.path.endswith("sub01") and item.member == "0")
    names = [Path(file).name for file in first.files]
    assert names == ["0003", "0002", "0001"]  # positions 0, 3 and 6 mm
    assert all((tmp_path / file).is_file() for file in first.files)


def test_without_its_split_list_nothing_of_a_source_is_taken(tmp_path):
    miniatures.write_miniature("chestxray-14", tmp_path)
    (tmp_path / "chestxray-14/CXR8/train_val_list.txt").unlink()
    reasons = {item.excluded for item in list_items(load_source("chestxray-14"), tmp_path)} - {NOT_INPUT}
    assert reasons == {"the list **/train_val_list.txt is not in the raw folder, so the training part is unknown"}


def test_without_its_exclusion_list_nothing_of_a_source_is_taken(tmp_path):
    miniatures.write_miniature("isic-archive", tmp_path)
    (tmp_path / "isic-archive/exclude/challenge_test.csv").unlink()
    reasons = {item.excluded for item in list_items(load_source("isic-archive"), tmp_path)} - {NOT_INPUT}
    assert reasons == {"the list exclude/*.csv is not in the raw folder, so the training part is unknown"}


def test_unpacked_and_packed_releases_select_the_same(tmp_path):
    import tarfile

    miniatures.write_miniature("chestxray-14", tmp_path)
    source = load_source("chestxray-14")
    packed = {Path(item.member).name for item in list_items(source, tmp_path) if item.excluded is None}
    images = tmp_path / "chestxray-14/CXR8/images"
    for archive in images.glob("*.tar.gz"):
        with tarfile.open(archive) as opened:
            opened.extractall(images, filter="data")
        archive.unlink()
    assert {Path(item.path).name for item in list_items(source, tmp_path) if item.excluded is None} == packed


def test_the_list_of_ham10000_covers_exactly_its_ten_thousand_and_fifteen_images():
    import re

    part = next(overlap.part for overlap in load_source("isic-archive").overlaps if overlap.benchmark == "DermaMNIST")
    found = [number for number in range(24000, 35000) if re.search(part, f"ISIC_{number:07}.jpg")]
    assert found == list(range(24306, 34321)) and len(found) == 10015
