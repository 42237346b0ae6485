"""An exported Space, sent to the Hub and started by itself there, used in a browser as a visitor would.

Needs gradio and Chromium (Debian's package `chromium`); skipped without.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from model_cards.card import command as card
from model_cards.demo import command as demo
from tests.chromium import Chromium, find_chromium
from tests.preloaded import send, with_torch

from .conftest import BIOVFM

pytestmark = [
    pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed"),
    *(pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed")  # its import would take seconds
      for name in ("gradio", "pydicom", "nibabel")),
]  # fmt: skip

ALONE = "import sys, runpy; sys.path.insert(0, ''); runpy.run_path('app.py', run_name='__main__')"
PICTURES = "[...document.querySelectorAll('img')].filter(image => image.naturalWidth > 0).length"
WINNERS = "[...document.querySelectorAll('[data-testid=label-output-value]')].map(label => label.innerText.trim())"
NAMELESS = """[...document.querySelectorAll("#view img, #colours img, fieldset, button")]
    .filter(part => part.offsetParent && !part.alt && !part.ariaLabel)
    .filter(part => part.tagName != "BUTTON" || !part.innerText.trim())
    .map(part => part.outerHTML.slice(0, 200))"""
SLICE = "document.querySelector('input[type=text], textarea').value"
TYPE_SLICE = f"{SLICE} = '40'; document.querySelector('input[type=text], textarea').dispatchEvent(new Event('input'))"
NEIGHBOURS = "[...document.querySelectorAll('.grid-container img')]"
FARTHEST = f"Math.max(...{NEIGHBOURS}.map(image => image.getBoundingClientRect().right))"
# the shown image, so that a new answer can be told from the one before
VIEW = "document.querySelector('.image-container img, [data-testid=image] img, .image-frame img')?.src"


def write_images(root: Path, make) -> dict[str, Path]:
    """A PNG, a 16-bit DICOM and a NIfTI volume, each with something in it."""
    import nibabel
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    files = {"png": root / "a.png", "dicom": root / "b.dcm", "nifti": root / "c.nii.gz"}
    files["png"].write_bytes(make.image(16, 60))
    y, x = np.mgrid[:64, :64]
    disc = ((y - 30) ** 2 + (x - 34) ** 2 < 300).astype(np.int16)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    scan = FileDataset(files["dicom"], {}, file_meta=meta, preamble=b"\0" * 128)
    scan.SOPClassUID, scan.SOPInstanceUID, scan.Modality = CTImageStorage, meta.MediaStorageSOPInstanceUID, "CT"
    scan.Rows = scan.Columns = 64
    scan.SamplesPerPixel, scan.PhotometricInterpretation = 1, "MONOCHROME2"
    scan.BitsAllocated = scan.BitsStored = 16
    scan.HighBit, scan.PixelRepresentation, scan.RescaleIntercept, scan.RescaleSlope = 15, 1, 0, 1
    scan.PixelData = (disc * 1000 - 500 * (1 - disc)).astype(np.int16).tobytes()
    scan.save_as(files["dicom"], enforce_file_format=True)
    voxels = np.repeat((disc * 900)[:, :, None], 9, axis=2).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), files["nifti"])
    return files


@pytest.fixture
def space(hub, client, hub_environment, saved_model, make, tmp_path):
    """The address of a Space that was exported, pushed, downloaded and started without this package."""
    model = shutil.copytree(saved_model, tmp_path / "model")
    card.main([str(model)])
    client(BIOVFM, "push", model, "owner/tiny")
    for name, shade in (("stripes", 16), ("smooth", 1)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(10):
            (tmp_path / "images" / name / f"{number}.png").write_bytes(make.image(shade, 48 + 2 * number))
    words = ["--index", tmp_path / "images", "--export", tmp_path / "space", "--repo-id", "owner/tiny"]
    assert demo.main([str(word) for word in [model, *words]]) == 0
    client(BIOVFM, "push", tmp_path / "space", "owner/demo", "--private-sources-ok")
    code = "import sys; from huggingface_hub import snapshot_download as get; get('owner/demo', repo_type='space', "
    client(code + "local_dir=sys.argv[1])", tmp_path / "there")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in hub_environment.items() if name != "PYTHONPATH"}
    log = (tmp_path / "space.log").open("w")
    process = subprocess.Popen(
        [with_torch(), "-c", ALONE],
        cwd=tmp_path / "there",
        env=environment | {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"},
        stdout=log,
        stderr=log,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/", process, tmp_path / "space.log")
        yield f"http://127.0.0.1:{port}/"
    finally:
        send(process, signal.SIGKILL)
        process.wait()


def wait_for(url: str, process: subprocess.Popen, log: Path, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).read()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise AssertionError(f"the Space did not start: {log.read_text()[-3000:]}")


def test_a_visitor_drops_a_picture_a_dicom_and_a_volume(space, make, tmp_path):
    files = write_images(tmp_path, make)
    with Chromium(tmp_path) as browser:
        browser.open(space, width=1280, height=1400)
        browser.wait_for("document.querySelector('input[type=file]')")
        seen = set()
        for name, file in files.items():
            browser.open(space, width=1280, height=1400)
            browser.wait_for("document.querySelector('input[type=file]')")
            browser.choose_file("input[type=file]", file)
            browser.wait_for(f"{PICTURES} >= 10")
            words = browser.evaluate("document.body.innerText")
            assert "Votes of the 20 nearest images" in words and "Linear probe" in words, name
            assert "stripes" in words and "smooth" in words and "%" in words, name
            assert "balanced accuracy 1.00" in words, name
            browser.wait_for("document.body.textContent.includes('Done')", seconds=20)
            assert "common." not in browser.evaluate("document.body.textContent"), name  # gradio's keys have words
            assert browser.evaluate(NAMELESS) == [], name
            assert name != "png" or browser.evaluate(WINNERS) == ["stripes", "stripes"]
            seen.add(browser.evaluate(VIEW))
            if folder := os.environ.get("BIOVFM_SCREENSHOTS"):
                browser.screenshot(Path(folder) / f"demo-{name}.png", whole=True)
        assert len(seen) == 3 and None not in seen
        # another picture after a slice of a volume: that slice is forgotten
        browser.evaluate(TYPE_SLICE)
        browser.choose_file("button input[type=file], input[type=file]", files["png"])
        browser.wait_for(f"{SLICE} === '' && !document.body.innerText.includes('Not read')")
        browser.wait_for(f"{VIEW} !== {json.dumps(browser.evaluate(VIEW))} || {PICTURES} >= 10")
        outside = {url for url in browser.requested() if not url.startswith((space, "data:", "blob:"))}
        assert not outside
        browser.open(space, width=390, height=844)
        browser.wait_for("document.querySelector('input[type=file]')")
        browser.choose_file("input[type=file]", files["png"])
        browser.wait_for(f"{PICTURES} >= 10")
        assert browser.evaluate("document.documentElement.scrollWidth") <= 390
        assert browser.evaluate(FARTHEST) <= 390, "all neighbours are on the screen"
        if folder:
            browser.screenshot(Path(folder) / "demo-phone.png", whole=True)
