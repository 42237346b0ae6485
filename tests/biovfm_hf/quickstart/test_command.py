"""The quickstart: its images and tasks are what they claim, and its steps run in order, stop and continue."""

import csv
import importlib
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from biovfm_hf.cli import main as biovfm
from biovfm_hf.quickstart import command, raw, tasks
from tests.preloaded import python


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quickstart") / "tasks"
    tasks.write_tasks(folder)
    return folder


def test_raw_sources_hold_real_images(tmp_path: Path) -> None:
    raw.lay_out(tmp_path / "raw")
    records = {path.stem for path in raw.record_paths()}
    assert {path.name for path in (tmp_path / "raw").iterdir()} == records
    assert len(list((tmp_path / "raw").rglob("*.png"))) > 150 and len(list((tmp_path / "raw").rglob("*.dcm"))) >= 9
    import nibabel

    volume = nibabel.load(tmp_path / "raw" / "mni152" / "sub-mni152_T1w.nii.gz")
    front = (volume.affine @ [0, volume.shape[1] - 1, 0, 1])[1]
    assert front < raw.PRETRAINING_ENDS < raw.TASKS_BEGIN, "nothing of the tasks' slabs is pretrained on"


def test_patches_are_what_their_label_says(task_folder: Path) -> None:
    brain = raw.load_brain()
    grey, fluid = brain.grey, 1 - brain.grey - brain.white
    maps = {"cortex": grey, "basal ganglia": grey, "white matter": brain.white, "ventricle": fluid, "sulcus": fluid}
    with (task_folder / "structure" / "structure.csv").open() as file:
        rows = list(csv.DictReader(file))
    slices: dict[str, set[int]] = {}
    for row in rows:
        x, y, z = place(row["image"])
        assert maps[row["label"]][x, y, z] > 0.49 and row["subject"] == f"y{y:03d}"
        slices.setdefault(row["split"], set()).add(y)
    assert len(rows) == 1750 and len({row["image"] for row in rows}) == 1750
    assert min(slices["train"]) >= raw.front_of(brain.affine, raw.TASKS_BEGIN)
    assert max(slices["train"]) + 2 < min(slices["val"]) and max(slices["val"]) + 2 < min(slices["test"])


def place(path: str) -> tuple[int, ...]:
    x, y, z = (int(re.search(rf"{axis}(\d+)", Path(path).stem)[1]) for axis in "xyz")  # type: ignore[index]
    return x, y, z


def test_every_patch_is_stretched_to_its_own_range(task_folder: Path) -> None:
    for path in (task_folder / "structure" / "train").iterdir():
        pixels = np.asarray(Image.open(path))
        assert pixels.shape == (24, 24) and pixels.min() == 0 and pixels.max() == 255


def test_maps_line_up_with_their_images(task_folder: Path) -> None:
    for split in ("train", "val", "test"):
        images = sorted((task_folder / "structure-map" / split / "images").iterdir())
        assert len(images) >= 24
        brightness: dict[int, list[float]] = {1: [], 2: [], 3: [], 4: []}
        for path in images:
            image = np.asarray(Image.open(path))
            mask = np.asarray(Image.open(path.parents[1] / "masks" / path.name))
            assert image.shape == mask.shape == (64, 64) and set(np.unique(mask)) <= {0, 1, 2, 3, 4}
            for label, values in brightness.items():
                values.extend(image[mask == label].tolist())
        cortex, white, basal_ganglia, ventricle = (np.mean(values) for values in brightness.values())
        assert white > 1.2 * cortex > 1.2 * ventricle, "as in T1"
        assert white > basal_ganglia > ventricle


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The quickstart with a few steps of pretraining and a few patches."""
    for method in ("dino", "mae"):
        config = yaml.safe_load((command.CONFIGS / f"{method}.yaml").read_text())
        config["steps"] = 3
        config["batch"]["size"] = 8
        (tmp_path / f"{method}.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(command, "CONFIGS", tmp_path)
    monkeypatch.setattr(tasks, "_PATCHES", {"train": 12, "val": 6, "test": 12})
    monkeypatch.setattr(tasks, "_MAPS", {"train": 6, "val": 3, "test": 6})
    return tmp_path / "out"


@pytest.mark.timeout(600)
def test_every_stage_runs_and_a_second_run_repeats_nothing(tiny: Path, capfd: pytest.CaptureFixture) -> None:
    assert biovfm(["quickstart", "--out", str(tiny)]) == 0
    first = capfd.readouterr().out
    assert "AutoModel.from_pretrained" in first and "less a twin with the same architecture" in first
    report = (tiny / "report.html").read_text()
    assert "<svg" in report and "data:image" in report and "http://" not in report.replace("http://www.w3.org", "")
    with Image.open(tiny / "overview.png") as overview:
        assert overview.width == 1400 and np.asarray(overview).std() > 30, "something is drawn"
    records = json.loads((tiny / "results" / "results.json").read_text())
    assert {record["model"] for record in records} == set(command.MODELS)
    assert {record["method"] for record in records} == {"linear", "knn", "segment"}
    for name in ("dino", "mae"):
        assert (tiny / "models" / name / "README.md").read_text().startswith("---")
    script = (
        "from transformers import AutoModel, AutoImageProcessor; from datasets import load_dataset;"
        f"folder = {str(tiny / 'models' / 'dino')!r};"
        "model = AutoModel.from_pretrained(folder, trust_remote_code=True);"
        "processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True);"
        f"rows = load_dataset({str(tiny / 'dataset')!r}, 'full', split='train');"
        "tokens = model(**processor(rows[0]['image'], return_tensors='pt')).pooler_output;"
        "print(len(rows), tuple(tokens.shape))"
    )
    done = subprocess.run([python(), "-c", script], capture_output=True, text=True, check=True, cwd=tiny)
    rows, shape = done.stdout.strip().splitlines()[-1].split(" ", 1)
    assert int(rows) > 600 and shape.startswith("(1, ")

    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*") if path.is_file()}
    assert biovfm(["quickstart", "--out", str(tiny)]) == 0
    assert capfd.readouterr().out.count("done before: ") == 10
    assert [path for path, time in before.items() if path.stat().st_mtime_ns != time] == []


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    assert biovfm(["quickstart", "--out", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "--out" in message and message.count("\n") == 1


def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def gone(name: str, *arguments: object) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(
        importlib, "import_module", lambda name, *rest: gone(name) if name == "nilearn" else __import__(name)
    )
    with pytest.raises(Exception, match=r"nilearn is not installed.*biovfm-hf\[demo\]"):
        command.main(["--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
