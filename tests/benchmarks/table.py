"""Compare this package with others at the same work, and print one table; docs/benchmarks.md shows it.

    python tests/benchmarks/table.py [NAME ...]      all rows, or some; several take minutes of an idle core

If another package is not installed, its row says so. PYTHONPATH can add packages (`PYTHONPATH=/tmp/peers`), and
BIOVFM_IMG2DATASET names the Python of an environment with img2dataset. Seconds are CPU time of one thread.
"""

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the rooms, which no installation puts there

from evaluation.probes.neighbours import nearest, unit_centre, unit_offsets
from tests.benchmarks import test_bootstrap_speed as resampling
from tests.benchmarks import test_build_speed as building
from tests.benchmarks import test_dino_step as steps
from tests.benchmarks import test_embed_speed as embedding
from tests.benchmarks import test_input_pipeline as crops
from training.settings.augment import AugmentConfig

CPU = Path("/proc/cpuinfo")
Pair = tuple[float, float]  # CPU seconds of this package and of the other

POOL = """
import io, sys
from multiprocessing import Pool
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps


def row(path):
    image = ImageOps.pad(Image.open(path), (224, 224), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return {"image": {"bytes": buffer.getvalue(), "path": path.name}}


if __name__ == "__main__":
    with Pool(1) as pool:
        rows = pool.map(row, sorted(Path(sys.argv[1]).rglob("*.png")))
    pq.write_table(pa.Table.from_pylist(rows), sys.argv[2])
"""


LIGHTLY = """
import sys
import lightly_train

if __name__ == "__main__":
    lightly_train.pretrain(data=sys.argv[1], out=sys.argv[2], model="dinov2/vits14-notpretrained", method="dinov2",
                           epochs=1, batch_size=4, num_workers=0, accelerator="cpu", devices=1, precision="32-true")
"""
OURS = "model.patch_size=14 augment.local_size=98 batch.size=4 batch.per_process=4 data.workers=0 run.compile=false"


def step(method: str, folder: Path) -> Pair:
    """Seconds of a step in float32, the best of three."""
    with steps.start_side(method, "ours", "fp32") as ours, steps.start_side(method, "theirs", "fp32") as theirs:
        rounds = [(steps.ask(ours)["seconds"], steps.ask(theirs)["seconds"]) for _ in range(4)]
        for side in (ours, theirs):
            side.communicate()
    best = np.min(rounds[1:], axis=0)
    return float(best[0]), float(best[1])


def by_lightly(folder: Path) -> Pair:
    """Seconds of a step of four images, loader included: whole commands with their own recipes, beyond start-up."""
    (folder / "peer.py").write_text(LIGHTLY)
    seconds: list[Pair] = []
    for count in (8, 24):
        images = folder / f"images{count}"
        images.mkdir()
        for number in range(count):
            Image.fromarray(building.textured(number, 256)).save(images / f"{number}.png")
        words = ["-m", "biovfm_hf.cli", "pretrain", "dino_vit_small", "--data", str(images)]
        words += ["--out", str(folder / f"ours{count}"), f"steps={count // 4}", "run.device=cpu", *OURS.split()]
        ours = building.cpu_seconds([sys.executable, *words])
        peer = [sys.executable, str(folder / "peer.py"), str(images), str(folder / f"theirs{count}")]
        seconds.append((ours, building.cpu_seconds(peer)))
    few, many = np.array(seconds) / 4
    return float(many[0] - few[0]), float(many[1] - few[1])


def embedded(folder: Path, peer: Callable[[Path, list[str]], float]) -> Pair:
    """Seconds of an image, from JPEG files of 512 pixels to a ViT-T's class tokens."""
    images = embedding.write_images(folder / "images", ".jpg", 512, False)
    model = embedding.save_model(folder / "model", *embedding.WHOLE)
    paths = sorted(str(path) for path in images.iterdir())
    theirs = peer(model, paths)
    ours = embedding.our_seconds(model, images, folder / "cache", "fp32")[0][1]
    return ours / len(paths), theirs / len(paths)


