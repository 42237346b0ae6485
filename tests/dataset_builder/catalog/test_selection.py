"""Lists of a record that are damaged, nested or bombs: the source gives no image but the reason; builds go on."""

import gzip
import re
import zlib

import pytest

from dataset_builder.catalog import selection
from dataset_builder.catalog.records import load_source
from dataset_builder.plan.listing import list_items

NAME = "quimby"


def damaged(data: bytes) -> bytes:
    packed = bytearray(gzip.compress(data))
    packed[len(packed) // 2] ^= 255
    return bytes(packed)


LISTS = {
    "list.csv.gz": (damaged(b"file,split\n" + bytes(range(32, 120)) * 99), r"[\w .]+"),
    "deep.jsonl": (b'{"file": ' + b"[" * 100_000, "RecursionError|JSONDecodeError"),
    "line.csv.gz": (gzip.compress(b"file,split," + b"x" * 200_000), "a line of more than 0 MiB"),
    "long.csv.gz": (gzip.compress(b"file,split\n" + b"1.png,test\n" * 40_000), "unpacks to more than 0 MiB"),
    "cut.csv.gz": (gzip.compress(b"file,split\n1.png,train\n")[:-9], "EOFError"),
    "quoted.jsonl": (f'{{"file": {NAME}}}'.encode(), "JSONDecodeError"),
    "columns.csv": (f"{NAME},split\n".encode(), "no column 'file'"),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_cannot_be_read_is_reported_in_one_line(tmp_path, make, monkeypatch, name):
    monkeypatch.setattr(selection, "MAX_LINE", 150_000)
    monkeypatch.setattr(selection, "SMALL_TABLE_BYTES", 100_000)
    make.png(tmp_path / "own" / "1.png", make.picture(1))
    content, reason = LISTS[name]
    (tmp_path / "own" / name).write_bytes(content)
    table = {"table": name, "match": "file", "where": {"split": "train"}}
    table["format"] = "jsonl" if name.endswith("jsonl") else "csv"
    (item,) = [item for item in list_items(load_source(make.record(tmp_path, "own", train=table)), tmp_path)
               if item.path == "own/1.png"]  # fmt: skip
    assert re.fullmatch(rf"the list {re.escape(name)} cannot be read \(({reason})\)", item.excluded)
    assert NAME not in item.excluded


def test_gzip_that_is_damaged_inside_is_no_traceback(tmp_path, make, monkeypatch):
    def broken(*_):
        raise zlib.error("Error -3 while decompressing data")

    make.png(tmp_path / "own" / "1.png", make.picture(1))
    (tmp_path / "own" / "l.csv").write_text("file\n")
    monkeypatch.setattr(selection, "table_rows", broken)
    source = load_source(make.record(tmp_path, "own", train={"table": "l.csv", "match": "file"}))
    assert {item.excluded for item in list_items(source, tmp_path)} >= {"the list l.csv cannot be read (error)"}
