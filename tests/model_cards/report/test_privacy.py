"""Images of private sources and tasks stay out of a report unless they are asked for, and the page says so."""

import shutil

import pytest

from biovfm_hf.cards.provenance import Provenance, write_provenance
from model_cards.report.command import ReportOptions, report


@pytest.fixture
def private(make, dataset_dir, run_dir, tmp_path):
    data, run = (shutil.copytree(folder, tmp_path / folder.name) for folder in (dataset_dir, run_dir))
    results = make.results(tmp_path / "results", make.rows("m", ["wards"]), figure="pca_m_wards")
    write_provenance(data, Provenance(("chest-a",)))
    write_provenance(run, Provenance(("chest-a",)))
    write_provenance(results, Provenance(private_tasks=("wards",)))
    return data, run, results


def test_private_images_are_left_out_and_named(private, tmp_path):
    done = report(ReportOptions(private, out=tmp_path / "report.html"))
    page = done.path.read_text()
    assert any("pca_m_wards.png: shows private images of wards" in line for line in done.left_out)
    assert any(line.startswith("crops of ") for line in done.left_out)
    assert "Images of chest-a are not shown: this source is private." in page
    assert 'alt="X-Ray' not in page and 'alt="OCT' in page


def test_private_images_are_shown_on_request(private, tmp_path):
    done = report(ReportOptions(private, out=tmp_path / "report.html", private_images=True))
    page = done.path.read_text()
    assert not done.left_out and 'alt="X-Ray' in page and "Patch tokens as colours" in page
