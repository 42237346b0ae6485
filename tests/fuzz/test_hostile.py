"""Small files that ask for gigabytes or minutes are refused beforehand, or ended, within seconds and below 1.2 GiB."""

import time

import pytest

from biovfm_hf.errors import UserError
from biovfm_hf.reading.image_files import is_plain
from biovfm_hf.reading.limited import Limited, Stopped
from dataset_builder.limits import Refused
from tests.fuzz.hostile import HOSTILE
from tests.fuzz.run import LIMITS, read_all

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


@pytest.mark.parametrize("name", sorted(set(HOSTILE) - {"overlapping.zip"}))
def test_hostile_files_are_refused_before_they_cost_anything(tmp_path, name):
    path = tmp_path / name
    HOSTILE[name](path)
    assert not is_plain(path.read_bytes())
    limited = Limited(LIMITS, preload=("tests.fuzz.run",))
    limited.call("warm", abs, -1)
    begun = time.process_time()
    if name in GOOD:
        limited.call(name, read_all, path)
    else:
        with pytest.raises((UserError, Refused)) as told:
            limited.call(name, read_all, path)
        assert TOLD[name] in str(told.value) and not isinstance(told.value, Stopped)
    limited.close()
    assert limited.peak < LIMITS.memory and time.process_time() - begun < 10
