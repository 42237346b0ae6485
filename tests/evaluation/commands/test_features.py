"""The features file: it is read as it was written, in any layout, and damage is told."""

import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biovfm_hf.errors import UserError
from evaluation.analysis.curation.features import open_features
from evaluation.analysis.curation.sharing import ALONE
from evaluation.commands.features import Features, read_features, write_features
from evaluation.commands.nearest import most_similar
from tests.evaluation.commands.conftest import MADE_WITH


def test_lengths_are_stored_with_the_vectors(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    vectors[7] = 0
    path = tmp_path / "f.parquet"
    write_features(path, Features([str(n) for n in range(40)], vectors, MADE_WITH))
    features = read_features(path)
    np.testing.assert_array_equal(features.vectors, vectors)
    np.testing.assert_allclose(features.lengths, np.linalg.norm(vectors, axis=1), rtol=1e-6)
    np.testing.assert_allclose(pq.read_table(path)["length"], features.lengths, rtol=1e-6)
    ids = read_features(path, vectors=False)
    assert ids.names == features.names and not ids.vectors.size
    table = pq.read_table(path)
    assert table.column_names == ["id", "features", "length"] and table["features"][3].as_py() == vectors[3].tolist()


@pytest.mark.parametrize("lengths", ["old", "zero", "one wrong", "text", "none"])
def test_stored_lengths_that_are_not_those_of_the_vectors_change_nothing(tmp_path, lengths):
    vectors = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    path = tmp_path / "f.parquet"
    write_features(path, Features([str(n) for n in range(300)], vectors * 9, MADE_WITH))
    table = pq.read_table(path)
    length = table["length"].to_numpy().copy()
    length[:] = {"zero": 0}.get(lengths, length)
    length[5] *= 1e-4 if lengths == "one wrong" else 1
    column = pa.array(["long"] * 300) if lengths == "text" else pa.array(length)
    kind = pa.list_(pa.float32(), 5)
    table = table.set_column(1, "features", pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=kind))
    pq.write_table(table.drop(["length"]) if lengths == "none" else table.set_column(2, "length", column), path)
    features = read_features(path)
    found = most_similar(features.vectors, vectors[:3], 6, features.lengths)
    for one, other in zip(found, most_similar(vectors, vectors[:3], 6), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("rows", [1, 40, 3000])
@pytest.mark.parametrize("layout", ["ours", "one page", "pages of 2", "compressed", "dictionary", "nullable", "lists"])
def test_vectors_are_read_from_any_layout(tmp_path, rows, layout):
    vectors = np.random.default_rng(0).integers(0, 9, (rows, 24)).astype(np.float32) - 4
    path = tmp_path / "f.parquet"
    write_features(path, Features([str(n) for n in range(rows)], vectors, MADE_WITH))
    table, options = pq.read_table(path), {"use_dictionary": False, "compression": "none"}
    if layout in ("nullable", "lists"):
        kind = pa.list_(pa.float32(), 24) if layout == "nullable" else pa.list_(pa.float32())
        table = table.set_column(1, pa.field("features", kind), table["features"].cast(kind))
    options |= {"compressed": {"compression": "zstd"}, "dictionary": {"use_dictionary": True}}.get(layout, {})
    options |= {"one page": {"data_page_size": 1 << 30, "data_page_version": "2.0"}}.get(layout, {})
    options |= {"pages of 2": {"data_page_size": 1, "write_batch_size": 2, "write_page_checksum": True}}.get(
        layout, {}
    )
    if layout != "ours":
        pq.write_table(table, path, row_group_size=1000, **options)
    np.testing.assert_array_equal(read_features(path).vectors, vectors)
    np.testing.assert_array_equal(open_features(path, ALONE, "pool")[1], vectors)


def test_reading_vectors_needs_their_memory_once(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(160_000, 64)).astype(np.float32)
    path = tmp_path / "f.parquet"
    write_features(path, Features([str(n) for n in range(160_000)], vectors, MADE_WITH))
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        read_features(path)
        traced = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
    assert traced < 1.5 * vectors.nbytes and pool.max_memory() < vectors.nbytes / 3  # ids and lengths are read, too


def test_damaged_pages_are_told(tmp_path):
    path = tmp_path / "f.parquet"
    write_features(path, Features(["a", "b"], np.ones((2, 500), np.float32), MADE_WITH))
    part = pq.ParquetFile(path).metadata.row_group(0).column(1)
    damaged = bytearray(path.read_bytes())
    damaged[part.data_page_offset : part.data_page_offset + 12] = b"\xff" * 12
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"f\.parquet is not a features file"):
        read_features(path)