def by_pipeline(model: Path, paths: list[str]) -> float:
    return embedding.pipeline_seconds(model, paths, "fp32")[0][1]


def by_timm(model: Path, paths: list[str]) -> float:
    """timm's ViT-T/16 over a DataLoader, in this process."""
    import timm
    from timm.data import create_transform, resolve_data_config

    network = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    transform = create_transform(**resolve_data_config({}, model=network))

    def tensors(part: list[str]) -> torch.Tensor:
        return torch.stack([transform(Image.open(path).convert("RGB")) for path in part])

    loader = torch.utils.data.DataLoader(paths, embedding.BATCH, collate_fn=tensors)  # type: ignore[arg-type]
    with torch.no_grad():
        network(tensors(paths[:2]))
        return embedding.timed(lambda: [network(batch) for batch in loader])[0][1]


def two_by_eight(folder: Path) -> Pair:
    """Seconds of an image: a PNG of 256 pixels decoded, two crops of 224 and eight of 96, normalised."""
    config, files = AugmentConfig(), crops.encoded_images("PNG", True)
    pipelines = (crops.our_pipeline(config), second_version(config))
    ours, theirs = (1 / crops.images_per_cpu_second(pipeline, files) for pipeline in pipelines)
    return ours, theirs


def second_version(config: AugmentConfig) -> Callable[[bytes], list[torch.Tensor]]:
    """The crops by torchvision's `transforms.v2` on tensors, which it decodes itself."""
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    def view(size: int, scale: tuple[float, float], kind: int) -> v2.Compose:
        jitter = v2.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue)
        parts = [
            v2.RandomResizedCrop(size, scale, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(config.horizontal_flip),
            v2.RandomApply([jitter], config.jitter_p),
            v2.RandomGrayscale(config.grayscale_p),
            v2.RandomApply([v2.GaussianBlur(config.blur_kernel, config.blur_sigma)], config.blur_p[kind]),
            v2.RandomSolarize(config.solarize_threshold, config.solarize_p[kind]),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(config.mean, config.std),
        ]
        return v2.Compose(parts)

    views = [view(config.global_size, config.global_scale, kind) for kind in (0, 1)]
    views += [view(config.local_size, config.local_scale, 2)] * config.local_count

    def run(data: bytes) -> list[torch.Tensor]:
        image = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
        return [make(image) for make in views]

    return run


def neighbours(folder: Path) -> Pair:
    """Seconds of one of 4,096 queries: its 200 nearest of 100,000 vectors of 1,024 by cosine, the index included."""
    import faiss

    faiss.omp_set_num_threads(1)
    generator = np.random.default_rng(0)
    support, queries = (generator.standard_normal((count, 1024), np.float32) for count in (100_000, 4096))
    started = time.process_time()
    centre = unit_centre(support)
    ours = [rows for _, rows in nearest(unit_offsets(queries, centre), unit_offsets(support, centre), 200)]
    middle = time.process_time()
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (support, queries)]
    index = faiss.IndexFlatIP(1024)
    index.add(unit[0])
    theirs = index.search(unit[1], 200)[1]
    ended = time.process_time()
    assert np.mean(torch.cat(ours).numpy() == theirs) > 0.99
    return (middle - started) / len(queries), (ended - middle) / len(queries)


def builds(folder: Path, peer: Callable[[Path, Path], list[str]]) -> Pair:
    """Seconds of a PNG of 1024 pixels to a row of Parquet: whole commands with one worker, beyond their start-up."""
    files = folder / "files"
    files.mkdir()
    building.write_pictures(files)
    seconds = building.whole_builds(files, folder, lambda raw, work: {"peer": peer(raw, work)})
    return seconds["ours"], seconds["peer"]


def by_img2dataset(raw: Path, folder: Path) -> list[str]:
    return building.img2dataset_commands(f"file://{raw}", raw, folder)


def by_pool(raw: Path, folder: Path) -> list[str]:
    script = folder / "pool.py"
    script.write_text(POOL)
    return [sys.executable, str(script), str(raw)]


