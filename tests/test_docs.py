"""The docs site builds without a warning, its picture matches the code, and CONTRIBUTING names existing things."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MATRIX = runpy.run_path(str(ROOT / "docs" / "matrix.py"))
JOURNEY = runpy.run_path(str(ROOT / "docs" / "journey.py"))


def dead_links(site: Path) -> list[str]:
    """The links of a site's pages to files that it lacks."""
    dead = []
    for page in site.rglob("*.html"):
        links = re.findall(r'(?:href|src)="([^"#?]+)', page.read_text(encoding="utf-8"))
        folder = site if page.name == "404.html" else page.parent
        places = {link: folder / link.removeprefix("/") for link in links if not re.match(r"\w+:|//", link)}
        dead += [f"{page.relative_to(site)}: {link}" for link, place in places.items() if not place.exists()]
    return sorted(dead)


def test_the_site_builds_without_a_warning(tmp_path):
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert dead_links(tmp_path) == []
    for name in ("start", "training", "contributing"):  # pages that lie outside docs/
        assert (tmp_path / name / "index.html").is_file()
    api = (tmp_path / "api" / "index.html").read_text(encoding="utf-8")
    assert 'id="biovfm_hf.build"' in api and 'id="biovfm_hf.modeling_biovfm.BioVFMModel"' in api


def test_the_picture_of_the_journey_is_that_of_the_code():
    assert JOURNEY["TARGET"].read_text(encoding="utf-8") == JOURNEY["draw"](), "run: python docs/journey.py"


def test_the_matrix_of_the_papers_items_is_that_of_the_recipes():
    page = MATRIX["TARGET"].read_text(encoding="utf-8")
    assert page == MATRIX["page"](), "run: python docs/matrix.py"
    assert page.count("\n| `") == 20


def test_contributing_names_paths_that_exist():
    paths = {path for path in re.findall(r"`([\w./-]+/[\w./-]*)`", CONTRIBUTING)}
    assert len(paths) > 20
    assert not [path for path in sorted(paths) if not (ROOT / path).exists()]


KINDS = (
    "source", "reader", "screening rule", "executor", "task", "layout", "encoder", "probe", "metric", "objective",
    "model size", "augmentation", "card field", "report section",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_contributing_names_one_place_for_each_kind(kind):
    (row,) = [line for line in CONTRIBUTING.splitlines() if re.match(rf"\| an? {kind}\b", line)]
    assert re.search(r"`[\w./-]+`", row.split("|")[2])


def test_each_registry_that_contributing_names_is_in_its_file():
    names = 0
    for row in [line for line in CONTRIBUTING.splitlines() if line.startswith("| a")]:
        for name in re.findall(r"`([A-Z_]{4,})`", row):
            names += 1
            files = [ROOT / path for path in re.findall(r"`([\w/]+\.py)`", row)]
            assert any(re.search(rf"^{name}\b", file.read_text(encoding="utf-8"), re.MULTILINE) for file in files), row
    assert names > 5
