"""The `biovfm` command itself: its output, its speed, and its answers to wrong arguments and missing packages."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import save_file

from biovfm_hf import cli, rooms
from biovfm_hf.errors import UserError
from evaluation.commands.features import Features, write_features
from tests.evaluation.commands.conftest import MADE_WITH

ROOT = Path(__file__).resolve().parents[1]

# argv[1]: packages to hide, comma-separated, or "-"; the rest are the words of the command, or of several in turn with
# THEN between them, also on stderr. The last line of stderr tells the status of each, the CPU seconds at the end of
# the first, and whether torch was imported.
HARNESS = """
import sys, time
from importlib.machinery import ModuleSpec
hidden = set(sys.argv[1].split(",")) - {"-"}
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            return ModuleSpec(name, self)  # found, as by libraries that look whether it is there
    def create_module(self, spec):
        raise ModuleNotFoundError(f"No module named {spec.name!r}", name=spec.name)
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Hide())
runs = [[]]
for word in sys.argv[2:]:
    runs.append([]) if word == "THEN" else runs[-1].append(word)
ends = []
for words in runs:
    print("THEN", file=sys.stderr) if ends else None
    sys.argv = ["biovfm", *words]
    try:
        from biovfm_hf.cli import main
        status = main()
    except SystemExit as end:
        status = end.code or 0
    ends.append((status, time.process_time()))
statuses = ",".join(str(status) for status, _ in ends)
print(statuses, f"{ends[0][1]:.3f}", "torch" in sys.modules, file=sys.stderr)
sys.exit(status)
"""


def biovfm(*words: str | Path, hide: str = "-") -> tuple[int, str, list[str], float, bool]:
    """Run the command in a process of its own: status, stdout, lines of stderr, CPU seconds, whether torch came."""
    statuses, *rest = in_turn(*words, hide=hide)
    return statuses[0], *rest


def in_turn(*words: str | Path, hide: str = "-") -> tuple[list[int], str, list[str], float, bool]:
    """Run the commands between THENs in one process; as `biovfm`, with all statuses and the first one's seconds."""
    words = tuple(str(word) for word in words)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", HARNESS, hide, *words], capture_output=True, text=True, env=environment, check=False
    )
    *lines, last = done.stderr.splitlines() or [""]
    assert len(last.split()) == 3, done.stderr
    told, seconds, torch = last.split()
    statuses = [int(status) for status in told.split(",")]
    assert done.returncode == statuses[-1]
    return statuses, done.stdout, lines, float(seconds), torch == "True"


def test_help_names_every_command_at_once():
    status, out, errors, seconds, torch = biovfm("--help")
    assert (status, errors, torch) == (0, [], False)
    assert all(f"\n  {name} " in out for name in cli.COMMANDS)
    assert seconds < 0.5


