"""The dataset's card and the marks beside it: text from records stays text, and private sources are named."""

import json
import re

import pytest
import yaml

from biovfm_hf.cards.provenance import read_provenance
from dataset_builder.build import main

HOSTILE = (
    'x <script>alert(1)</script>\n\n# Heading\n---\nlicense: mit\n--- | `a` [b](javascript:c) <img src="x" onerror=y>'
)


def built(tmp_path, make, **fields):
    for number in range(3):
        make.png(tmp_path / "raw" / "clinic" / f"{number}.png", make.picture(number))
    record = make.record(tmp_path, "clinic")
    record.write_text(yaml.safe_dump({**yaml.safe_load(record.read_text()), **fields}))
    words = ["--raw", tmp_path / "raw", "--out", tmp_path / "out", "--sources", record, "--workers", 0, "--size", 32]
    assert main([str(word) for word in words]) == 0
    return tmp_path / "out"


def test_words_of_a_record_make_no_markup(tmp_path, make):
    fields = {"name": HOSTILE, "licence": HOSTILE, "citation": HOSTILE, "homepage": "javascript:alert(1)"}
    text = (built(tmp_path, make, access="open", **fields) / "README.md").read_text()
    header, body = text.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(header)["license"] == "other"
    assert "<script" not in body and "<img" not in body and "\n---" not in body
    assert "](javascript" not in body and "# Heading" not in re.sub(r"\\#", "", body)
    assert len(re.findall(r"^# ", body, re.MULTILINE)) == 1


def test_a_web_page_is_linked(tmp_path, make):
    text = (built(tmp_path, make, homepage="https://example.org/a") / "README.md").read_text()
    assert "| [CLINIC](https://example.org/a) | 3 | " in text


@pytest.mark.parametrize("access", ["private", None])  # unstated is private, as for paths
def test_private_sources_and_licences_are_machine_readable(tmp_path, make, access):
    out = built(tmp_path, make, access=access, licence="ours alone")
    assert read_provenance(out).private_sources == ("clinic",)
    assert json.loads((out / "build.json").read_text())["licences"] == {"clinic": "ours alone"}


def test_an_open_source_leaves_no_mark(tmp_path, make):
    assert not read_provenance(built(tmp_path, make, access="open"))


def test_the_size_stands_beside_that_of_other_datasets(tmp_path, make):
    card = (built(tmp_path, make) / "README.md").read_text()
    sizes = card[card.index("## Size beside other datasets") : card.index("## Sources")]
    lines = [line.split(" | ") for line in sizes.splitlines() if line.startswith("| ")][1:]
    assert lines[0][:2] == ["| BioVFM-21M", "21,000,000"] and lines[-1][2] == "this folder |"
    counts = [int(line[1].replace(",", "")) for line in lines]
    assert counts == sorted(counts, reverse=True) and "| PMC-15M (BiomedCLIP) | 15,000,000 | arXiv 2303.00915" in sizes
