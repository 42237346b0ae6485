"""What is published of a private source: by default no path; with `paths: keep` no name that is recognised."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from biovfm_hf.decoding.content import first_bytes
from dataset_builder.build import build
from dataset_builder.dataset.check import faults

KEPT_PATHS = {"access": "private", "paths": "keep"}
NAME = "quimbyxy"  # of the patient, in every place where one may stand


def rows_of(out: Path) -> list[dict]:
    return [row for path in sorted((out / "data").rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def contents(out: Path) -> dict[str, str]:
    """Name and content of every file of a dataset that an upload takes, Parquet files read too, in lower case."""
    files = [path for path in out.rglob("*") if path.is_file() and ".build" not in path.relative_to(out).parts]
    texts = {path.relative_to(out).as_posix(): path.read_bytes().decode("latin-1") for path in files}
    for name in texts:
        if name.endswith(".parquet"):
            texts[name] += repr(pq.read_table(out / name).to_pylist()) + str(pq.read_schema(out / name).metadata)
    return {name: (name + text).lower() for name, text in texts.items()}


@pytest.fixture
def names_everywhere(tmp_path, make) -> tuple[Path, str]:
    """A raw folder with the patient's name in headers, sequences, paths, members, damaged files and tables."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    raw = tmp_path / "raw" / "clinic"
    other = Dataset()
    other.PatientID, other.TypeOfPatientID = NAME, "TEXT"
    header = {"PatientName": f"{NAME}^Zach", "PatientMotherBirthName": NAME, "ResponsiblePerson": NAME}
    header |= {"StudyID": NAME, "ReferringPhysicianName": NAME, "InstitutionName": NAME}
    header |= {"OtherPatientIDsSequence": Sequence([other]), "ImageComments": f"seen by {NAME}"}
    make.dicom(raw / NAME / "Study 20230115" / f"{NAME} 1.DCM", make.picture(1), **header)
    make.dicom(raw / NAME / "series" / f"{NAME}2.dcm", make.picture(2), **header)
    data = (raw / NAME / "series" / f"{NAME}2.dcm").read_bytes()
    (raw / NAME / "cut.dcm").write_bytes(data[:500])
    (raw / NAME / "IM7").write_bytes(data)
    make.png(raw / f"Breast 2023 (final)/{NAME.upper()}-GIVEN 007/Study 20230115/img #15.PNG", make.picture(3))
    make.png(raw / "test" / f"{NAME}.png", make.picture(4))
    (raw / f"x.{NAME}").write_bytes(b"x")
    (raw / f"report of {NAME}.pdf").write_bytes(b"x")
    (raw / f".{NAME}.png").write_bytes(b"x")
    (raw / f"{NAME}.7z").write_bytes(b"7z" + NAME.encode())
    (raw / f"{NAME}.zip").write_bytes(b"PK broken " + NAME.encode())
    np.save(raw / "a.npy", np.zeros(3, dtype=[(NAME, "f4")]))
    np.save(raw / "b.npy", np.array([{NAME: 1}], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(raw / "c.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr(f"{NAME}/1.png", data)
        archive.writestr(f"{NAME}/2.dcm", data)
        archive.writestr(f"../{NAME}.png", data)
    damaged = bytearray((raw / "c.zip").read_bytes())
    damaged[damaged.index(b"PK\1\2") + 16] ^= 255  # the checksum, which zipfile tells with the member's name
    (raw / "c.zip").write_bytes(damaged)
    (raw / f"list {NAME}.csv").write_text(f"file,patient\n{NAME} 1.DCM,{NAME}\n")
    (raw / f"bad {NAME}.csv").write_bytes(b'"' + NAME.encode())
    record = make.record(
        tmp_path,
        "clinic",
        access="private",
        items=["**/*.dcm", "**/*.png", "**/*.npy", "**/IM?"],
        exclude=[{"pattern": "test/**", "reason": "test"}],
        subject={"path": r"(?:^|/)([A-Za-z]{8})[ /-]"},
    )
    return tmp_path / "raw", str(record)


def test_no_name_leaves_a_private_source(names_everywhere, tmp_path, capfd):
    raw, record = names_everywhere
    for workers in (0, 1):
        out = tmp_path / f"out{workers}"
        summary = build(raw, out, [record], workers=workers, size=32)
        assert summary["kept"] >= 3 and {"unreadable", "test"} <= summary["outcomes"].keys()
        shown = capfd.readouterr()
        texts = {**contents(out), "stdout": shown.out.lower(), "stderr": shown.err.lower()}
        assert not [name for name, text in texts.items() if NAME in text or "20230115" in text]
        manifest = pq.read_table(out / "manifest.parquet").to_pylist()
        paths = [line["path"] for line in manifest]
        assert all(re.fullmatch(r"[0-9a-f]{16}(\.(dcm|png|npy|zip))?", path) for path in paths), paths
        assert not any(line["detail"] for line in manifest if line["outcome"] != "duplicate")
        subjects = {row["subject"] for row in rows_of(out)}
        assert all(subject is None or re.fullmatch("[0-9a-f]{16}", subject) for subject in subjects)
        assert faults(out)[1] == []


def test_the_builder_keeps_a_table_of_what_is_withheld(names_everywhere, tmp_path):
    raw, record = names_everywhere
    build(raw, tmp_path / "out", [record], workers=0, size=32)
    places = pq.read_table(tmp_path / "out" / ".build" / "places.parquet").to_pylist()
    lines = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert [place["path"] for place in places] == [line["path"] for line in lines]
    by_place = {place["place"]: place for place in places}
    assert by_place[f"clinic/{NAME}/cut.dcm"]["remark"] and by_place[f"clinic/{NAME}/IM7"]["outcome"] == "kept"
    assert len(by_place) == len({place["path"] for place in places})


def test_the_last_lines_name_the_table_that_only_the_owner_can_read(names_everywhere, tmp_path, capsys):
    raw, record = names_everywhere
    unreadable = build(raw, tmp_path / "out", [record], workers=0, size=32)["outcomes"]["unreadable"]
    table = tmp_path / "out" / ".build" / "places.parquet"
    assert f"{table}, for you only, has the paths and reasons of {unreadable} unreadable" in capsys.readouterr().out
    assert table.stat().st_mode & 0o777 == 0o600 and table.parent.stat().st_mode & 0o777 == 0o700


def test_nobody_can_test_a_guess_and_a_build_continues_with_its_secret(tmp_path, make):
    """Hashes of a private source differ between builds, unless a salt file is given; published ones do not."""
    record = make.record(tmp_path, "own", access="private", subject={"path": "(P[0-9]+)"})
    released = make.record(tmp_path, "released", access="open", subject={"path": "(P[0-9]+)"})
    (tmp_path / "salt").write_text("a secret of this hospital")
    for source in ("own", "released"):
        make.png(tmp_path / "raw" / source / "P01.png", make.picture(len(source)))

    def hashes(name, **words):
        build(tmp_path / "raw", tmp_path / name, [record, released], workers=0, size=32, **words)
        rows = sorted((row["source"], row["path"], row["subject"]) for row in rows_of(tmp_path / name))
        return rows[0][1:], rows[1][1:]

    first, second = hashes("first"), hashes("second")
    assert first[1] == second[1] and not set(first[0]) & set(second[0])
    make.png(tmp_path / "raw" / "released" / "P02.png", make.picture(20))
    build(tmp_path / "raw", tmp_path / "first", [record, released], workers=0, size=32, retry_failed=True)
    assert first[0] in [(row["path"], row["subject"]) for row in rows_of(tmp_path / "first")]
    (tmp_path / "raw" / "released" / "P02.png").unlink()
    assert hashes("salted", salt_file=tmp_path / "salt") == hashes("again", salt_file=tmp_path / "salt")


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"access": "open"}, "the dataset keeps published sources' paths as released"),
        ({"access": "private"}, "the dataset holds no path of own, only a code and the file suffix"),
        (KEPT_PATHS, "the dataset keeps the paths of own without file and folder names that were recognised"),
        ({"access": "open", "paths": "withhold"}, "the dataset holds no path of own, "),
    ],
)
def test_a_build_ends_by_stating_which_paths_stay_readable(tmp_path, make, capsys, fields, line):
    make.png(tmp_path / "raw" / "own" / "a.png", make.picture(1))
    build(tmp_path / "raw", tmp_path / "out", [make.record(tmp_path, "own", **fields)], workers=0, size=32)
    assert sum(text.startswith(line) for text in capsys.readouterr().out.splitlines()) == 1
    assert rows_of(tmp_path / "out")[0]["path"].startswith("own/a.png") == ("no path of own" not in line)