@dataclass(frozen=True)
class Comparison:
    """One row: the work, the unit of it that is timed, the peer, and the module that it needs."""

    work: str
    unit: str
    peer: str
    module: str
    measure: Callable[[Path], Pair]

    @property
    def missing(self) -> bool:
        if self.module == "img2dataset":  # in an environment of its own
            return "BIOVFM_IMG2DATASET" not in os.environ
        return importlib.util.find_spec(self.module) is None


ROWS = {
    "dino": Comparison("DINOv2's step, ViT-S/16, 4 images", "step", "two passes of Dinov2Model", "transformers",
                       lambda folder: step("dino", folder)),
    "mae": Comparison("MAE's step, ViT-S/16, 8 images", "step", "ViTMAEForPreTraining", "transformers",
                      lambda folder: step("mae", folder)),
    "lightly": Comparison("DINOv2 with its loader, ViT-S/14, 4 images", "step", "lightly-train", "lightly_train",
                          by_lightly),
    "crops": Comparison("two crops of 224 and eight of 96", "image", "torchvision's transforms.v2", "torchvision",
                        two_by_eight),
    "pipeline": Comparison("embedding by ViT-T/16", "image", "transformers' pipeline", "transformers",
                           lambda folder: embedded(folder, by_pipeline)),
    "timm": Comparison("embedding by ViT-T/16", "image", "timm with a DataLoader", "timm",
                       lambda folder: embedded(folder, by_timm)),
    "knn": Comparison("200 nearest of 100,000 x 1,024", "query", "faiss, flat", "faiss", neighbours),
    "bootstrap": Comparison("1,000 resamples of ChestMNIST's scores", "run", "a loop over scikit-learn", "sklearn",
                            lambda folder: resampling.measured()[:2]),
    "pool": Comparison("PNG of 1024 pixels to a row", "image", "a Pool, Pillow and pyarrow in 20 lines", "pyarrow",
                       lambda folder: builds(folder, by_pool)),
    "img2dataset": Comparison("PNG of 1024 pixels to a row", "image", "img2dataset, from files", "img2dataset",
                              lambda folder: builds(folder, by_img2dataset)),
}  # fmt: skip


def environment(name: str) -> dict[str, str]:
    """Variables of a row's process.

    The OpenBLAS inside faiss takes a slow kernel on processors that are newer than it is. So it is told of AVX-512.
    """
    path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    if name == "knn" and CPU.exists() and "avx512f" in CPU.read_text(encoding="utf-8"):
        variables.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
    return variables


def line(name: str) -> str:
    """A row, measured in a separate process."""
    row = ROWS[name]
    start = f"| {row.work} | {row.peer} |"
    if row.missing:
        return f"{start} | not installed | |"
    command = [sys.executable, "-W", "ignore", __file__, "--measure", name]
    done = subprocess.run(command, env=environment(name), capture_output=True, text=True, check=False)
    if done.returncode:
        return f"{start} | failed: {(done.stderr.strip().splitlines() or ['no message'])[-1][:120]} | |"
    this, other = json.loads(done.stdout.splitlines()[-1])
    return f"{start} {duration(this)} per {row.unit} | {duration(other)} | {other / this:.2f} |"


def duration(seconds: float) -> str:
    """Seconds to three digits, below one of them in milliseconds."""
    digits = 2 - math.floor(math.log10(seconds))
    return f"{round(seconds, digits):,g} s" if seconds >= 1 else f"{round(1000 * seconds, digits - 3):g} ms"


def measure(name: str) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(ROWS[name].measure(Path(folder))))


def main(names: list[str]) -> None:
    print("| work | compared with | this package | the other | other / this |\n|---|---|---|---|---|", flush=True)
    for name in names or ROWS:
        print(line(name), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"rows: {', '.join(ROWS)}")
    parser.add_argument("--measure", choices=ROWS, help="measure this row, and print the seconds of both")
    words = parser.parse_args()
    if unknown := [name for name in words.names if name not in ROWS]:
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    if words.measure:
        measure(words.measure)
    else:
        main(words.names)
