"""What a record may say of anatomies: the 30 regions for published sources, any words for one's own, or nothing."""

import pyarrow.parquet as pq
import pytest

from biovfm_hf.errors import UserError
from dataset_builder.build import build
from dataset_builder.catalog.records import load_source


def test_an_own_source_may_name_any_anatomy_and_the_card_tells_it(tmp_path, make):
    make.png(tmp_path / "raw" / "own" / "1.png", make.picture(1))
    record = make.record(tmp_path, "own", access="private", anatomies=["cell culture"])
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
    with pytest.raises(UserError, match="'placenta' is none of the 30 regions"):
        load_source(make.record(tmp_path, "own", anatomies=["placenta"]))
    with pytest.raises(UserError, match="is none of the 30 regions"):
        load_source(make.record(tmp_path, "own", access="private", anatomies=["x" * 61]))