@pytest.mark.parametrize("words", [["sources", "list"], ["--help"], ["sources", "list", "--json"]])
def test_a_reader_that_leaves_ends_it_quietly(words):
    """As `biovfm ... | head` does: no message, and the status of a program that SIGPIPE ended."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "biovfm_hf.cli", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_and_wrong_arguments_of_a_command_need_no_torch(command):
    statuses, out, errors, seconds, torch = in_turn(command, "--help", "THEN", command, "--no-such-option")
    assert (statuses, torch) == ([0, 2], False)
    assert out.startswith(f"usage: biovfm {command}")
    assert errors[0] == "THEN" and "error" in errors[-1]
    assert seconds < 1.5


def test_unknown_command_names_the_near_one(capsys):
    assert cli.main(["biuld"]) == 2
    assert "did you mean build?" in capsys.readouterr().err


def test_no_arguments_print_the_help(capsys):
    assert cli.main([]) == 0
    assert capsys.readouterr().out.startswith("usage: biovfm COMMAND")


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("biovfm-hf ")


def test_a_failure_is_one_line(tmp_path):
    status, out, errors, *_ = biovfm("score", tmp_path / "none.npz", "--task", "binary-class")
    assert (status, out) == (1, "")
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert "none.npz" in errors[0]


def test_a_missing_folder_is_named(monkeypatch):
    monkeypatch.setattr(rooms, "__file__", "/nowhere/biovfm_hf/rooms.py")
    with pytest.raises(UserError, match="carries no training/"):
        rooms.load_room_module("training.command")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out/a.json"),
         "error: out/a.json: No space left on device; make room, and run the same command again\n"),
        (PermissionError(errno.EACCES, "Permission denied", "out"),
         "error: out: Permission denied; check it, then try again\n"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png", None, "out/a.png"),
         "error: out/a.png: No space left on device; make room, and run the same command again\n"),
        (MemoryError(),
         "error: too little memory; close other programs, or use fewer workers or a smaller batch size\n"),
    ],
)  # fmt: skip
def test_an_error_of_the_system_is_one_line_with_a_remedy(monkeypatch, capsys, error, line):
    def fail(_):
        raise error

    monkeypatch.setattr(cli, "load_room_module", fail)
    assert cli.main(["build"]) == 1 and capsys.readouterr().err == line


def test_stopping_says_that_work_is_kept(monkeypatch, capsys):
    def stop(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load_room_module", stop)
    assert cli.main(["build"]) == 1
    assert "continues" in capsys.readouterr().err


@pytest.fixture
def words(tmp_path):
    """The arguments with which each command gets as far as its optional packages."""
    (tmp_path / "raw" / "drive").mkdir(parents=True)
    (tmp_path / "points.csv").write_text(
        "family,params_millions,task,auc\n" + "".join(f"A,{n},x,{90 + n / 100}\n" for n in (5, 20, 80, 300))
    )
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "scores.npz",
        test_labels=rng.integers(0, 2, 40),
        test_scores=rng.random(40),
        val_labels=rng.integers(0, 2, 40),
        val_scores=rng.random(40),
    )
    return {
        "sources": ["list"],
        "build": ["--raw", tmp_path / "raw", "--out", tmp_path / "dataset", "--sources", "drive"],
        "score": [tmp_path / "scores.npz", "--task", "binary-class"],
        "scaling": [tmp_path / "points.csv", "--out", tmp_path / "scaling"],
        "report": [tmp_path, "--out", tmp_path / "report.html"],
        "quickstart": ["--out", tmp_path / "quickstart"],
    }


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        ("sources", "yaml", "data"),
        ("build", "cv2", "data"),
        ("build", "pyarrow", "data"),
        ("score", "scipy", "eval"),
        ("scaling", "matplotlib", "eval"),
        ("report", "markupsafe", "cards"),
        ("quickstart", "nilearn", "demo"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(words, command, package, extra):
    status, _, errors, *_ = biovfm(command, *words[command], hide=package)
    told = [line for line in errors if line.startswith("error: ")]
    assert status == 1
    assert told == [f"error: {package} is not installed; get it with: pip install 'biovfm-hf[{extra}]'"]
    assert "Traceback" not in "\n".join(errors)


def test_a_fault_of_ours_is_not_called_a_missing_package(monkeypatch):
    def fail(name):
        raise ModuleNotFoundError("No module named 'evaluation.nothing'", name="evaluation.nothing")

    monkeypatch.setattr(cli, "load_room_module", fail)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["probe"])


@pytest.fixture
def places(tmp_path):
    """Paths of which each is good for one argument, and wrong for another."""
    folder = tmp_path
    (folder / "empty").mkdir()
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "biovfm"}')
    save_file({"weight": np.zeros(1)}, folder / "model" / "model.safetensors")
    shutil.copytree(folder / "model", folder / "other")
    (folder / "other" / "config.json").write_text('{"model_type": "resnet"}')
    (folder / "run" / "checkpoints").mkdir(parents=True)
    (folder / "run" / "config.yaml").write_text("method: mae\nmodel: {size: vit-tiny}\naugment: {global_size: 32}\n")
    (folder / "broken.pth").write_text("x")
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("x")
    (folder / "dataset" / "data").mkdir(parents=True)
    table = pa.table({"image": [None, None], "modality": ["CT", "CT"]})
    pq.write_table(table, folder / "dataset" / "data" / "train-0.parquet")
    (folder / "study.yaml").write_text(
        "families: {M: {config: mae_smoke}}\nsizes: {a: {}}\nsubsets: {all: no/images/here}\nprobe: {tasks: images}\n"
    )
    (folder / "mixture.yaml").write_text(
        "data: dataset\nby: modality\nconfig: mae_smoke\ndesign: {lattice: 2}\nprobe: {tasks: [images]}\n"
    )
    (folder / "file.txt").write_text("x")
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            (folder / "images" / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(folder / "images" / split / name / "1.png")
    features = Features(["train/a/1.png"], np.ones((1, 128), np.float32), MADE_WITH)
    write_features(folder / "features.parquet", features)
    points = "".join(f"A,{n},x,{90 + n / 100}\n" for n in (5, 20, 80, 300))
    (folder / "points.csv").write_text("family,params_millions,task,auc\n" + points)
    return {
        name: str(folder / place)
        for name, place in {
            "EMPTY": "empty", "FILE": "file.txt", "IMAGES": "images", "FEATURES": "features.parquet", "OUT": "out",
            "IMAGE": "images/train/a/1.png", "POINTS": "points.csv", "MODEL": "model",
            "TEXTS": "texts", "DATASET": "dataset", "STUDY": "study.yaml", "MIXTURE": "mixture.yaml",
            "RUN": "run", "OTHER": "other", "BROKEN": "broken.pth",
        }.items()
    }  # fmt: skip


PRETRAIN, EMBED = (
    "pretrain dino_smoke --data IMAGES --out OUT",
    "embed --model MODEL --images IMAGES --out OUT.parquet",
)
DISTILL = "pretrain distill_smoke --data IMAGES --out OUT distill.teacher=MODEL"
SEARCH = "search --model MODEL --features FEATURES --query IMAGE --out OUT"
REPRODUCE = "reproduce radiology-table3 --out OUT"
ANALYSE = "analyse MODEL --images IMAGES --out OUT"
PROBE, CONVERT = "probe --model MODEL --tasks IMAGES --out OUT", "convert MODEL --to OUT"
# (command, the words to replace, what replaces them, what is told)
MISTAKES = [
    (PRETRAIN, "--out OUT", "--out OUT batch.size=7 batch.per_process=4", "batch.size 7 is not a multiple of"),
    (PRETRAIN, "--out OUT", "--out OUT batch.size=0", "batch.size is 0; it must be at least 1"),
    (PRETRAIN, "--out OUT", "--out OUT model.size=vit-huger", "there is no size 'vit-huger'"),
    (PRETRAIN, "--out OUT", "--out OUT model.heads=7", "unknown config key model.heads"),
    (PRETRAIN, "--out OUT", "--out OUT model.num_attention_heads=7", "is not a multiple of num_attention_heads 7"),
    (PRETRAIN, "--out OUT", "--out OUT model.hidden_size=abc", "expected int, got str"),
    (
        PRETRAIN,
        "--out OUT",
        "--out OUT model.pooling=middle",
        "pooling is 'middle'; it must be one of cls, mean, both",
    ),
    (PRETRAIN, "--out OUT", "--out OUT data.selection=/no/list", "data.selection /no/list cannot be read"),
    (PRETRAIN, "--out OUT", "--out OUT model.init_from=/no/model", "/no/model: no such file or folder"),
    (PRETRAIN, "--out OUT", "--out OUT watch.every=5 watch.task=/no/task", "watch.task /no/task: no such folder"),
    (PRETRAIN, "--out OUT", "--out OUT run.trackers=[mlfow]", "accelerate has no 'mlfow'; did you mean mlflow?"),
    (PRETRAIN, "--out OUT", "--out OUT run.device=gpu", "run.device is 'gpu'; it must be one of auto, cuda, cpu"),
    (PRETRAIN, "--out OUT", "--out OUT --push-to-hub a/b/c", "'a/b/c' is not a Hub name"),
    (PRETRAIN, "--out OUT", "--out OUT model.init_from=FILE", "model.init_from FILE: not a weight file"),
    (PRETRAIN, "--out OUT", "--out OUT model.init_from=MODEL model.pooling=middle", "pooling is 'middle'; it must be"),
    (PRETRAIN, "--out OUT", "--out OUT model.init_from=MODEL model.hidden_size=96", "MODEL has hidden_size 384, this"),
    (PRETRAIN, "--out OUT", "--out OUT teacher.frozen=EMPTY", "teacher.frozen EMPTY: no weights there"),
    (PRETRAIN, "--out OUT", "--out OUT watch.every=5 watch.task=EMPTY", "watch.task EMPTY needs one folder of images"),
    (PRETRAIN, "--out OUT", "--out OUT watch.every=5 watch.masks=IMAGES", "watch.masks IMAGES/train: no images; it"),
    (PRETRAIN, "--out OUT", "--out OUT data.split=val", "data.split is for datasets, so leave it out"),
    (PRETRAIN, "--out OUT", "--out RUN", "RUN holds a run with other settings (augment."),
    (PRETRAIN, "--data IMAGES", "--data FILE", "no images under FILE; expected a dataset folder"),
    (PRETRAIN, "--data IMAGES", "--data IMAGE", "IMAGE holds 1 image(s); pretraining compares images"),
    (PRETRAIN, "--data IMAGES", "--dry-run model.init_from=FILE", "model.init_from FILE: not a weight file"),
    (DISTILL, "distill.teacher=MODEL", "", "distill.teacher is missing; name a model folder"),
    (DISTILL, "distill.teacher=MODEL", "distill.teacher=FILE", "distill.teacher FILE: not a weight file"),
    (
        DISTILL,
        "distill.teacher=MODEL",
        "distill.teacher=tinm:vit",
        "no family has the prefix tinm:; did you mean timm:?",
    ),
    (DISTILL, "--out OUT", "--out OUT model.num_channels=1", "model.num_channels is 1; images are read with 3"),
    (DISTILL, "--out OUT", "--out OUT distill.students.s.size=vit", "distill.students.s: there is no size 'vit'"),
    (DISTILL, "--out OUT", "--out OUT distill.students.s.init_from=RUN", "s.init_from RUN is a run; name one of its"),
    (PRETRAIN, "--data IMAGES", "--data /no/images", "/no/images does not exist"),
    (PRETRAIN, "--data IMAGES", "--data EMPTY", "no images under EMPTY; expected"),
    (PRETRAIN, "--data IMAGES", "--data EMPTY/*.tar", "no images under EMPTY/*.tar; expected"),
    (PRETRAIN, "--out OUT", "--out FILE", "cannot write to FILE: FILE: Not a directory"),
    (PRETRAIN, "--out OUT", "--out IMAGES/run", "IMAGES/run lies in the folder of images"),
    (EMBED, "--images IMAGES", "--images /no/images", "/no/images: no such folder"),
    (EMBED, "--images IMAGES", "--images EMPTY", "EMPTY: no image file there"),
    (EMBED, "--images IMAGES", "--images FILE", "FILE is a file; give the folder"),
    (EMBED, "--model MODEL", "--model /no/model", "'/no/model' cannot be loaded: no such file or folder"),
    (EMBED, "--model MODEL", "--model EMPTY", "'EMPTY' cannot be loaded: no config.json there"),
    (EMBED, "--model MODEL", "--model FILE", "'FILE' cannot be loaded: it is a file"),
    (EMBED, "--model MODEL", "--model tinm:vit", "no family has the prefix tinm:; did you mean timm:?"),
    (EMBED, "--out OUT", "--out FILE/x", "cannot write to FILE/x.parquet: FILE: Not a directory"),
    (
        EMBED,
        "--out OUT",
        "--device gpu --out OUT",
        "--device: 'gpu': not a kind of device that runs models",
    ),
    (EMBED, "--images IMAGES", "--images TEXTS", "TEXTS: no image file there"),
    (
        EMBED,
        "--images IMAGES",
        "--paths withhold --images DATASET",
        "withhold is for a folder of images, which",
    ),
    (EMBED, "--images IMAGES", "--images DATASET --split val", 'Unknown split "val". Should be one of'),
    (EMBED, "--model MODEL", "--model dinov2-q", "no such folder; give a model folder"),
    (EMBED, "--model MODEL", "--model meddinov3:FILE", "FILE: not a weight file"),
    (EMBED, "--model MODEL", "--model transunet:FILE", "FILE: not a .npz file"),
    (EMBED, "--model MODEL", "--model scratch:net", "scratch:net is no network; take scratch:unet"),
    (EMBED, "--model MODEL", "--model scratch:unet", "scratch:unet is a network for segmentation and has no features"),
    (EMBED, "--model MODEL", "--model ofa:EMPTY", "EMPTY: no weights there"),
    (SEARCH, "--out OUT", "--out OUT --device gpu", "--device: 'gpu': not a kind of device"),
    (SEARCH, "--model MODEL", "--model EMPTY", "'EMPTY' cannot be loaded: no config.json there"),
    (SEARCH, "--features FEATURES", "--features /no/f.parquet", "/no/f.parquet is not a features file"),
    (SEARCH, "--query IMAGE", "--query /no/image.png", "none of 1 examples can be read"),
    (SEARCH, "--out OUT", "--out FILE", "cannot write to FILE: FILE: Not a directory"),
    (PROBE, "--model MODEL", "--model /no/model", "'/no/model' cannot be loaded: no such file or folder"),
    (PROBE, "--model MODEL", "--model a=MODEL --model a=OTHER", "two models are called a; give them names"),
    (PROBE, "--out OUT", "--out OUT --device gpu", "--device: 'gpu': not a kind of device"),
    (PROBE, "--out OUT", "--out OUT --cache FILE", "cannot write to FILE: FILE: Not a directory"),
    (PROBE, "--tasks IMAGES", "--tasks /no/tasks", "'/no/tasks' is neither a task nor a path that exists"),
    (PROBE, "--tasks IMAGES", "--tasks EMPTY", "EMPTY: no image found"),
    (PROBE, "--tasks IMAGES", "--tasks pneumoniamnist --data /no/data", "no pneumoniamnist*.npz in /no/data"),
    (PROBE, "--out OUT", "--out FILE/x", "cannot write to FILE/x: FILE: Not a directory"),
    (CONVERT, "MODEL", "/no/model", "/no/model: no such file or folder"),
    (CONVERT, "MODEL", "FILE", "FILE: not a weight file; expected .safetensors, .pth, .pt, .bin or a model folder"),
    (CONVERT, "MODEL", "BROKEN", "BROKEN: damaged or not a weight file (neither a zip file nor a pickle)"),
    (CONVERT, "MODEL", "OTHER", "OTHER: a 'resnet' model; convert reads biovfm, dinov2,"),
    (CONVERT, "MODEL", "RUN", "RUN: no weights there; expected model.safetensors or pytorch_model.bin"),
    (CONVERT, "MODEL", "EMPTY", "EMPTY: no weights there; expected model.safetensors or"),
    (CONVERT, "--to OUT", "--to IMAGES", "IMAGES: exists already"),
    (CONVERT, "--to OUT", "--to FILE/x", "cannot write to FILE/x: FILE: Not a directory"),
    (ANALYSE, "MODEL", "/no/model", "'/no/model' cannot be loaded: no such file or folder"),
    (ANALYSE, "MODEL", "a=MODEL a=OTHER", "two models are called a; give them names"),
    (ANALYSE, "--images IMAGES", "--images TEXTS", "TEXTS: no image file there"),
    (ANALYSE, "--images IMAGES", "--task nosuch", "nosuch is neither a known task nor a folder nor a CSV"),
    (ANALYSE, "--out OUT", "--out FILE/x", "cannot write to FILE/x: FILE: Not a directory"),
    (ANALYSE, "--out OUT", "--out OUT --device gpu", "--device: 'gpu': not a kind of device"),
    (REPRODUCE, "--out OUT", "--out FILE", "cannot write to FILE: FILE: Not a directory"),
    ("demo MODEL", "MODEL", "EMPTY", "EMPTY: no config.json, so not a model folder"),
    ("demo MODEL", "MODEL", "MODEL --index TEXTS", "TEXTS: no images; give a dataset folder, or images in one folder"),
    ("quickstart --out OUT", "--out OUT", "--out IMAGES", "IMAGES: exists and is not a quickstart folder"),
    ("quickstart --out OUT", "--out OUT", "--out FILE/x", "cannot write to FILE/x: FILE: Not a directory"),
    (
        "card MODEL --teacher MODEL",
        "--teacher MODEL",
        "--teacher tinm:vit",
        "no family has the prefix tinm:; did you mean",
    ),
    ("card MODEL --results OUT", "MODEL", "EMPTY", "EMPTY: no config.json, so not a model folder"),
    ("card MODEL --results OUT", "--results OUT", "--results /no/results", "/no/results: no such file or folder"),
    ("report OUT --out OUT.html", "report OUT", "report /no/results", "/no/results: no such file or folder"),
    ("report OUT --out OUT.html", "--out OUT.html", "--out EMPTY", "EMPTY: a report is an HTML page"),
    ("scaling POINTS --out OUT", "POINTS", "/no/points.csv", "/no/points.csv: no such file"),
    ("scaling study STUDY --out OUT", "--out OUT", "--out FILE", "cannot write to FILE: FILE: Not a directory"),
    ("scaling study STUDY --out OUT", "--out OUT", "--out OUT", "STUDY: subsets: no/images/here does not exist"),
    ("scaling mixture run MIXTURE --out OUT", "--out OUT", "--out OUT", "MIXTURE: groups: give two or more different"),
    ("scaling POINTS --out OUT", "--out OUT", "--out FILE", "cannot write to FILE: FILE: Not a directory"),
]


@pytest.mark.parametrize("command", list(dict.fromkeys(whole.split()[0] for whole, *_ in MISTAKES)))
def test_a_mistake_is_told_before_torch_is_imported(places, command):
    """torch is hidden, so a mistake that is found later than its import is told as a missing package."""
    mistakes = [mistake for mistake in MISTAKES if mistake[0].startswith(command)]
    words: list[str] = []
    for whole, old, new, _ in mistakes:
        words += [*(["THEN"] if words else []), *_filled(whole.replace(old, new), places).split()]
    statuses, _, errors, _, torch = in_turn(*words, hide="torch")
    said = [part.strip() for part in "\n".join(errors).split("THEN")]
    assert not torch and set(statuses) <= {1, 2} and len(said) == len(mistakes)
    for (*_, told), line in zip(mistakes, said, strict=True):
        assert _filled(told, places) in line and "not installed" not in line


def _filled(words: str, places: dict[str, str]) -> str:
    return re.sub("|".join(sorted(places, key=len, reverse=True)), lambda found: places[found[0]], words)
