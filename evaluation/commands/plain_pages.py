"""Reads the vectors of a Parquet file from its pages, where they stand as plain float32 numbers.

Arrow decodes a level for each number, to learn where a list begins. Where all lists are equally long and nothing is
null, the levels say nothing: a page's numbers are its last bytes, and go straight into the array. The form of a page
is that of https://github.com/apache/parquet-format, its header that of Thrift's compact protocol.
"""

import mmap
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

_PLAIN = 0  # an `Encoding` of parquet.thrift
_DATA = {0: (5, 2), 3: (8, 4)}  # `PageType` of a page of values: the field of its own header, and there its encoding's
_TRUE, _FALSE, _BYTE, _LAST_INTEGER, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, 6, 7, 8, 12  # types of the compact protocol


def has_plain_pages(file: Any, name: str) -> bool:
    """Whether an open `ParquetFile` stores the column `name` as `read_plain` needs it: equally long lists of float32
    without nulls, neither compressed nor in a dictionary."""
    column = file.schema_arrow.field(name)
    chunks = [_chunk(file, group, name) for group in range(file.num_row_groups)]
    return (
        str(column.type).startswith("fixed_size_list<")
        and str(column.type.value_type) == "float"
        and not (column.nullable or column.type.value_field.nullable)
        and all(chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page for chunk in chunks)
    )


def read_plain(path: Path, file: Any, name: str) -> np.ndarray:
    """The vectors (N, D) float32 of a column with plain pages, read without a second copy.

    Raises:
        ValueError: the file is damaged.
    """
    vectors = np.empty((file.metadata.num_rows, file.schema_arrow.field(name).type.list_size), np.float32)
    rest, left = vectors.data.cast("B"), vectors.nbytes
    with path.open("rb", buffering=0) as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for group in range(file.num_row_groups):
            chunk = _chunk(file, group, name)
            at = chunk.data_page_offset
            end = at + chunk.total_compressed_size
            while at < end:
                at, length = _page(mapped, at)
                _read_whole(stream, at - length, rest[:length])
                left -= length
                rest = rest[length:]
    if left:
        raise ValueError("its rows need another count of numbers than it has")
    return vectors


def _chunk(file: Any, group: int, name: str) -> Any:
    """The metadata of a column's part in a row group."""
    part = file.metadata.row_group(group)
    return next(
        chunk
        for chunk in map(part.column, range(part.num_columns))
        if chunk.path_in_schema.partition(".")[0] == name
    )  # fmt: skip


def _page(mapped: mmap.mmap, at: int) -> tuple[int, int]:
    """Where the page that begins at `at` ends, and how many bytes its numbers take, which are its last."""
    try:
        header, body = _struct(mapped, at)
        own, encoding = _DATA[header[1]]
        if header[own][encoding] != _PLAIN:
            raise ValueError("a page is not plain")
        end, length = body + header[3], 4 * header[own][1]
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError("a page cannot be read") from error
    if not 0 <= length <= end - body:
        raise ValueError("a page has more numbers than bytes")
    return end, length


def _read_whole(stream: FileIO, at: int, place: memoryview) -> None:
    stream.seek(at)
    while place:
        count = stream.readinto(place)
        if not count:
            raise ValueError("it ends early")
        place = place[count:]


def _struct(data: mmap.mmap, at: int) -> tuple[dict[int, Any], int]:
    """{field number: value} of the structure at `at`, and where it ends. Bytes and fractions are left out."""
    fields: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        at += 1
        step, kind = divmod(head, 16)
        if not step:
            number, at = _integer(data, at)
        number += step
        if kind in (_TRUE, _FALSE):
            fields[number] = kind == _TRUE
        elif kind == _BYTE:
            at += 1
        elif kind <= _LAST_INTEGER:
            fields[number], at = _integer(data, at)
        elif kind == _DOUBLE:
            at += 8
        elif kind == _BINARY:
            length, at = _unsigned(data, at)
            at += length
        elif kind == _STRUCT:
            fields[number], at = _struct(data, at)
        else:
            raise ValueError("a page has an unknown header")
    return fields, at + 1


def _integer(data: mmap.mmap, at: int) -> tuple[int, int]:
    """The signed number at `at`, whose last bit is the sign, and where it ends."""
    number, at = _unsigned(data, at)
    return (number >> 1) ^ -(number & 1), at


def _unsigned(data: mmap.mmap, at: int) -> tuple[int, int]:
    """The number at `at`, seven bits a byte with the lowest first, and where it ends."""
    number, shift = 0, 0
    while (byte := data[at]) & 0x80:
        number |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
    return number | byte << shift, at + 1
