"""Speed of the builder, as CPU time of one core and as a ratio to a bare decode measured in the same run.

Run by hand: `pytest tests/benchmarks/test_build_speed.py -m slow -s`. Absolute figures belong to a class of machine
and its load; the ratios are what is asserted. Each figure is the best of several rounds of the same work.

The comparison with img2dataset needs it in an environment of its own, whose Python BIOVFM_IMG2DATASET names:
`python -m venv i2d && i2d/bin/pip install img2dataset && BIOVFM_IMG2DATASET=i2d/bin/python pytest ...`
"""

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dataset_builder import readers
from dataset_builder.item import Item
from dataset_builder.options import BuildOptions
from dataset_builder.plan.plan import Options
from dataset_builder.readers.slicing import VIEWS
from dataset_builder.screening.hashing import fingerprint, reduced, sha256_of_pixels
from dataset_builder.screening.leakage import framings
from dataset_builder.screening.rules import RULES, judged
from dataset_builder.shards.reading import encoded, fitted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROUNDS = 5
PNG = BuildOptions(Path("out"), Path("raw")).shaping
JPEG = replace(PNG, image_format="jpeg")
ROOT = Path(__file__).resolve().parents[2]


def best_seconds(work: Callable[[], int]) -> float:
    """CPU seconds for one picture: the best round of `work`, which returns how many it made."""
    cv2.setNumThreads(1)
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        count = work()
        times.append((time.process_time() - started) / count)
    return min(times)


def to_rows(source: Path, kind: str, options: Options, setting: object = None) -> int:
    """All that the builder does with a file except writing Parquet: read, screen, resize, fingerprint, encode."""
    item = Item(source.name, None, kind, intensity=setting)
    count = 0
    for picture in readers.read(source, item, source.parent, VIEWS, options.size):
        count += 1
        if judged(picture, RULES) is not None:
            continue
        content, image = fitted(picture, options)
        sha256_of_pixels(image)
        for framing in framings(reduced(content)):
            fingerprint(framing)
        encoded(image, options)
    return count


def textured(seed: int, side: int = 1024) -> np.ndarray:
    """Texture with the spectrum of natural and medical images (1 / f) and a little noise, uint8."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.standard_normal((side, side)))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1
    image = np.fft.irfft2(spectrum / frequency**1.2, s=(side, side))
    image = (image - image.min()) / (image.max() - image.min()) * 220 + rng.normal(0, 2, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def ct(seed: int) -> np.ndarray:
    """A noisy CT of 256 x 256 x 150: soft tissue and bone in air; about 11 MB compressed."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(np.linspace(-1, 1, 256), np.linspace(-1, 1, 256), np.linspace(-1, 1, 150), indexing="ij")
    body = x * x * 1.2 + y * y + z * z * 0.2 < 0.9
    tissue = 40 + 60 * np.sin(9 * x + 4 * y) * np.cos(7 * z)
    return (np.where(body, tissue, -1000) + rng.normal(0, 25, body.shape)).astype(np.int16)


def write_pictures(folder: Path) -> None:
    for number in range(6):
        image = Image.fromarray(textured(number))
        image.save(folder / f"{number}.png")
        image.save(folder / f"{number}.jpg", quality=90)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    import nibabel

    folder = tmp_path_factory.mktemp("speed")
    write_pictures(folder)
    for number in range(2):
        nibabel.save(nibabel.Nifti1Image(ct(number), np.eye(4)), folder / f"{number}.nii.gz")
    return folder


def bare(folder: Path, pattern: str) -> float:
    paths = sorted(folder.glob(pattern))
    return best_seconds(lambda: sum(1 for path in paths if np.asarray(Image.open(path)).size))


def built(folder: Path, pattern: str, kind: str, options: Options, setting: object = None) -> float:
    paths = sorted(folder.glob(pattern))
    return best_seconds(lambda: sum(to_rows(path, kind, options, setting) for path in paths))


def tell(name: str, seconds: float, other: str, reference: float) -> None:
    print(f"\n{name}: {1 / seconds:,.0f} per core-second; {reference / seconds:.2f} x {other} ({1 / reference:,.0f})")


def test_png_rows(files):
    """A full decode of PNG cannot be avoided; everything else together must cost little in comparison."""
    seconds, decode = built(files, "*.png", "image", PNG), bare(files, "*.png")
    tell("1024 x 1024 PNG to PNG rows", seconds, "a bare decode", decode)
    assert seconds < 1.6 * decode  # 75 images per core-second where a bare decode takes 8.5 ms


