"""The content of a wheel and an editable install, and that the rooms do not import each other."""

import ast
import functools
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml
from PIL import Image

from biovfm_hf.front_door import COMMANDS, FUNCTIONS, open_door

from .preloaded import python

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("dataset_builder", "training", "evaluation", "model_cards")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in")


def run(*words: str | Path, cwd: Path, path: str = "") -> subprocess.CompletedProcess:
    """Run a process that must succeed; `path` is its whole PYTHONPATH."""
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(w) for w in words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout's packages, with a build folder that an earlier version left behind."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("biovfm_hf", *ROOMS):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    stale = folder / "build" / "lib" / "biovfm_hf" / "stale.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    return folder


@pytest.fixture(scope="module")
def site(checkout, tmp_path_factory):
    """The folder into which a wheel was installed: all of the project that a process below can see."""
    wheels, target = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", wheels, checkout, cwd=checkout)
    (wheel,) = wheels.glob("biovfm_hf-*.whl")
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-compile"]
    run(sys.executable, "-m", "pip", "install", *quiet, "--target", target, wheel, cwd=wheels)
    assert {Path(name).parts[0] for name in zipfile.ZipFile(wheel).namelist()} == {
        "biovfm_hf",
        wheel.name.rsplit("-", 3)[0] + ".dist-info",
    }
    return target


@pytest.fixture
def installed(site, tmp_path):
    """Run `biovfm WORDS` from the wheel, in a folder far from the checkout."""
    code = f"import biovfm_hf, sys; assert biovfm_hf.__file__.startswith({str(site)!r}); import biovfm_hf.cli as c; "

    def biovfm(*words: str | Path) -> str:
        return run(python(), "-c", code + "sys.exit(c.main())", *words, cwd=tmp_path, path=str(site)).stdout

    return biovfm


def test_only_biovfm_hf_lands(site):
    names = {path.name for path in site.iterdir()}
    assert {name.split(".dist-info")[0].split("-")[0] for name in names} == {"biovfm_hf", "bin"}
    assert [path.name for path in (site / "bin").iterdir()] == ["biovfm"]


def test_a_wheel_carries_every_file_and_no_stale_one(site):
    def listed(folder: Path) -> set[str]:
        found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {path.relative_to(folder).as_posix() for path in found}

    expected = listed(ROOT / "biovfm_hf").union(*({f"{r}/{name}" for name in listed(ROOT / r)} for r in ROOMS))
    assert listed(site / "biovfm_hf") == expected


def test_metadata_of_the_wheel(site):
    (info,) = site.glob("*.dist-info")
    assert (info / "licenses" / "LICENSE").is_file()
    metadata = (info / "METADATA").read_text()
    core = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    names = {line.split()[1].split(">=")[0] for line in core}
    assert names == {
        "torch",
        "transformers",
        "huggingface_hub",
        "safetensors",
        "numpy",
        "pillow",
        "wrapt",
        "filelock",
        "pyyaml",
    }


# argv: the installed script, and the commands; prints the help of each as JSON, all in one process
HELP = """
import contextlib, io, json, runpy, sys
script, *commands = sys.argv[1:]
helps = {}
for command in commands:
    sys.argv = [script, *filter(None, [command]), "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
    helps[command] = told.getvalue()
print(json.dumps(helps))
"""


@pytest.fixture(scope="module")
def helps(site, tmp_path_factory) -> dict[str, str]:
    words = [sys.executable, "-c", HELP, site / "bin" / "biovfm", "", *COMMANDS]
    return json.loads(run(*words, cwd=tmp_path_factory.mktemp("help"), path=str(site)).stdout)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_from_the_wheel(helps, command):
    assert helps[command].startswith(f"usage: biovfm {command}".rstrip())