@pytest.mark.parametrize("capture", ["smithers", "case_4711", "ab", "Roe_Rita", "Roe Rita"])
def test_a_captured_subject_never_stands_in_clear(tmp_path, make, capture):
    make.png(tmp_path / "raw" / "own" / capture / f"t1_{capture}.png", make.picture(1))
    record = make.record(tmp_path, "own", subject={"path": "([^/]+)/[^/]+$"}, **KEPT_PATHS)
    build(tmp_path / "raw", tmp_path / "out", [record], workers=0, size=32)
    (row,) = rows_of(tmp_path / "out")
    assert re.fullmatch(r"own/withheld-[0-9a-f]{8}/withheld-[0-9a-f]{8}", row["path"])
    assert not [name for name, text in contents(tmp_path / "out").items() if f"{capture.lower()}.png" in text]


@pytest.mark.parametrize(
    "element", ["PatientMotherBirthName", "ResponsiblePerson", "StudyID", "ReferringPhysicianName", "InstitutionName"]
)
def test_the_whole_profile_of_the_header_is_compared_with_kept_paths(tmp_path, make, element):
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    inner = Dataset()
    setattr(inner, element, NAME)
    make.dicom(tmp_path / "raw/own" / NAME / "flat.dcm", make.picture(1), **{element: NAME})
    nested = {"OtherPatientIDsSequence": Sequence([inner])}
    make.dicom(tmp_path / "raw/own" / NAME / "nested.dcm", make.picture(2), **nested)
    record = make.record(tmp_path, "own", items=["**/*.dcm"], **KEPT_PATHS)
    build(tmp_path / "raw", tmp_path / "out", [record], workers=0, size=32)
    paths = [row["path"] for row in rows_of(tmp_path / "out")]
    assert [re.sub("-[0-9a-f]{8}", "", path) for path in paths] == ["own/withheld/flat.dcm", "own/withheld/nested.dcm"]