# Workers of a pool may be children of a server that the command starts and does not wait for. So all processes that
# lose their parent become children of this one (PR_SET_CHILD_SUBREAPER), which waits for each.
WAITING = """
import ctypes, os, resource, subprocess, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
try:
    while True:
        os.wait()
except ChildProcessError:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""


def cpu_seconds(command: list[str]) -> float:
    """CPU time of a command and of all processes that it starts, on Linux."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WAITING, *command], check=True, capture_output=True, cwd=ROOT, env=environment
    )
    return float(done.stdout)


IMG2DATASET = """
import sys
from img2dataset import download
if __name__ == "__main__":
    download(url_list=sys.argv[1], output_folder=sys.argv[2], output_format="parquet", image_size=224,
             resize_mode="border", encode_format="png", encode_quality=1, processes_count=1, thread_count=1)
"""
RECORD = "{id: speed, name: speed, modality: X-Ray, anatomies: [chest], items: ['*.png'], train: all}"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of `folder` on a local HTTP server, whose CPU time is not counted."""
    words = ["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)]
    server = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield f"http://127.0.0.1:{server.stdout.readline().split()[5]}"
    finally:
        server.kill()
        server.wait()


def whole_builds(files: Path, folder: Path, peers: Callable[[Path, Path], dict[str, list[str]]]) -> dict[str, float]:
    """CPU seconds of a 1024 x 1024 PNG to a row of Parquet, in whole commands, beyond their start-up.

    Args:
        files: the folder of `write_pictures`.
        folder: to work in.
        peers: (the raw folder, a folder of its own) -> name and command of each peer, which gets an output last.
    """
    (folder / "speed.yaml").write_text(RECORD)
    seconds: dict[str, list[float]] = {}
    for count in (6, 246):
        raw = folder / f"raw{count}" / "speed"
        raw.mkdir(parents=True)
        for number in range(count):
            (raw / f"{number}.png").write_bytes((files / f"{number % 6}.png").read_bytes())
        words = ["-m", "biovfm_hf.cli", "build", "--raw", str(raw.parent), "--sources", str(folder / "speed.yaml")]
        commands = {"ours": [sys.executable, *words, "--workers", "1", "--out"], **peers(raw, folder)}
        for name, command in commands.items():
            outs = [str(folder / f"{name}{count}-{again}") for again in range(3)]
            seconds.setdefault(name, []).append(min(cpu_seconds([*command, out]) for out in outs))
    return {name: (many - few) / 240 for name, (few, many) in seconds.items()}


def img2dataset_commands(top: str, raw: Path, folder: Path) -> list[str]:
    """The command that fetches the files of `raw` below the address `top`."""
    urls, script = folder / f"{top.split(':')[0]}-{raw.parent.name}.txt", folder / "run.py"
    urls.write_text("".join(f"{top}/{file.name}\n" for file in sorted(raw.iterdir())))
    script.write_text(IMG2DATASET)
    return [os.environ["BIOVFM_IMG2DATASET"], str(script), str(urls)]


@pytest.mark.skipif("BIOVFM_IMG2DATASET" not in os.environ, reason="BIOVFM_IMG2DATASET names no Python")
def test_whole_builds_against_img2dataset(files, tmp_path):
    """The same 1024 x 1024 PNG files to Parquet with PNGs of level 1, both as whole commands, beyond their start-up.

    img2dataset fetches what it reads: here from this machine over HTTP, and, which is the least it can do, from
    file:// addresses.
    """
    with served(tmp_path) as address:
        seconds = whole_builds(
            files,
            tmp_path,
            lambda raw, folder: {
                "http": img2dataset_commands(f"{address}/{raw.relative_to(folder)}", raw, folder),
                "file": img2dataset_commands(f"file://{raw}", raw, folder),
            },
        )
    ours, http, file = (seconds[name] for name in ("ours", "http", "file"))
    tell("whole builds of 1024 x 1024 PNG", ours, "img2dataset over HTTP", http)
    tell("whole builds of 1024 x 1024 PNG", ours, "img2dataset from files", file)
    assert ours < http / 1.15
    assert ours < file / 1.2


def test_two_workers_cost_what_one_does(files, tmp_path):
    """Workers share nothing: CPU time for each picture stays, beyond start-up, and throughput grows with the cores."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for count in (2, 92):
        sources = []
        for name in ("a", "b", "c", "d"):
            folder = tmp_path / f"raw{count}" / name
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}.png").write_bytes((files / f"{number % 6}.png").read_bytes())
            (tmp_path / f"{name}.yaml").write_text(RECORD.replace("id: speed", f"id: {name}"))
            sources.append(str(tmp_path / f"{name}.yaml"))
        words = [
            "-m",
            "biovfm_hf.cli",
            "build",
            "--raw",
            str(tmp_path / f"raw{count}"),
            "--sources",
            ",".join(sources),
        ]
        for workers in seconds:
            command = [sys.executable, *words, "--workers", str(workers), "--out"]
            outs = [str(tmp_path / f"{count}-{workers}-{again}") for again in range(2)]
            seconds[workers].append(min(cpu_seconds([*command, out]) for out in outs))
    one, two = ((many - few) / 360 for few, many in seconds.values())
    tell("whole builds with two workers", two, "one worker", one)
    assert two < one * 1.3


