"""The features file: it is read as it was written, in any layout, and damage is told."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biovfm_hf.errors import UserError
from evaluation.commands.features import Features, read_features, write_features
from evaluation.commands.nearest import most_similar


def test_lengths_are_stored_with_the_vectors_and_used(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    vectors[7] = 0
    path = tmp_path / "f.parquet"
    write_features(path, Features([str(n) for n in range(40)], vectors, {"model": "m"}))
    features = read_features(path)
    np.testing.assert_array_equal(features.vectors, vectors)
    np.testing.assert_allclose(features.lengths, np.maximum(np.linalg.norm(vectors, axis=1), 1e-12), rtol=1e-6)
    known = most_similar(vectors, vectors[:3], 6, features.lengths)
    for one, other in zip(known, most_similar(vectors, vectors[:3], 6), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    ids = read_features(path, vectors=False)
    assert ids.names == features.names and not ids.vectors.size
    table = pq.read_table(path)
    assert table.column_names == ["id", "features", "length"] and table["features"][3].as_py() == vectors[3].tolist()


@pytest.mark.parametrize("rows", [1, 40, 3000])
@pytest.mark.parametrize("layout", ["ours", "one page", "pages of 2", "compressed", "dictionary", "nullable", "lists"])
def test_vectors_are_read_from_any_layout(tmp_path, rows, layout):
    vectors = np.random.default_rng(0).integers(0, 9, (rows, 24)).astype(np.float32) - 4
    path = tmp_path / "f.parquet"
    write_features(path, Features([str(n) for n in range(rows)], vectors, {"model": "m"}))
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


def test_reading_vectors_needs_their_memory_once(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(160_000, 64)).astype(np.float32)
    path = tmp_path / "f.parquet"
    write_features(path, Features([str(n) for n in range(160_000)], vectors, {"model": "m"}))
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
    write_features(path, Features(["a", "b"], np.ones((2, 500), np.float32), {"model": "m"}))
    part = pq.ParquetFile(path).metadata.row_group(0).column(1)
    damaged = bytearray(path.read_bytes())
    damaged[part.data_page_offset : part.data_page_offset + 12] = b"\xff" * 12
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"f\.parquet is not a features file"):
        read_features(path)


def test_a_table_without_a_row_or_a_vector_says_so(tmp_path):
    path = tmp_path / "f.parquet"
    write_features(path, Features([], np.empty((0, 3), np.float32), {"model": "m"}))
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
    write_features(path, Features([str(n) for n in range(300)], np.ones((300, 48), np.float32), {"model": "m"}))
    whole, start = path.read_bytes(), pq.ParquetFile(path).metadata.row_group(0).column(1).data_page_offset
    at = whole.index(_compact(300 * 48), start, start + 64)
    path.write_bytes(whole[:at] + _compact(172 * 48) + whole[at + 3 :])
    with pytest.raises(UserError, match=r"f\.parquet is not a features file \(172 rows could be read of the 300"):
        read_features(path)
