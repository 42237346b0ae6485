"""PGM and PPM of over 8 bits: the numbers that stand there."""

import numpy as np
import pytest

from biovfm_hf.errors import UserError
from biovfm_hf.pixels import decode
from tests.biovfm_hf.decoding.samples import RNG, assert_read, colours, smooth


def test_ppm_of_16_bits():
    array = RNG.integers(0, 4096, (7, 9, 3)).astype(np.uint16)
    assert np.array_equal(decode(b"P6\n# deep\n9 7\n4095\n" + array.astype(">u2").tobytes()).array, array)


def test_numbers_as_text_or_binary_are_not_scaled(tmp_path):
    """Pillow scales them to 65535; a record's window is in the numbers of the file."""
    for magic, values in ((b"P5", smooth()), (b"P2", smooth()), (b"P6", colours()), (b"P3", colours())):
        numbers = values.astype(">u2")
        body = numbers.tobytes() if magic in (b"P5", b"P6") else " ".join(map(str, numbers.ravel())).encode()
        (tmp_path / "a.ppm").write_bytes(magic + b"\n# deep\n80 64 # size\n4080\n" + body)
        assert_read(tmp_path / "a.ppm", values)


@pytest.mark.parametrize(
    "data",
    [b"P5 80 64 4095\n" + bytes(99), b"P2 80 64 4095\n1 2 3", b"P2 2 1 300\n1 x", b"P5 99999 99999 300\n",
     b"P5 2 2 70000\n" + bytes(99)],
)  # fmt: skip
def test_damaged_files_are_refused(data):
    with pytest.raises(UserError):
        decode(data, name="a.pgm")