def test_jpeg_rows(files):
    def pillow() -> int:
        paths = sorted(files.glob("*.jpg"))
        for path in paths:
            image = Image.open(path).resize((224, 224), Image.Resampling.BICUBIC)
            image.save(io.BytesIO(), format="JPEG", quality=95)
        return len(paths)

    seconds, full = built(files, "*.jpg", "image", JPEG), best_seconds(pillow)
    tell("1024 x 1024 JPEG to JPEG rows", seconds, "a full decode, resize and encode with Pillow", full)
    # The builder hashes and fingerprints as well.
    assert seconds < full / 1.4


def test_volume_rows(files):
    import nibabel

    def obvious() -> int:
        count = 0
        for path in sorted(files.glob("*.nii.gz"))[:1]:
            volume = nibabel.load(path).get_fdata()
            for axis in range(3):
                for index in range(volume.shape[axis]):
                    where: list = [slice(None)] * 3
                    where[axis] = index
                    pixels = volume[tuple(where)]
                    low, high = pixels.min(), pixels.max()
                    pixels = ((pixels - low) / (high - low) * 255).astype(np.uint8)
                    image = Image.fromarray(pixels)
                    image.thumbnail((224, 224), Image.Resampling.BICUBIC)
                    image.save(io.BytesIO(), format="PNG")
                    count += 1
        return count

    window = {"window": [-160, 240]}
    png, jpeg = built(files, "*.nii.gz", "volume", PNG, window), built(files, "*.nii.gz", "volume", JPEG, window)
    reference = best_seconds(obvious)
    tell("slices of 256 x 256 x 150 .nii.gz to PNG rows", png, "get_fdata and Pillow", reference)
    tell("slices of 256 x 256 x 150 .nii.gz to JPEG rows", jpeg, "get_fdata and Pillow", reference)
    assert png < reference / 3
    assert jpeg < reference / 4


def test_jpeg2000_dicom(files):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(files / "a.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 2048, 2500, 1
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelData = (textured(9, 2500)[:2048].astype(np.uint16) * 16).tobytes()
    dataset.compress(JPEG2000Lossless)
    dataset.save_as(files / "a.dcm")
    global ROUNDS
    rounds, ROUNDS = ROUNDS, 2
    full = best_seconds(lambda: 1 if pydicom.dcmread(files / "a.dcm").pixel_array.size else 0)
    seconds = best_seconds(lambda: to_rows(files / "a.dcm", "image", PNG))
    ROUNDS = rounds
    tell("5-megapixel JPEG 2000 DICOM to PNG rows", seconds, "a full decode", full)
    assert seconds < full / 5


def test_peak_memory_of_a_large_volume(tmp_path):
    """512 x 512 x 1000 voxels of 16 bits (500 MiB), as .nii.gz, in a process of its own."""
    script = """
import resource, sys
from pathlib import Path
import numpy as np, nibabel, gzip
from dataset_builder import readers
from dataset_builder.item import Item
path = Path(sys.argv[1])
count = 0
for picture in readers.read(path, Item(path.name, None, "volume"), path.parent, ("axial",), 224):
    count += 1
assert count == 1000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    import gzip

    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_shape((512, 512, 1000))
    header.set_data_dtype(np.int16)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    slab = np.random.default_rng(0).integers(-1000, 1000, (512, 512), dtype=np.int16).tobytes()
    with gzip.open(tmp_path / "a.nii.gz", "wb", compresslevel=1) as file:
        file.write(header.binaryblock + b"\0" * 4)
        for _ in range(1000):
            file.write(slab)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.nii.gz")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    print(f"\npeak memory: {int(done.stdout)} MiB")
    assert int(done.stdout) < 1024
