"""What the pages on datasets and clusters show: records load, options exist, manifests parse."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from dataset_builder.catalog.records import load_source
from dataset_builder.options import BuildOptions

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [DOCS / "dataset.md", DOCS / "cluster.md"]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_record_of_the_page_loads(tmp_path):
    (record,) = blocks("dataset.md", "yaml")
    (tmp_path / "my_hospital.yaml").write_text(record)
    source = load_source(tmp_path / "my_hospital.yaml")
    assert source.id == "my_hospital" and not source.published and source.items[0].kind == "volume"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_of_build_exists(page):
    known = {f"--{field.name.replace('_', '-')}" for field in fields(BuildOptions)}
    lines = re.sub(r"\\\n|\n\s+(?=--)", " ", page.read_text(encoding="utf-8")).splitlines()
    shown = {word for line in lines if "biovfm build" in line for word in re.findall(r"--[a-z][a-z-]+", line)}
    others = {"--parsable", "--export", "--dependency", "--cpus-per-task", "--mem", "--wrap"}  # of sbatch
    assert shown and shown - others <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(((?!https?:)[^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (DOCS / link).exists(), link


def test_the_kubernetes_job_parses():
    (job,) = [yaml.safe_load(text) for text in blocks("cluster.md", "yaml")]
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert "--shard-index $JOB_COMPLETION_INDEX --num-shards 50" in container["args"][0]
    assert job["spec"]["completions"] == 50
