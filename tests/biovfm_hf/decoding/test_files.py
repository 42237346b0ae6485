"""Which decoder reads a file: by its content."""

import gzip
import io
import zipfile
from typing import get_type_hints

import numpy as np
import pytest
from PIL import Image

from biovfm_hf.decoding.content import Content, Pages
from biovfm_hf.decoding.files import FORMATS, IMAGE_SUFFIXES
from biovfm_hf.errors import UserError
from biovfm_hf.pixels import decode
from biovfm_hf.volumes import Volume
from tests.biovfm_hf.decoding.samples import SHADES


def test_archives_and_gzip_are_recognised_by_their_content(tmp_path):
    picture = io.BytesIO()
    Image.fromarray(SHADES.astype(np.uint8)).save(picture, "PNG")
    assert np.array_equal(decode(gzip.compress(picture.getvalue()), name="a.png.gz").array, SHADES)
    nrrd = b"NRRD0004\ntype: uchar\ndimension: 2\nsizes: 8 6\nencoding: raw\n\n" + SHADES.astype(np.uint8).tobytes()
    assert np.array_equal(decode(gzip.compress(nrrd), name="a.nrrd.gz").array, SHADES)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", picture.getvalue())
    with pytest.raises(UserError):
        decode(tmp_path / "a.zip")


def test_every_format_has_a_decoder_and_no_two_claim_a_suffix():
    suffixes = [suffix for one in FORMATS for suffix in one.suffixes]
    assert len(suffixes) == len(set(suffixes)) and tuple(suffixes) == IMAGE_SUFFIXES
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in suffixes)
    assert all(callable(one.recognises) and one.read.__doc__ for one in FORMATS)


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.read.__name__)
def test_a_decoder_of_volumes_alone_or_pictures_alone_is_entered_as_one(one):
    returned = get_type_hints(one.read)["return"]
    assert returned in (Volume, Pages, Content), "say what the decoder returns"
    assert (one.holds == "volume") if returned is Volume else (one.holds != "volume" or returned is Content)