def test_no_patient_name_reaches_the_output(tmp_path, make):
    header = {"PatientName": "Doe^Jolanthe", "PatientID": "MRN4711099", "PatientBirthDate": "19530412"}
    raw = tmp_path / "raw" / "clinic"
    make.dicom(raw / "visit1" / "a.dcm", make.picture(1), **header)
    make.dicom(raw / "DOE_JOLANTHE" / "MRN4711099.dcm", make.picture(2), **header)
    Image.fromarray(make.picture(3)).save(tmp_path / "c.jpg", comment=b"Jolanthe Doe")
    (raw / "c.jpg").write_bytes((tmp_path / "c.jpg").read_bytes())
    record = make.record(
        tmp_path, "clinic", items=["**/*.dcm", "*.jpg"], subject={"path": "([^/]+)/[^/]+$"}, **KEPT_PATHS
    )
    summary = build(tmp_path / "raw", tmp_path / "out", [str(record)], workers=0, size=32)
    assert summary["kept"] == 3
    secrets = ["jolanthe", "mrn4711099", "19530412", str(tmp_path).lower()]
    for name, content in contents(tmp_path / "out").items():
        assert not [secret for secret in secrets if secret in content], name
    paths = [line["path"] for line in pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()]
    assert sum("withheld-" in path for path in paths) == 2  # one by its header too