EDITS = {
    "integer ids": ({"id": pa.array([1, 2])}, {}, "its ids are int64, not text"),
    "an id that is null": ({"id": pa.array(["a", None])}, {}, "row 1 has no id"),
    "no ids": ({"id": None}, {}, "it has no column id"),
    "scalars": ({"features": pa.array([1.0, 2.0])}, {}, "its features are double, not lists of numbers"),
    "texts": ({"features": pa.array([["a"], ["b"]])}, {}, r"its features are list<.*string>, not lists of numbers"),
    "no features": ({"features": None}, {}, "it has no column features"),
    "no revision": ({}, {"revision": None}, "its metadata state no revision"),
    "no kind of features": ({}, {"features": None}, "its metadata state no features"),
    "an unknown kind": ({}, {"features": "bogus"}, "its metadata state features: 'bogus'"),
    "a number of slices": ({}, {"slices": "x"}, "its metadata state slices: 'x'"),
    "an axis": ({}, {"axes": "axial,up"}, "its metadata state axes: 'axial,up'"),
    "a pool": ({}, {"pool": "sum"}, "its metadata state pool: 'sum'"),
    "a precision": ({}, {"precision": "fp8"}, "its metadata state precision: 'fp8'"),
    "a number for a text": ({}, {"model": 3}, "its metadata state model: 3"),
    "left-out files": ({}, {"left_out": ["a"]}, r"its metadata state left_out: \['a'\]"),
}


def _edited(path, columns, about):
    """A features file of two rows with other columns and metadata, as pyarrow saves it; None leaves out."""
    write_features(path, Features(["a", "b"], np.ones((2, 5), np.float32), MADE_WITH))
    table = pq.read_table(path)
    stated = json.loads(table.schema.metadata[b"biovfm"]) | about
    whole = {name: table[name] for name in table.column_names} | columns
    edited = pa.table({name: column for name, column in whole.items() if column is not None})
    metadata = json.dumps({name: value for name, value in stated.items() if value is not None})
    pq.write_table(edited.replace_schema_metadata({"biovfm": metadata}), path)


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_file_is_told_by_every_reader(tmp_path, edit):
    path, (columns, about, reason) = tmp_path / "f.parquet", EDITS[edit]
    _edited(path, columns, about)
    for read in (read_features, lambda path: open_features(path, ALONE, "pool")):
        with pytest.raises(UserError, match=rf"f\.parquet is not a features file \({reason}\); write it with"):
            read(path)


@pytest.mark.parametrize("metadata", [None, {}, {"biovfm": "[" * 100_000}, {"biovfm": "3"}])
def test_a_table_without_metadata_of_embed_is_told(tmp_path, metadata):
    path = tmp_path / "f.parquet"
    _edited(path, {}, {})
    pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
    with pytest.raises(UserError, match=r"f\.parquet is not a features file \(.*; write it with"):
        read_features(path)


def test_a_table_without_a_row_or_a_vector_says_so(tmp_path):
    path = tmp_path / "f.parquet"
    write_features(path, Features([], np.empty((0, 3), np.float32), MADE_WITH))
    with pytest.raises(UserError, match=r"f\.parquet has no row; embed a folder"):
        read_features(path)
    about = pq.read_schema(path).metadata
    column = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"id": ["a", "b", "c"], "features": column}).replace_schema_metadata(about), path)
    with pytest.raises(UserError, match=r"f\.parquet, row 1: it has no vector; leave it out"):
        read_features(path)
    for lists, reason in (
        ([[1, 2], [3, 4, 5, 6], [7, 8, 9]], "row 1: its vector has 4 numbers, that of row 0 2; leave"),
        ([[], [], []], "row 0: it has no vector"),
    ):
        column = pa.array(lists, pa.list_(pa.float32()))
        pq.write_table(pa.table({"id": ["a", "b", "c"], "features": column}).replace_schema_metadata(about), path)
        with pytest.raises(UserError, match=reason):
            read_features(path)


def _compact(number):
    """A number of two bytes as Thrift's compact protocol writes it in a page's header: doubled, seven bits a byte."""
    return bytes([2 * number & 127 | 128, 2 * number >> 7 & 127 | 128, 2 * number >> 14])


def test_a_page_with_fewer_rows_than_stated_is_told(tmp_path):
    """Arrow reads what is there without a word; the rest of the array would be what was in memory before."""
    path = tmp_path / "f.parquet"
    write_features(path, Features([str(n) for n in range(300)], np.ones((300, 48), np.float32), MADE_WITH))
    whole, start = path.read_bytes(), pq.ParquetFile(path).metadata.row_group(0).column(1).data_page_offset
    at = whole.index(_compact(300 * 48), start, start + 64)
    path.write_bytes(whole[:at] + _compact(172 * 48) + whole[at + 3 :])
    with pytest.raises(UserError, match=r"f\.parquet is not a features file \(172 rows could be read of the 300"):
        read_features(path)
