"""The `biovfm quickstart` command: runs every stage in order, through the functions that a user would call."""

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import biovfm_hf

from ..errors import UserError, require
from ..front_door import objective_title
from ..options import CommandParser
from ..writing.files import atomic_path, check_writable, write_text
from .findings import read_gains, sentences
from .picture import draw_overview
from .raw import lay_out, record_paths
from .tasks import PATCH, write_tasks

DEFAULT_OUT = Path("biovfm-quickstart")
MODELS = ("dino", "dino-random", "mae", "mae-random")
METHODS = ("segment", "linear", "knn")
CONFIGS = Path(__file__).parent
# imports of the steps below, checked before the first step rather than minutes later: what is quickly loaded first
_NEEDS = ("nilearn", "nibabel", "pydicom", "cv2", "skimage", "matplotlib", "sklearn", "datasets", "accelerate")


@dataclass(frozen=True)
class Step:
    """One stage: what it makes (its completion mark), and how."""

    title: str
    makes: Path
    run: Callable[[], None]


def main(argv: Sequence[str]) -> int:
    """The command. Returns the exit status."""
    parser = CommandParser(
        prog="biovfm quickstart",
        description="Build a dataset from real biomedical images, pretrain a small vision transformer on it (DINOv2, "
        "then MAE), probe both against a randomly initialised twin on a part of the brain that was not pretrained on, "
        "write cards and a report, and load the model back. A CPU is enough: about five minutes on two cores.",
        epilog="Stopped or killed, the same command continues. The images ship inside nilearn, pydicom, nibabel and "
        "scikit-image; nothing is downloaded.\n\nexamples:\n  biovfm quickstart\n  biovfm quickstart --out my-folder",
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help=f"folder to fill (default: {DEFAULT_OUT})")
    out = parser.parse_args(argv).out
    if out.exists() and not (out / "quickstart.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not a quickstart folder; name another with --out")
    check_writable(out, folder=True)
    for module in _NEEDS:
        require(module, "demo")
    if not (out / "quickstart.json").is_file():
        write_text(out / "quickstart.json", json.dumps({"made_by": "biovfm quickstart"}) + "\n")
    started = time.monotonic()
    steps = _steps(out)
    for number, step in enumerate(steps, start=1):
        print(f"\n[{number}/{len(steps)}] {step.title}", flush=True)
        if step.makes.exists():
            print(f"done before: {step.makes}")
        else:
            step.run()
    _show(out)
    print(f"\n{(time.monotonic() - started) / 60:.1f} minutes")
    return 0


def _steps(out: Path) -> list[Step]:
    dataset, tasks, results = out / "dataset", out / "tasks", out / "results"
    models = {name: out / "models" / name for name in MODELS}
    encoders = [f"{name}={path}" for name, path in models.items()]
    labelled = [str(tasks / "structure" / "structure.csv"), str(tasks / "structure-map")]
    parts = [dataset, out / "runs" / "dino", out / "runs" / "mae", results]
    return [
        Step("Lay out real images as raw sources", out / "raw", lambda: lay_out(out / "raw")),
        Step(
            "Build the dataset",
            dataset / "manifest.parquet",
            lambda: _call("build", raw=out / "raw", out=dataset, sources=record_paths()),
        ),
        Step("Cut labelled tasks from a part of the brain that was left out", tasks, lambda: write_tasks(tasks)),
        Step(_pretrain_title("dino"), models["dino"], lambda: _pretrain("dino", out, models["dino"])),
        Step(_pretrain_title("mae"), models["mae"], lambda: _pretrain("mae", out, models["mae"])),
        Step("Initialise a twin of each that is never trained", models["mae-random"], lambda: _random_twins(models)),
        Step(
            "Probe all four",
            results / "table.md",
            lambda: _call("probe", model=encoders, tasks=labelled, method=METHODS, out=results, window=PATCH),
        ),
        Step("Write the model cards", out / "cards.done", lambda: _cards(out, models)),
        Step("Draw it all in one picture", out / "overview.png", lambda: draw_overview(out, out / "overview.png")),
        Step("Write the report", out / "report.html", lambda: _call("report", inputs=parts, out=out / "report.html")),
    ]


def _call(name: str, **options: Any) -> Any:
    """Call a function of the front door, as a user would, and show the call."""
    print(f"biovfm_hf.{name}({', '.join(f'{key}={_shown(value)}' for key, value in options.items())})", flush=True)
    return getattr(biovfm_hf, name)(**options)


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return repr(str(value) if isinstance(value, Path) else value)


def _pretrain_title(objective: str) -> str:
    return f"Pretrain with the {objective_title(objective)} objective"


def _pretrain(method: str, out: Path, model: Path) -> None:
    os.environ["ACCELERATE_USE_CPU"] = "true"  # the figures in the README are from a CPU
    config, run = CONFIGS / f"{method}.yaml", out / "runs" / method
    trained = _call("pretrain", config=config, data=out / "dataset", out=run)
    with atomic_path(model) as temporary:
        shutil.copytree(trained, temporary)


def _random_twin(model: Path, twin: Path) -> None:
    """The same architecture, initialisation and preprocessing, never trained."""
    import torch
    from transformers import AutoImageProcessor

    from biovfm_hf import BioVFMConfig, BioVFMModel

    torch.manual_seed(1)
    with atomic_path(twin) as temporary:
        BioVFMModel(BioVFMConfig.from_pretrained(model)).save_pretrained(temporary)
        AutoImageProcessor.from_pretrained(model).save_pretrained(temporary)


def _random_twins(models: dict[str, Path]) -> None:
    for name in ("dino", "mae"):
        _random_twin(models[name], models[f"{name}-random"])


def _cards(out: Path, models: dict[str, Path]) -> None:
    for name in ("dino", "mae"):
        run = out / "runs" / name
        folders = {"results": out / "results", "run": run, "dataset": out / "dataset"}
        # the tasks are cut from a public template brain
        _call("card", model_dir=models[name], **folders, private_images=True)
    write_text(out / "cards.done", "")


def _show(out: Path) -> None:
    """Print the findings, where everything is and what to do next, and load the model as a user would."""
    model_dir = out / "models" / "dino"
    print()
    print("\n".join(sentences(read_gains(out / "results" / "comparisons.json"))))
    print(f"""
report    {out / "report.html"}    open it in a browser
picture   {out / "overview.png"}
results   {out / "results" / "table.md"}
models    {out / "models"}         dino, mae and their random twins, each with its processor
dataset   {out / "dataset"}        load_dataset({str(out / "dataset")!r}, "full", split="train")

{_embedding(out, model_dir)}

next      put your own images in a folder and run
          biovfm embed --model {model_dir} --images FOLDER --out features.parquet
          biovfm pretrain dino_smoke --data FOLDER --out run
          biovfm sources list      # the 61 public sources of BioVFM-21M""")


def _embedding(out: Path, model_dir: Path) -> str:
    """A few numbers of the model's embedding of a test image, loaded with nothing but transformers."""
    import torch
    from transformers import AutoImageProcessor, AutoModel

    image = sorted((out / "tasks" / "structure" / "test").glob("*.png"))[0]
    model = AutoModel.from_pretrained(model_dir)
    processor = AutoImageProcessor.from_pretrained(model_dir)
    with torch.no_grad():
        embedding = model(**processor(str(image), return_tensors="pt")).pooler_output[0]
    values = ", ".join(f"{value:.3f}" for value in embedding[:6])
    return (
        f"AutoModel.from_pretrained({str(model_dir)!r}) embeds {image.name} as\n"
        f"  [{values}, ...]  ({len(embedding)} numbers)"
    )
