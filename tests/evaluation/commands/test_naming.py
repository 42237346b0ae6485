"""Paths that repeat words of DICOM headers are not shown."""

import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from evaluation.commands.naming import ARCHIVE, NAMED, UNREAD, first_archive, why_withheld
from tests.dataset_builder.conftest import write_dicom

PIXELS = np.tile(np.arange(32, dtype=np.uint8), (32, 1))


def nested(keyword: str, value: str) -> dict[str, list[pydicom.Dataset]]:
    inner, outer = pydicom.Dataset(), pydicom.Dataset()
    setattr(inner, keyword, value)
    outer.OtherPatientIDsSequence = [inner]
    return {"RequestAttributesSequence": [outer]}


def named(name: str) -> dict[str, str]:
    return {"PatientName": name, "SpecificCharacterSet": "ISO_IR 192"}


def coded(meaning: str) -> dict[str, list[pydicom.Dataset]]:
    """A person given by a code."""
    code, person = pydicom.Dataset(), pydicom.Dataset()
    code.CodeMeaning, person.PersonIdentificationCodeSequence = meaning, [code]
    return {"ReferringPhysicianIdentificationSequence": [person]}


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
        ("mueller/a.dcm", named("M\u00fcller^Eva")),
        ("mueller_luedenscheid/a.dcm", named("Mueller-Luedenscheid^Q")),
        ("Garcia Marquez/a.dcm", named("Garcia-Marquez^Q")),
        ("Marquez/a.dcm", named("Garcia-Marquez^Q")),
        ("doe-john/a.dcm", named("DOE_JOHN")),
        ("Mueller/a.dcm", named("Dr.Mueller^Q")),
        ("vonohe/a.dcm", named("von Ohe^Q")),
        ("EvaDoe/a.dcm", named("Doe^Eva")),
        ("Lukasz/a.dcm", named("\u0141ukasz^Q")),
        ("Soren/a.dcm", named("S\u00f8ren^Q")),
        ("weiss/a.dcm", named("Wei\u00df^Q")),
        ("OBrien/a.dcm", named("O'Brien^Q")),
        ("pat00471199/a.dcm", {"PatientID": "0047-1199"}),
        ("0047_1199/a.dcm", {"PatientID": "0047-1199"}),
        ("471199/a.dcm", {"PatientID": "00471199"}),
        ("47/a.dcm", {"PatientID": "47"}),
        ("1970-01-02/a.dcm", {"PatientBirthDate": "19700102"}),
        ("02.01.1970/a.dcm", {"PatientBirthDate": "19700102"}),
        ("x 1-2-1970/a.dcm", {"PatientBirthDate": "19700102"}),
        ("quimby/a.dcm", {"RetrieveURL": "http://h/Quimby"}),
        ("quimby/a.dcm", coded("Quimby Jane")),
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


@pytest.mark.parametrize(
    ("path", "header"),
    [
        ("625.dcm", {"ProtocolName": "0.625 mm"}),
        ("498/1.dcm", {"StudyInstanceUID": "1.2.826.498.7"}),
        ("1.dcm", {"PatientID": "0001"}),
        ("10.dcm", {"SeriesDescription": "AX 10"}),
    ],
)
def test_numbers_that_name_nobody_are_shown(tmp_path, path, header):
    write_dicom(tmp_path / path, PIXELS, **header)
    assert why_withheld(tmp_path) is None


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("size", "why"), [(1000, NAMED), (1 << 20, UNREAD)])
def test_names_behind_long_elements_are_not_missed(tmp_path, size, why, packed):
    write_dicom(tmp_path / "quimby" / "a.dcm", PIXELS, PatientName="Doe")
    dataset = pydicom.dcmread(tmp_path / "quimby" / "a.dcm")
    dataset.add_new(0x00290010, "LO", "MAKER")
    dataset.add_new(0x00291010, "OB", np.random.default_rng(0).bytes(size))
    dataset.RequestingPhysician = "Quimby^Jane"
    dataset.save_as(tmp_path / "quimby" / "a.dcm")
    if packed:
        data = (tmp_path / "quimby" / "a.dcm").read_bytes()
        (tmp_path / "quimby" / "a.dcm").unlink()
        (tmp_path / "quimby" / "a.dcm.gz").write_bytes(gzip.compress(data, 1))
    assert why_withheld(tmp_path) == why


def test_text_that_a_maker_stores_as_bytes_counts(tmp_path):
    write_dicom(tmp_path / "quimby" / "a.dcm", PIXELS)
    dataset = pydicom.dcmread(tmp_path / "quimby" / "a.dcm")
    dataset.add_new(0x00290010, "LO", "MAKER")
    dataset.add_new(0x00291010, "OB", b"name = Quimby\n")
    dataset.save_as(tmp_path / "quimby" / "a.dcm")
    assert why_withheld(tmp_path) == NAMED


@pytest.mark.parametrize("name", ["a.dcm", "a.ima", "a.dcm.gz"])
def test_a_header_that_cannot_be_read_withholds(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "README").write_text("no DICOM")
    assert why_withheld(tmp_path) == UNREAD
    (tmp_path / name).unlink()
    assert why_withheld(tmp_path) is None


def test_a_picture_is_compared_with_the_headers_beside_it(tmp_path):
    write_dicom(tmp_path / "a.dcm", PIXELS, PatientName="Quimby^Jane")
    (tmp_path / "other.jpg").write_bytes(b"\xff\xd8\xff")
    assert why_withheld(tmp_path) is None
    (tmp_path / "other.jpg").rename(tmp_path / "quimby 2.jpg")
    assert why_withheld(tmp_path) == NAMED


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


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar", "xztar", "bztar"])
def test_an_archive_withholds(tmp_path, kind):
    """Its name may be that of the patient in its files."""
    write_dicom(tmp_path / "packed" / "a.dcm", PIXELS, PatientName="Quimby^Jane")
    write_dicom(tmp_path / "scans" / "a.dcm", PIXELS)
    assert why_withheld(tmp_path / "scans") is None
    made = Path(shutil.make_archive(str(tmp_path / "scans" / "quimby"), kind, tmp_path / "packed"))
    assert why_withheld(tmp_path / "scans") == ARCHIVE and first_archive(tmp_path / "scans") == made
    made.rename(tmp_path / "scans" / "quimby.backup")
    assert why_withheld(tmp_path / "scans") == ARCHIVE


def ended(*_: object) -> None:
    """A reader that crashes on a file."""
    os.abort()


def test_a_reader_that_dies_withholds(tmp_path, monkeypatch):
    write_dicom(tmp_path / "a.dcm", PIXELS)
    monkeypatch.setattr("evaluation.commands.naming.compare_headers", ended)
    assert why_withheld(tmp_path) == UNREAD
