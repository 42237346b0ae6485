"""Damaged files of every format: each gives lines of the manifest, never stops the build, and never takes long."""

import gzip
import io
import random
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import av
import h5py
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
import scipy.io
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from dataset_builder.build import build
from dataset_builder.dataset.check import faults
from tests.fuzz.run import damaged

RECORD = {
    "access": "open",  # of a published source all names are shown, so that each file can be found again
    "items": [
        {"pattern": "**/*.{nii,nii.gz,nrrd,mha}", "kind": "volume", "modality": "MR"},
        {"pattern": "**/*.{mp4,avi}", "kind": "video", "fps": 5.0},
        {"pattern": "**/*.h5", "kind": "hdf5", "adapter": "hdf5_rows", "key": "x"},
        "**/*.{png,jpg,gif,bmp,ppm,pgm,webp,tiff,jp2,dcm,npy,mat}",
    ],
    "modality": ["Ultrasound", "MR"],
    "labels": [
        {"path": r"\.(png|jpg|gif|tiff?|bmp|p[pg]m|webp|jp2|dcm|npy|mat|mp4|avi|h5|zip|tar)", "modality": "Ultrasound"}
    ],
}
FORMATS = 26


def samples(folder: Path, make) -> dict[str, bytes]:
    """One good file of every format."""
    found: dict[str, bytes] = {}
    grey, colour = Image.fromarray(make.picture(1)), Image.fromarray(make.picture(2, channels=3))
    deep = Image.fromarray(make.picture(6).astype(np.uint16) * 256)
    for name, format, image in (
        ("png", "PNG", grey),
        ("jpg", "JPEG", colour),
        ("gif", "GIF", grey),
        ("bmp", "BMP", colour),
        ("ppm", "PPM", colour),
        ("pgm", "PPM", grey),
        ("webp", "WEBP", colour),
        ("jp2", "JPEG2000", grey),
        ("deep.png", "PNG", deep),
    ):
        buffer = io.BytesIO()
        image.save(buffer, format=format)
        found[name] = buffer.getvalue()
    buffer = io.BytesIO()
    grey.save(buffer, format="TIFF", save_all=True, append_images=[grey, grey], compression="tiff_lzw")
    found["tiff"] = buffer.getvalue()
    make.dicom(folder / "a.dcm", make.picture(3))
    found["dcm"] = (folder / "a.dcm").read_bytes()
    for name, syntax in (("j2k.dcm", JPEG2000Lossless), ("rle.dcm", RLELossless)):
        dataset = pydicom.dcmread(folder / "a.dcm")
        dataset.compress(syntax)
        dataset.save_as(folder / name)
        found[name] = (folder / name).read_bytes()
    dataset = pydicom.dcmread(folder / "a.dcm")
    buffer = io.BytesIO()
    grey.save(buffer, format="JPEG")
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = pydicom.encaps.encapsulate([buffer.getvalue()])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(folder / "jpeg.dcm")
    found["jpeg.dcm"] = (folder / "jpeg.dcm").read_bytes()
    make.nifti(folder / "a.nii", make.volume(1, (26, 26, 26)))
    found["nii"] = (folder / "a.nii").read_bytes()
    found["nii.gz"] = gzip.compress(found["nii"])
    voxels = make.volume(2, (26, 26, 26)).tobytes()
    found["nrrd"] = (
        b"NRRD0004\ntype: short\ndimension: 3\nsizes: 26 26 26\nendian: little\nencoding: gzip\n\n"
        + gzip.compress(voxels)
    )
    found["mha"] = (
        b"ObjectType = Image\nNDims = 3\nDimSize = 26 26 26\nElementType = MET_SHORT\nCompressedData = True\n"
        b"ElementDataFile = LOCAL\n" + zlib.compress(voxels)
    )
    np.save(folder / "a.npy", make.picture(4))
    found["npy"] = (folder / "a.npy").read_bytes()
    scipy.io.savemat(folder / "a.mat", {"image": make.picture(5)})
    found["mat"] = (folder / "a.mat").read_bytes()
    with h5py.File(folder / "a.h5", "w") as file:
        file["x"] = np.stack([make.picture(n, 32, 32) for n in range(3)])
    found["h5"] = (folder / "a.h5").read_bytes()
    for name in ("mp4", "avi"):
        with av.open(str(folder / f"a.{name}"), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width = stream.height = 64
            for n in range(20):
                for packet in stream.encode(av.VideoFrame.from_ndarray(make.picture(n, channels=3), format="rgb24")):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
        found[name] = (folder / f"a.{name}").read_bytes()
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("png", "dcm", "nii"):
            archive.writestr(f"in/{name}.{name}", found[name])
    found["zip"] = (folder / "a.zip").read_bytes()
    for name, mode in (("tar.gz", "w:gz"), ("tar", "w")):
        with tarfile.open(folder / f"a.{name}", mode) as tar:
            for suffix in ("png", "jpg"):
                entry = tarfile.TarInfo(f"in/{suffix}.{suffix}")
                entry.size = len(found[suffix])
                tar.addfile(entry, io.BytesIO(found[suffix]))
        found[name] = (folder / f"a.{name}").read_bytes()
    return found


def fuzzed(tmp_path: Path, make, count: int, seed: int) -> tuple[Path, str]:
    (tmp_path / "good").mkdir()
    good = samples(tmp_path / "good", make)
    rng = random.Random(seed)
    folder = tmp_path / "raw" / "fuzz"
    folder.mkdir(parents=True)
    names = sorted(good)
    assert len(names) == FORMATS
    for number in range(count):
        name = names[number % len(names)]
        data = good[name] if number < len(names) else damaged(good[name], rng)
        (folder / f"{number:05d}.{name}").write_bytes(data)
    return tmp_path / "raw", str(make.record(tmp_path, "fuzz", **RECORD))


def test_good_and_damaged_files_are_accounted_for(tmp_path, make):
    raw, record = fuzzed(tmp_path, make, 130, seed=0)
    build(raw, tmp_path / "out", [record], workers=0, size=32)
    outcomes, found = faults(tmp_path / "out")
    assert found == []
    manifest = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    seen = {line["path"].split("!")[0].split("#")[0] for line in manifest}
    assert seen == {f"fuzz/{path.name}" for path in (raw / "fuzz").iterdir()}
    kept = {line["path"].split("!")[0].split("#")[0] for line in manifest if line["outcome"] != "unreadable"}
    formats = {path.name for path in (raw / "fuzz").iterdir() if int(path.name[:5]) < FORMATS}
    assert {name[5:] for name in kept} >= formats  # the good ones
    assert outcomes["unreadable"] > 20
    assert not [line for line in manifest if str(tmp_path) in str(line["detail"])]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_thousand_damaged_files(tmp_path, make):
    """With worker processes: a decoder that crashes or needs more than 10 s would be named in the outcomes."""
    raw, record = fuzzed(tmp_path, make, 2000, seed=1)
    started = time.monotonic()
    summary = build(raw, tmp_path / "out", [record], workers=2, size=32, item_seconds=10)
    print(summary["outcomes"], round(time.monotonic() - started), "s")
    assert faults(tmp_path / "out")[1] == []
    manifest = pq.read_table(tmp_path / "out" / "manifest.parquet", columns=["path"]).to_pylist()
    assert len({line["path"].split("!")[0].split("#")[0] for line in manifest}) == 2000
    assert "timed out" not in summary["outcomes"]
    assert "crashed the decoder" not in summary["outcomes"]