def test_names_beside_the_pictures_of_a_private_source_are_withheld(tmp_path, make):
    raw = tmp_path / "raw" / "clinic"
    make.png(raw / "one" / "1.png", make.picture(1))
    for name in ("one/Report Jolanthe.pdf", "Joe/notes.txt", "jolanthe/n.txt", ".jolanthe/1.png", "one/.jolanthe.swp"):
        (raw / name).parent.mkdir(exist_ok=True)
        (raw / name).write_bytes(b"x")
    (raw / "jolanthe" / "loop.png").symlink_to("loop.png")  # resolving it raises RuntimeError
    with zipfile.ZipFile(raw / "all.zip", "w") as archive:
        archive.writestr("jolanthe/notes.txt", b"x")
    for access, shown in (("open", True), ("private", False)):
        record = str(make.record(tmp_path, "clinic", access=access, paths="keep"))
        summary = build(tmp_path / "raw", tmp_path / access, [record], workers=0, size=32)
        assert (summary["considered"], summary["kept"]) == (8, 1)
        assert faults(tmp_path / access)[1] == []
        text = repr(pq.read_table(tmp_path / access / "manifest.parquet").to_pylist()).lower()
        assert ("jolanthe" in text) == ("/joe/" in text) == shown and "clinic/one/1.png" in text


def test_pseudonyms_of_a_published_release_stay(tmp_path, make):
    make.png(tmp_path / "raw" / "cxr" / "00000442_000.png", make.picture(1))
    for access, shown in (("open", True), ("private", False)):
        record = str(make.record(tmp_path, "cxr", access=access, paths="keep", subject={"path": r"(\d{8})_"}))
        build(tmp_path / "raw", tmp_path / access, [record], workers=0, size=32)
        (row,) = rows_of(tmp_path / access)
        assert (row["path"] == "cxr/00000442_000.png") == shown


def test_names_without_a_header_are_withheld(tmp_path, make):
    """Volumes have no header that names a patient: the subject's place in the path does, or dates and numbers."""
    raw = tmp_path / "raw" / "clinic"
    secrets = ("Doe_Jolanthe", "Roe^Rita", "MRN 4711", "1953-04-12")
    for number, name in enumerate(secrets):
        make.nifti(raw / name / "t1.nii.gz", make.volume(number))
    make.nifti(raw / "sub-01" / "t1.nii.gz", make.volume(9))
    items = [{"pattern": "**/*.nii.gz", "kind": "volume"}]
    record = str(
        make.record(tmp_path, "clinic", modality="MR", items=items, subject={"path": "([^/]+)/[^/]+$"}, **KEPT_PATHS)
    )
    (tmp_path / "salt").write_text("a secret of this hospital")
    for name, words in (("out", {}), ("salted", {"salt_file": tmp_path / "salt"})):
        build(tmp_path / "raw", tmp_path / name, [record], workers=0, size=32, **words)
        for file, content in contents(tmp_path / name).items():
            assert not [secret for secret in secrets if secret.lower() in content], file
    paths = [{row["path"] for row in rows_of(tmp_path / name)} for name in ("out", "salted")]
    assert len(paths[0]) == len(paths[1]) == 5
    assert not paths[0] & paths[1]  # the secret changes the replacements