def test_pretraining_from_the_wheel(site, tmp_path):
    for method in ("dino", "mae"):
        script = site / "biovfm_hf" / "training" / f"pretrain_{method}.py"
        assert "--config" in run(python(), script, "--help", cwd=tmp_path, path=str(site)).stdout
    words = ["--config", "mae_smoke", "--data", tmp_path, "--out", tmp_path / "run", "--dry-run"]
    assert "parameters" in run(python(), script, *words, cwd=tmp_path, path=str(site)).stdout


USE = """
import biovfm_hf
from biovfm_hf.errors import UserError
reveal_type(biovfm_hf.BioVFMConfig)
reveal_type(biovfm_hf.load_encoder("dinov2-b").name)
reveal_type(biovfm_hf.pretrain("mae_smoke", data="images", out="run"))
biovfm_hf.build(raw="raw", out="dataset", size="large")
biovfm_hf.embed(model="dinov2-b", imags="scans", out="features.parquet")
"""


def returned_type(name: str) -> str:
    """The type that a function of the front door returns, as mypy writes it for a wheel."""
    hint = inspect.signature(open_door(name)).return_annotation
    text = str(hint) if get_args(hint) else f"{hint.__module__}.{hint.__name__}"
    return re.sub(rf"\b({'|'.join(ROOMS)})\.", r"biovfm_hf.\1.", text).replace("typing.Any", "Any")


def test_mypy_sees_the_types_of_the_wheel(site, tmp_path):
    (tmp_path / "use.py").write_text(USE + "".join(f"reveal_type(biovfm_hf.{name})\n" for name in FUNCTIONS))
    ours = "[mypy-biovfm_hf.*]\nfollow_imports = silent\n"  # not the packages behind it, which take most of the time
    (tmp_path / "mypy.ini").write_text("[mypy]\nfollow_imports = skip\nignore_missing_imports = true\n" + ours)
    venv.create(tmp_path / "venv")
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (packages / "site.pth").write_text(f"{site}\n{sysconfig.get_paths()['purelib']}\n")
    words = [sys.executable, "-m", "mypy", "--python-executable", tmp_path / "venv" / "bin" / "python", "use.py"]
    told = subprocess.run(words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True)
    for expected in (
        "biovfm_hf.configuration_biovfm.BioVFMConfig",
        'Revealed type is "pathlib.Path | str"',
        'Revealed type is "str"',
        'Argument "size" to "build" has incompatible type "str"; expected "int"',
        'Unexpected keyword argument "imags" for "embed"; did you mean "images"?',
        "Found 2 errors",
    ):
        assert expected in told.stdout
    for name in FUNCTIONS:
        assert f' -> {returned_type(name)}"' in told.stdout


def test_score_from_the_wheel(installed, tmp_path):
    reference = Path(__file__).parent / "reference"
    installed("score", reference / "binary.npz", "--task", "binary-class", "--json", tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text())["metrics"]["auc"]["value"] > 0.5


def test_scaling_from_the_wheel(installed, tmp_path):
    rows = [f"{family},{size},x,{90 + size**0.3}" for family in "AB" for size in (5, 20, 80, 300)]
    (tmp_path / "points.csv").write_text("\n".join(["family,params_millions,task,auc", *rows]))
    installed("scaling", tmp_path / "points.csv", "--out", tmp_path / "scaling")
    assert (tmp_path / "scaling" / "slopes.csv").is_file()


def test_build_from_the_wheel(installed, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "raw" / "mine").mkdir(parents=True)
    for number in range(4):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8))
        coarse.resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / "raw" / "mine" / f"{number}.png")
    record = {"id": "mine", "name": "Mine", "modality": "Ultrasound", "anatomies": ["breast"], "items": ["*.png"]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**record, "train": "all"}))
    words = ["--raw", tmp_path / "raw", "--out", tmp_path / "dataset", "--sources", tmp_path / "mine.yaml"]
    installed("build", *words, "--size", "32", "--workers", "1")
    assert (tmp_path / "dataset" / "manifest.parquet").is_file()
    assert "aod" in installed("sources", "list")


