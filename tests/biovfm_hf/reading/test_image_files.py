"""Which files are decoded without a limited process: only complete ones, wherever the others were cut off."""

import gzip
import io

import numpy as np
import pytest
from PIL import Image

from biovfm_hf.errors import UserError
from biovfm_hf.reading.image_files import NOT_INPUT, is_plain, read_uint8, walk
from tests.dataset_builder.conftest import write_dicom


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_file_cut_anywhere_is_not_plain(form):
    whole = io.BytesIO()
    Image.new("L", (8, 8), 77).save(whole, form)
    data = whole.getvalue()
    assert is_plain(data)
    assert not any(is_plain(data[:size]) for size in range(len(data) - 12))


def test_the_first_bytes_of_a_png_are_one_line_of_error():
    data = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x08\0\0\0\x08"
    with pytest.raises(UserError, match="cut"):
        read_uint8(data, name="cut.png")


def test_pixels_are_square_on_request(tmp_path):
    picture = np.arange(64 * 80, dtype=np.uint16).reshape(64, 80)
    write_dicom(tmp_path / "a.dcm", picture, PixelSpacing=["2", "1"])
    assert read_uint8(tmp_path / "a.dcm").shape == (64, 80)
    assert read_uint8(tmp_path / "a.dcm", square=True).shape == (128, 80)


def test_dicom_without_a_suffix_is_recognised_by_its_content(tmp_path):
    picture = np.arange(64 * 80, dtype=np.uint16).reshape(64, 80)
    write_dicom(tmp_path / "IM0", picture)
    data = (tmp_path / "IM0").read_bytes()
    (tmp_path / "IM1").write_bytes(gzip.compress(data))
    (tmp_path / "IM2").write_bytes(gzip.compress(data[:100] + bytes(200)))
    assert list(walk(tmp_path)) == [(tmp_path / "IM0", None), (tmp_path / "IM1", None), (tmp_path / "IM2", NOT_INPUT)]
    assert np.array_equal(read_uint8(tmp_path / "IM1"), read_uint8(tmp_path / "IM0"))
