"""Paths that repeat what DICOM headers tell are not shown."""

import gzip
import os

import numpy as np
import pydicom
import pytest

from evaluation.commands.naming import NAMED, UNREAD, why_withheld
from tests.dataset_builder.conftest import write_dicom

PIXELS = np.tile(np.arange(32, dtype=np.uint8), (32, 1))


def nested(keyword: str, value: str) -> dict[str, list[pydicom.Dataset]]:
    inner, outer = pydicom.Dataset(), pydicom.Dataset()
    setattr(inner, keyword, value)
    outer.OtherPatientIDsSequence = [inner]
    return {"RequestAttributesSequence": [outer]}


@pytest.mark.parametrize(
    ("path", "header"),
    [
        ("doe/a.dcm", {"PatientName": "Doe^Jane"}),
        ("JANEDOE_1.dcm", {"PatientName": "Doe^Jane"}),
        ("a/Muller 3/b.dcm", {"PatientName": "M\u00fcller^Eva", "SpecificCharacterSet": "ISO_IR 192"}),
        ("4711b/IM0001", {"PatientID": "4711B"}),
        ("mercy/a.dcm", {"InstitutionName": "Mercy Hospital"}),
        ("x/quimby.dcm", nested("PatientMotherBirthName", "Quimby")),
        ("20230115/a.dcm", {"StudyDate": "20230115"}),
        ("quimby.dcm.gz", {"ReferringPhysicianName": "Quimby"}),
    ],
)
def test_a_path_that_repeats_its_header_is_withheld(tmp_path, path, header):
    file = tmp_path / path
    write_dicom(tmp_path / "written", PIXELS, **header)
    data = (tmp_path / "written").read_bytes()
    (tmp_path / "written").unlink()
    for other in (tmp_path / "other" / "1.dcm", file):
        other.parent.mkdir(exist_ok=True, parents=True)
        other.write_bytes(gzip.compress(data) if other.suffix == ".gz" else data)
    assert why_withheld(tmp_path) == NAMED
    file.unlink()
    assert why_withheld(tmp_path) is None


@pytest.mark.parametrize("name", ["a.dcm", "a.ima", "a.dcm.gz"])
def test_a_header_that_cannot_be_read_tells_nothing(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "README").write_text("no DICOM")
    assert why_withheld(tmp_path) == UNREAD
    (tmp_path / name).unlink()
    assert why_withheld(tmp_path) is None


def test_reports_and_directories_are_headers_too(tmp_path):
    """They contain no image; a hospital's disc has them beside its images."""
    record = pydicom.Dataset()
    record.PatientName, record.DirectoryRecordType = "Doe^Jane", "PATIENT"
    for name, more in (("DICOMDIR", {"DirectoryRecordSequence": [record]}), ("report.dcm", {"Modality": "SR"})):
        write_dicom(tmp_path / name, PIXELS, PatientName="Doe^Jane", **more)
        dataset = pydicom.dcmread(tmp_path / name)
        del dataset.Rows, dataset.PixelData
        dataset.save_as(tmp_path / name)
    assert why_withheld(tmp_path) is None
    (tmp_path / "report.dcm").rename(tmp_path / "doe.dcm")
    assert why_withheld(tmp_path) == NAMED


def ended(*_: object) -> None:
    """A reader that crashes on a file."""
    os.abort()


def test_a_reader_that_dies_withholds(tmp_path, monkeypatch):
    write_dicom(tmp_path / "a.dcm", PIXELS)
    monkeypatch.setattr("evaluation.commands.naming.why_told", ended)
    assert why_withheld(tmp_path) == UNREAD
