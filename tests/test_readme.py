"""Every command in the README runs, on the folder that a (shortened) quickstart leaves."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from biovfm_hf import BioVFMConfig
from biovfm_hf.cli import main
from biovfm_hf.flops import encoder_parameters
from biovfm_hf.quickstart import raw, tasks
from biovfm_hf.sizes import SIZES, Family
from tests.preloaded import python

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    found = [line.strip()[2:].split("  #")[0].strip() for line in README.splitlines() if line.startswith("    $ ")]
    return [command for command in found if not command.startswith("biovfm push")]  # needs a Hub: tests/model_cards


def test_the_readme_shows_no_placeholders_and_its_files_exist() -> None:
    assert "@@" not in README
    for link in re.findall(r"\]\(((?!https?:)[^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_models_are_those_of_the_sizes() -> None:
    """Each has a row with DINOv2's count, or stands in the text below with DINOv3's; no row is of another size."""

    def millions(name: str, family: Family) -> str:
        return f"{encoder_parameters(BioVFMConfig.from_size(name, family=family, use_mask_token=True)) / 1e6:.2f}M"

    text = " ".join(README.split())
    for name, size in SIZES.items():
        feed_forward = {"mlp": "MLP", "swiglu": "SwiGLU"}[size.ffn_type]
        row = f"| `{name}` | {millions(name, 'dinov2')} | {size.patch_size} | {feed_forward} |"
        assert row in text or f"`{name}` ({millions(name, 'dinov3')})" in text, f"the table of models lacks {row}"
    assert set(re.findall(r"^\| `(vit-[\w-]+)` \|", README, re.MULTILINE)) <= set(SIZES)


@pytest.mark.timeout(900)
def test_every_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """`biovfm` in this process, which has torch and transformers already; what else there is in one of its own."""
    for name in ("biovfm_hf", "dataset_builder", "training", "evaluation", "model_cards", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(tasks, "_PATCHES", {"train": 12, "val": 6, "test": 12})
    raw.lay_out(Path("biovfm-quickstart/raw"))
    tasks.write_tasks(Path("biovfm-quickstart/tasks"))
    for command in commands():
        words = shlex.split(command)
        if words[0] == "biovfm":
            assert main(words[1:]) == 0, command + capsys.readouterr().err
            continue
        if words[:2] == ["accelerate", "launch"]:
            words = ["python", "-m", "accelerate.commands.launch", *words[2:]]
        done = subprocess.run([python(), *words[1:]], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        assert "defaults used" not in done.stderr, done.stderr  # accelerate's list of flags that a command lacks
    for made in ("my-dataset/manifest.parquet", "run/model/README.md", "my-results/results.json", "report.html"):
        assert (tmp_path / made).is_file(), made