@pytest.fixture
def clinic(tmp_path, make):
    """The raw folder and record of a private source whose files name a patient in ways that are easily missed."""
    raw, header = tmp_path / "raw" / "clinic", {"PatientName": "Quimby^Zach", "PatientID": "7654321"}
    make.dicom(raw / "test" / "quimby_left_out.dcm", make.picture(1), **header)
    make.dicom(raw / "whole.dcm", make.picture(2), **header)
    data = (raw / "whole.dcm").read_bytes()
    (raw / "quimby_bare.dcm").write_bytes(data[132:])  # without preamble
    (raw / "Quimby").mkdir()
    (raw / "Quimby" / "cut.dcm").write_bytes(data[:400])
    for name in ("31-12-1951", "12.31.1951", "7654321"):
        make.png(raw / name / "x.png", make.picture(3))
    with zipfile.ZipFile(raw / "a.zip", "w") as archive:
        archive.writestr("test/quimby_two.dcm", data)
        archive.writestr("test/Quimby/IM2", data)
        archive.writestr("Quimby/IM3", data[:100])
        archive.writestr("Doe^Jane/mrn_7654321/1951-12-13.png", b"no picture")
    damaged = bytearray((raw / "a.zip").read_bytes())
    damaged[damaged.index(b"no picture") + 3] ^= 255
    (raw / "a.zip").write_bytes(damaged)
    with zipfile.ZipFile(raw / "z.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("Quimby O'Z/1.png", data)
    damaged = bytearray((raw / "z.zip").read_bytes())
    damaged[damaged.index(b"PK\1\2") + 16] ^= 255  # the checksum, which zipfile tells with the member's name
    (raw / "z.zip").write_bytes(damaged)
    items = ["**/*.dcm", "**/*.png", "**/IM?"]
    exclude = [{"pattern": "**/test/**", "reason": "test"}]
    return tmp_path / "raw", str(make.record(tmp_path, "clinic", items=items, exclude=exclude, **KEPT_PATHS))


def test_names_that_are_easily_missed_are_withheld(tmp_path, clinic):
    raw, record = clinic
    build(raw, tmp_path / "out", [record], workers=0, size=32)
    lines = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    lines.pop()  # whose name no pattern finds in the path
    assert not any(line["detail"] for line in lines if line["outcome"] == "unreadable")
    shown = repr([(line["path"], line["detail"]) for line in lines]).lower()
    assert len(lines) == 11 and {"test", "unreadable", "kept"} <= {line["outcome"] for line in lines}
    assert not [secret for secret in ("quimby", "zach", "7654321", "1951", "doe", "jane") if secret in shown], shown


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("Özdemir^Müzeyyen", "özdemir_brain"),
        ("Özdemir^Müzeyyen", "O\u0308zdemir"),  # as macOS stores it
        ("Özdemir^Müzeyyen", "ozdemir"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "tarou"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "山田"),
        ("Li^Wei", "LI_brain"),
    ],
)
def test_names_of_the_header_are_withheld_however_they_are_written(tmp_path, make, header, name):
    words = {"PatientName": header, "PatientID": "no", "SpecificCharacterSet": "ISO_IR 192"}
    make.dicom(tmp_path / "raw" / "own" / name / "a.dcm", make.picture(1), **words, OtherPatientIDs=["AB12", "CD34"])
    make.dicom(tmp_path / "raw" / "own" / "cd34" / "a.dcm", make.picture(2), OtherPatientIDs=["AB12", "CD34"])
    record = str(make.record(tmp_path, "own", items=["**/*.dcm"], **KEPT_PATHS))
    build(tmp_path / "raw", tmp_path / "out", [record], workers=0, size=32)
    paths = [line["path"] for line in pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()]
    assert len(paths) == 2
    for path in paths:
        assert path.startswith("own/withheld-") and path.endswith("/a.dcm")


@pytest.mark.parametrize(("folder", "shown"), [(".", "withheld-"), ("a", "a/withheld-"), ("a/quinn", "a/quinn/")])
def test_all_below_the_folder_of_a_source_is_withheld_without_a_header(tmp_path, make, folder, shown):
    make.dicom(tmp_path / "whole.dcm", make.picture(1))
    for name in ("kept", "quimby"):
        place = tmp_path / "raw/a/quinn" / name / f"{name}.dcm"
        place.parent.mkdir(parents=True)
        place.write_bytes((tmp_path / "whole.dcm").read_bytes()[: 400 if name == "quimby" else None])
    record = make.record(tmp_path, "own", items=["**/*.dcm"], **KEPT_PATHS)
    record.write_text(f"{record.read_text()}folder: {folder}\n")
    build(tmp_path / "raw", tmp_path / "out", [record], workers=0, size=32)
    whole, cut = [line["path"] for line in pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()]
    assert whole == "a/quinn/kept/kept.dcm"
    assert cut.startswith(shown) and "quimby" not in cut and cut.count("/") == 3


def test_a_locked_file_that_is_left_out_costs_one_line(tmp_path, clinic, monkeypatch):
    raw, record = clinic

    def locked(source, count):
        if isinstance(source, Path) and source.parent.name == "test":
            raise PermissionError(13, "Permission denied", str(source))
        return first_bytes(source, count)

    monkeypatch.setattr("biovfm_hf.decoding.identity_words.first_bytes", locked)
    assert build(raw, tmp_path / "out", [record], workers=0, size=32)["outcomes"]["test"] == 3
