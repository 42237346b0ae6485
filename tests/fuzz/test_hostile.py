"""Small files that need gigabytes or minutes are refused or stopped within seconds and below 1.2 GiB."""

import io
import time
from pathlib import Path

import pyarrow.parquet as pq
import pydicom
import pytest
from PIL import Image

from biovfm_hf.errors import UserError
from biovfm_hf.reading.image_files import is_plain, read_uint8
from biovfm_hf.reading.limited import Limited, Stopped
from dataset_builder.build import build
from dataset_builder.limits import Refused
from tests.dataset_builder.conftest import write_record
from tests.fuzz.hostile import HOSTILE
from tests.fuzz.run import LIMITS, read_all
from tests.fuzz.seeds import picture

GOOD = {"padded_deflated.dcm"}
TOLD = {
    "rgb16_tile_16384.tif": "tiles claim",
    "tile_60000.tif": "tiles claim",
    "double_tile_32768.tif": "tiles claim",
    "one_by_89_million.png": "no side may be over",
    "89_million_by_one.png": "no side may be over",
    "frames_20000.dcm": "20000 frames are over the limit",
    "canvas_9400_frames_300.gif": "frames of",
    "animated_5600.webp": "an animation of",
    "chunk.h5": "chunks claim",
    "chunk.mat": "chunks claim",
    "link.mat": "array",
    "link.h5": "no data set",
    "rows.h5": "MiB",
    "elements.mat": "inflate to",
    "scans.jpg": "scans",
    "short.nrrd": "ends after 1000",
    "short.mha": "ends after 1000",
}


@pytest.fixture(scope="module")
def limited():
    """Workers for all files; at the end, none has exceeded its memory limit."""
    workers = Limited(LIMITS, preload=("tests.fuzz.run",))
    yield workers
    workers.close()
    assert 0 < workers.peak < LIMITS.memory


@pytest.mark.parametrize("name", sorted(set(HOSTILE) - {"overlapping.zip"}))
def test_hostile_files_are_refused_before_they_cost_anything(tmp_path, limited, name):
    path = tmp_path / name
    HOSTILE[name](path)
    assert not is_plain(path.read_bytes())
    begun = time.process_time()
    if name in GOOD:
        limited.call(name, read_all, path)
    else:
        with pytest.raises((UserError, Refused)) as told:
            limited.call(name, read_all, path)
        assert TOLD[name] in str(told.value) and not isinstance(told.value, Stopped)
    assert time.process_time() - begun < 10


@pytest.fixture
def aborting(tmp_path):
    """A JPEG-LS DICOM file with one wrong byte, at which GDCM throws through C++: nothing in Python can catch it."""
    data = bytearray(Path(pydicom.data.get_testdata_file("JPEGLSNearLossless_08.dcm", download=False)).read_bytes())
    data[506] = 127
    path = tmp_path / "raw" / "own" / "abort.dcm"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def test_a_real_abort_of_a_decoder_costs_one_call(aborting):
    with pytest.raises(UserError, match=r"its decoder crashed \(SIGABRT\)"):
        read_uint8(aborting)
    assert read_uint8(picture_bytes()).shape == (64, 64)


def test_a_real_abort_of_a_decoder_is_one_line_of_a_build(aborting, tmp_path):
    (aborting.parent / "good.png").write_bytes(picture_bytes())
    record = write_record(tmp_path, "own", items=["*.{dcm,png}"])
    build(tmp_path / "raw", tmp_path / "out", [record], workers=0, size=32)
    lines = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert [(line["path"], line["outcome"]) for line in lines] == [
        ("own/abort.dcm", "crashed the decoder"), ("own/good.png", "kept")
    ]  # fmt: skip


def picture_bytes():
    data = io.BytesIO()
    Image.fromarray(picture(1)).save(data, "PNG")
    return data.getvalue()
