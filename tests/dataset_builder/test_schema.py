"""Writers of rows."""

import errno
import os
import resource
import signal
from pathlib import Path

import pyarrow as pa
import pytest

from dataset_builder.schema import ROW_GROUP, ROWS, GroupWriter, row_writer


def rows(count: int) -> pa.Table:
    """Rows with images of 20 KB, each another one."""
    row = {field.name: "a" if field.type == pa.string() else 1 for field in ROWS}
    images = [{"bytes": os.urandom(20_000), "path": None} for _ in range(count)]
    return pa.Table.from_pylist([{**row, "image": image} for image in images], schema=ROWS)


@pytest.mark.parametrize("size", [100, 300_000, 3_000_000, 4_000_500])
def test_a_write_that_fails_is_an_error_and_not_the_end_of_the_process(tmp_path: Path, size: int):
    """At the head of a file, in its first row group, in its second one, and at its end."""
    groups = [rows(ROW_GROUP), rows(ROW_GROUP)]
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            with GroupWriter(row_writer(tmp_path / "rows.parquet"), ROW_GROUP) as writer:
                for group in groups:
                    writer.add(group)
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == errno.EFBIG