def test_an_editable_install_uses_the_folders_of_the_checkout(checkout, tmp_path):
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    (ours,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (ours / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *quiet, "-e", checkout, cwd=tmp_path)
    assert "usage: biovfm build" in run(tmp_path / "venv" / "bin" / "biovfm", "build", "--help", cwd=tmp_path).stdout
    code = """
import importlib.util, sys
assert not any(importlib.util.find_spec(name) for name in ("dataset_builder", "training", "evaluation", "model_cards"))
from biovfm_hf.rooms import load_room_module
print(load_room_module("dataset_builder.sources_command").__file__)
assert not any(name.startswith("biovfm_hf.dataset_builder") for name in sys.modules)"""
    where = run(python, "-c", code, cwd=tmp_path).stdout.strip()
    assert where == str(checkout / "dataset_builder" / "sources_command.py")
    assert "--config" in run(python, "-m", "training.pretrain_dino", "--help", cwd=checkout).stdout


@pytest.mark.parametrize("method", ["dino", "mae"])
def test_a_bare_checkout_runs(checkout, tmp_path, method):
    script = Path("training") / f"pretrain_{method}.py"
    launch = [python(), "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    for words, cwd in [
        ([sys.executable, script], checkout),
        ([sys.executable, "-m", f"training.pretrain_{method}"], checkout),
        ([sys.executable, checkout / script], tmp_path),
        ([*launch, script], checkout),
    ]:
        assert "--config" in run(*words, "--help", cwd=cwd).stdout


@functools.cache
def nodes(file: Path) -> list[ast.AST]:
    """The imports and calls anywhere in a file."""
    kinds = ast.Import | ast.ImportFrom | ast.Call
    return [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, kinds)]


def imports(file: Path) -> set[str]:
    """The names of absolute imports anywhere in a file, and of every string given to `import_module`."""
    found = set()
    for node in nodes(file):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            found |= {
                n.value for n in ast.walk(node.args[0]) if isinstance(n, ast.Constant) and isinstance(n.value, str)
            }
    return found


@pytest.mark.parametrize("folder", ["biovfm_hf", *ROOMS])
def test_folders_import_only_the_ground_floor(folder):
    """A room imports itself relatively (a wheel gives it another name) and no other room; biovfm_hf imports none."""
    entry_scripts = {f"training/pretrain_{method}.py" for method in ("dino", "mae")}  # they name their own package
    for file in (ROOT / folder).rglob("*.py"):
        name = file.relative_to(ROOT).as_posix()
        allowed = {"training"} if name in entry_scripts else set()
        names = imports(file)
        wrong = {module for module in names if module.split(".")[0] in set(ROOMS) - allowed}
        wrong |= {module for module in names if module.startswith(tuple(f"biovfm_hf.{room}" for room in ROOMS))}
        assert not wrong, f"{name} imports {wrong}"


@pytest.mark.parametrize("folder", ["biovfm_hf", *ROOMS])
def test_relative_imports_stay_inside_the_folder(folder):
    for file in (ROOT / folder).rglob("*.py"):
        depth = len(file.relative_to(ROOT).parts) - 1
        for node in nodes(file):
            assert not isinstance(node, ast.ImportFrom) or node.level <= depth, f"{file}: {ast.unparse(node)}"


def test_constraints_pin_every_requirement_of_dev():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras, waiting, stated = project["optional-dependencies"], ["dev"], [*project["dependencies"]]
    while waiting:  # extras name other extras: biovfm-hf[data,train]
        for word in extras[waiting.pop()]:
            ours = word.startswith("biovfm-hf[")
            (waiting if ours else stated).extend(word.split("[")[1].rstrip("]").split(",") if ours else [word])
    names = {word.split(">=")[0].split("[")[0].lower().replace("_", "-") for word in stated}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 and "+" not in line and "/" not in line for line in lines)
    assert names <= {line.split("==")[0] for line in lines}
