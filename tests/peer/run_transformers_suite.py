"""Run transformers' own common model tests over the BioVFM classes.

    python tests/peer/run_transformers_suite.py [pytest arguments]

The tests come from the source distribution of the installed transformers version, fetched with pip into a temporary
folder and never kept. Where it cannot be had, this says so and exits with 0.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers

HERE = Path(__file__).resolve().parent
# modules that transformers' common tests import from folders the source distribution leaves out
STUBS = {
    "exporters/test_export.py": "class ExportTesterMixin: pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin: pass\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
}


def fetch_tests(folder: Path) -> Path | None:
    """Put transformers' common tests under `folder`/tests as a package; None where the download fails."""
    package = f"transformers=={transformers.__version__}"
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(folder)]
    done = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *options, package], check=False)
    archives = list(folder.glob("transformers-*.tar.gz"))
    if done.returncode or not archives:
        return None
    source, target = f"{archives[0].name.removesuffix('.tar.gz')}/tests/", folder / "tests"
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, [member for member in archive if member.name.startswith(source)], filter="data")
    (folder / source).rename(target)
    for name, content in STUBS.items():
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).parent.joinpath("__init__.py").touch()
        (target / name).write_text(content)
    (target / "biovfm").mkdir()
    for place in (target, target / "biovfm"):
        (place / "__init__.py").touch()
    shutil.copy(HERE / "transformers_suite.py", target / "biovfm" / "test_biovfm.py")
    return target


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        tests = fetch_tests(Path(folder))
        if tests is None:
            print("transformers' source distribution cannot be fetched here; its common model tests did not run")
            return 0
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            folder,
            "-c",
            "/dev/null",
        ]
        # what the caller's path holds comes along: another version of transformers, for instance
        places = [folder, str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment_path = {"PYTHONPATH": os.pathsep.join(places)}
        return subprocess.run(
            [*command, str(tests / "biovfm" / "test_biovfm.py"), *sys.argv[1:]],
            cwd=folder,
            env={**os.environ, **environment_path},
            check=False,
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
