"""The walk over a raw folder: every file has a line, and hostile folders and archives do no harm."""

import csv
import gzip
import json
import os
import random
import sys
import tarfile
import tracemalloc
import zipfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biovfm_hf.reading.image_files import NOT_INPUT
from dataset_builder.catalog import case_lists
from dataset_builder.catalog.records import load_source
from dataset_builder.item import Item
from dataset_builder.plan import archives as plan_archives
from dataset_builder.plan.listing import list_items
from dataset_builder.readers import archives, zip_directory
from dataset_builder.readers.members import content_of, members
from tests.dataset_builder.conftest import RECORD

FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def folder(tmp_path):
    """The folder of source `mine` in an empty raw folder."""
    path = tmp_path / "raw" / "mine"
    path.mkdir(parents=True)
    return path


def found(source, raw):
    """(path or path!member) -> reason, None if selected."""
    return {
        item.path + (f"!{item.member}" if item.member else ""): item.excluded for item in list_items(source, Path(raw))
    }


# The walk


def test_order_is_that_of_the_names_and_reasons_are_given(record, folder):
    for name in ("b/2.png", "b/1.png", "a/3.png", "c.png", "mask/1.png", "readme.txt", "d.jpg", ".hidden.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    source = record(exclude=[{"pattern": "**/mask/*", "reason": "mask"}], train={"path": "^(?!c)"})
    assert list(found(source, folder.parent).items()) == [
        ("mine/.hidden.png", "a hidden file"),
        ("mine/a/3.png", None),
        ("mine/b/1.png", None),
        ("mine/b/2.png", None),
        ("mine/c.png", "not in the training part"),
        ("mine/d.jpg", "no pattern of the record matches this file"),
        ("mine/mask/1.png", "mask"),
        ("mine/readme.txt", NOT_INPUT),
    ]


def test_links_that_leave_are_excluded_and_links_that_stay_are_followed(record, folder, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "real.png").write_bytes(b"x")
    (folder / "inside.png").symlink_to("real.png")
    (folder / "outside.png").symlink_to(tmp_path / "secret.png")
    (folder / "up").symlink_to("..")
    (folder / "etc").symlink_to("/etc")
    (folder / "broken.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    outcome = found(record(), folder.parent)
    assert {path for path, reason in outcome.items() if reason is None} == {"mine/real.png", "mine/inside.png"}
    assert "leaves the source's folder" in outcome["mine/outside.png"]
    assert {"mine/up", "mine/etc", "mine/broken.png", "mine/loop.png"} < set(outcome)


def test_pipes_are_never_opened_and_deep_folders_end(record, folder):
    os.mkfifo(folder / "pipe.png")
    deep = folder
    for _ in range(60):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "x.png").write_bytes(b"x")
    deepest = "/".join(["mine", *"d" * 33])
    assert found(record(), folder.parent) == {
        "mine/pipe.png": "not a regular file",
        deepest: "folders nested too deep",
    }


def test_names_that_are_not_utf8_are_excluded_and_printable(record, folder):
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff.png")).write_bytes(b"x")
    ((path, reason),) = found(record(), folder.parent).items()
    path.encode("utf-8")
    assert reason == "the file name is not valid UTF-8"


def test_every_folder_that_is_passed_over_has_a_line(record, folder):
    for name in (b".hidden", b"__MACOSX", b"M\xfcller", b"seen"):
        path = os.fsencode(folder) + b"/" + name
        os.mkdir(path)  # noqa: PTH102 (a name that is not UTF-8)
        Path(os.fsdecode(path + b"/x.png")).write_bytes(b"x")
    assert found(record(), folder.parent) == {
        "mine/.hidden": "a hidden folder",
        "mine/M\\udcfcller": "the folder name is not valid UTF-8",
        "mine/__MACOSX": "a hidden folder",
        "mine/seen/x.png": None,
    }


def test_no_file_is_left_without_a_line(record, folder):
    others = ("a.raw", "a.hdr", "a.xyz", "LICENSE", "IM.001", "report.pdf", "a.dcm.txt")
    unnamed = ("a.jp2", "a.jfif", "a.ima", "a.mov", "a.nhdr", "a.mat", "x.png.gz")
    for name in (*others, *unnamed):
        (folder / name).write_bytes(b"x")
    outcome = found(record(), folder.parent)
    assert {path for path, reason in outcome.items() if reason == NOT_INPUT} == {f"mine/{name}" for name in others}
    named = {path for path, reason in outcome.items() if reason == "no pattern of the record matches this file"}
    assert named == {f"mine/{name}" for name in unnamed}


def test_an_archive_without_files_has_a_line(record, folder):
    inner = BytesIO()
    zipfile.ZipFile(inner, "w").close()
    (folder / "none.zip").write_bytes(inner.getvalue())
    with zipfile.ZipFile(folder / "outer.zip", "w") as archive:
        archive.writestr("inner.zip", inner.getvalue())
    with tarfile.open(folder / "folders.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("empty")
        member.type = tarfile.DIRTYPE
        archive.addfile(member)
    outcome = found(record(), folder.parent)
    assert outcome == dict.fromkeys(
        ("mine/folders.tar.gz", "mine/none.zip", "mine/outer.zip!inner.zip"), "an archive without files"
    )


def test_dicom_files_without_a_suffix_are_seen_as_dcm(record, folder, make):
    """If no pattern matches them under their own name; an exclude rule that does still applies."""
    for number, name in enumerate(("IM0", "IM1", "1.2.840.7", "test/IM3")):
        make.dicom(folder / name, make.picture(number), SeriesInstanceUID="1.2.3", InstanceNumber=number)
    (folder / "README").write_bytes(b"x" * 200)
    exclude = [{"pattern": "test/IM?", "reason": "test"}]
    outcome = found(record(items=["**/*.dcm"], exclude=exclude), folder.parent)
    assert outcome == {
        **dict.fromkeys(("mine/1.2.840.7", "mine/IM0", "mine/IM1")),
        "mine/README": NOT_INPUT,
        "mine/test/IM3": "test",
    }
    source = record(items=[{"pattern": "**/*.dcm", "kind": "dicom_series"}], exclude=exclude)
    (series,) = [item for item in list_items(source, folder.parent) if item.excluded is None]
    assert series.files == ("mine/IM0", "mine/IM1", "mine/1.2.840.7")
    assert set(found(record(), folder.parent).values()) == {NOT_INPUT, "no pattern of the record matches this file"}


@pytest.mark.parametrize("key", ["name", "stem", "([^/]+)$"])
@pytest.mark.parametrize("kind", ["image", "dicom_series"])
def test_lists_know_dicom_files_without_a_suffix_by_their_names(record, folder, make, key, kind):
    for number, name in enumerate(("IM0", "1.2.840.7", "IM2")):
        make.dicom(folder / str(number) / name, make.picture(number), SeriesInstanceUID=f"1.2.{number}")
    (folder / "s.csv").write_text("file,split,who\nIM0,train,p0\n1.2.840.7,train,p1\nIM2,test,p2\n")
    table = {"table": "s.csv", "match": "file", "key": key}
    items = [{"pattern": "**/*.dcm", "kind": kind}]
    source = record(items=items, train={**table, "where": {"split": "train"}}, subject={**table, "column": "who"})
    taken = [item for item in list_items(source, folder.parent) if item.excluded is None]
    assert [(item.path.split("/")[1], item.subject) for item in taken] == [("0", "p0"), ("1", "p1")]
    left_out = record(items=items, exclude=[{"reason": "listed", "table": {**table, "where": {"split": "test"}}}])
    assert found(left_out, folder.parent)["mine/2/IM2"] == "listed"


def test_a_missing_folder_yields_nothing(record, tmp_path):
    assert found(record(), tmp_path / "nowhere") == {}


def test_tables_that_are_broken_exclude_everything_with_the_reason(record, folder):
    (folder / "1.png").write_bytes(b"x")
    source = record(train={"table": "s.csv", "match": "file", "where": {"split": "train"}})
    (folder / "s.csv").write_text("name,split\n1.png,train\n")
    assert "no column 'file'" in found(source, folder.parent)["mine/1.png"]
    (folder / "s.csv").write_bytes(b"file,split\n" + b"a" * (csv.field_size_limit() + 1))
    assert "cannot be read" in found(source, folder.parent)["mine/1.png"]
    (folder / "s.csv").write_text("file,split\n../../1.png,train\n1.png,train\n")
    assert found(source, folder.parent) == {"mine/1.png": None, "mine/s.csv": NOT_INPUT}
    (folder / "s.csv").unlink()
    (folder / "s.csv").symlink_to("/etc/passwd")
    assert "is not in the raw folder" in found(source, folder.parent)["mine/1.png"]


@pytest.mark.parametrize(("form", "text"), [("csv", "name\n1.png\n"), ("jsonl", '{"name": "1.png"}\n')])
def test_an_exclusion_list_that_cannot_be_read_excludes_everything(record, folder, form, text):
    """Otherwise its test images would count as training data."""
    for name in ("1.png", "2.png"):
        (folder / name).write_bytes(b"x")
    table = {"table": f"test.{form}", "match": "file", "format": form}
    source = record(exclude=[{"reason": "test", "table": table}])
    reasons = set(found(source, folder.parent).values())
    assert reasons == {f"the list test.{form} is not in the raw folder, so the training part is unknown"}
    (folder / f"test.{form}").write_text(text)
    outcome = found(source, folder.parent)
    assert "no column 'file'" in outcome["mine/1.png"] and "no column 'file'" in outcome["mine/2.png"]
    (folder / f"test.{form}").write_text("")
    told = {"csv": "no column 'file'", "jsonl": "no row"}[form]
    assert all(told in found(source, folder.parent)[f"mine/{name}"] for name in ("1.png", "2.png"))
    (folder / f"test.{form}").write_text(text.replace("name", "file"))
    assert found(source, folder.parent) == {"mine/1.png": "test", "mine/2.png": None, f"mine/test.{form}": NOT_INPUT}


@FAST
@given(st.data())
def test_nothing_outside_the_raw_folder_is_ever_yielded(tmp_path_factory, data):
    top = tmp_path_factory.mktemp("walk")
    (top / "outside.png").write_bytes(b"secret")
    folder = top / "raw" / "mine"
    folder.mkdir(parents=True)
    names = st.text("ab.~ \\", min_size=1, max_size=4).filter(lambda name: name not in (".", ".."))
    targets = ["..", "../..", "../../outside.png", "/etc/passwd", str(top / "outside.png"), ".", "a.png", "../mine"]
    for _ in range(data.draw(st.integers(1, 8))):
        path = folder.joinpath(*data.draw(st.lists(names, min_size=1, max_size=3)))
        path = path.with_name(path.name + data.draw(st.sampled_from([".png", "", ".zip"])))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if data.draw(st.booleans()):
                path.symlink_to(data.draw(st.sampled_from(targets)))
            elif path.suffix == ".zip":
                with zipfile.ZipFile(path, "w") as archive:
                    archive.writestr(
                        data.draw(st.sampled_from(["x.png", "../../x.png", "/x.png", "a\\..\\x.png"])), "x"
                    )
            else:
                path.write_bytes(b"x")
        except OSError:
            continue
    (top / "mine.yaml").write_text(yaml.safe_dump(RECORD))
    for item in list_items(load_source(top / "mine.yaml"), top / "raw"):
        assert ".." not in item.path.split("/") and not item.path.startswith("/")
        if item.excluded is None:
            assert (top / "raw" / item.path).resolve().is_relative_to(folder)
            assert item.member is None or archives.unsafe(item.member) is None


# Archives


def test_members_are_selected_by_the_path_they_would_unpack_to(record, folder):
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        for name in (
            "images/1.png",
            "masks/1.png",
            "../evil.png",
            "/abs.png",
            "inner.zip",
            "__MACOSX/._1.png",
            ".hid/1.png",
            ".1.png",
            "a.7z",
            "a.mat",
            "IM0",
            "t.txt",
        ):
            archive.writestr(name, b"x")
    source = record(exclude=[{"pattern": "**/masks/*", "reason": "mask"}], train={"path": r"^train\.zip/images/"})
    assert found(source, folder.parent) == {
        "mine/train.zip!images/1.png": None,
        "mine/train.zip!masks/1.png": "mask",
        "mine/train.zip!../evil.png": "the name leaves the archive",
        "mine/train.zip!/abs.png": "the name leaves the archive",
        "mine/train.zip!inner.zip": "broken archive (no end record: truncated, or not a ZIP)",
        "mine/train.zip!__MACOSX/._1.png": "in a hidden folder",
        "mine/train.zip!.hid/1.png": "in a hidden folder",
        "mine/train.zip!.1.png": "a hidden file",
        "mine/train.zip!a.7z": "an archive inside an archive: unpack the outer one here",
        "mine/train.zip!a.mat": "no pattern of the record matches this file",
        "mine/train.zip!IM0": NOT_INPUT,
        "mine/train.zip!t.txt": NOT_INPUT,
    }


def test_a_pattern_of_every_file_looks_into_archives(record, folder):
    inner = BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("1.png", b"1")
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        archive.writestr("0.png", b"0")
        archive.writestr("train.zip", inner.getvalue())
    with tarfile.open(folder / "more.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("2.png"))
    assert found(record(items=["**/*"]), folder.parent) == {
        "mine/all.zip!0.png": None,
        "mine/all.zip!train.zip!1.png": None,
        "mine/more.tar.gz!2.png": None,
    }


@pytest.fixture
def opened():
    """How often each file is opened in whatever way, by its name."""
    counts, counting = Counter(), [True]  # an audit hook cannot be removed

    def count(event, arguments):
        if counting and event == "open":
            counts[str(arguments[0]).rpartition("/")[2]] += 1

    sys.addaudithook(count)
    yield counts
    counting.clear()


def write_archive(path, members, method=zipfile.ZIP_DEFLATED):
    """A ZIP or TAR by its name; in `nested.zip` they are in a ZIP inside it."""
    if path.name == "nested.zip":
        inner = path.with_name("inner.zip")
        write_archive(inner, members)
        members = {"inner.zip": inner.read_bytes()}
        inner.unlink()
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return
    with tarfile.open(path, "w" if path.suffix == ".tar" else f"w:{path.suffix[1:]}") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, BytesIO(data))


@pytest.mark.parametrize("kind", ["image", "dicom_series"])
@pytest.mark.parametrize("name", ["a.zip", "nested.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
def test_an_archive_is_opened_and_unpacked_once_to_be_planned(record, folder, make, monkeypatch, opened, name, kind):
    """For its stamp, its members, its series, the ZIP inside it, and files without a suffix, which may be DICOM."""
    slices = {}
    for number in range(5):
        make.dicom(folder / "IM", make.picture(number), SeriesInstanceUID="1.2.3", InstanceNumber=number)
        slices[f"set/IM{number}" if number else "IM"] = (folder / "IM").read_bytes()
    (folder / "IM").unlink()
    write_archive(folder / name, slices)
    honest, read = plan_archives.content_of, Counter()
    monkeypatch.setattr(
        plan_archives, "content_of", lambda archive, member: read.update([member.name]) or honest(archive, member)
    )
    opened.clear()
    items = list(list_items(record(items=[{"pattern": "**/*.dcm", "kind": kind}]), folder.parent))
    assert opened[name] == 1 and set(read.values()) <= {1}
    inner = "inner.zip!" if name == "nested.zip" else ""
    listed = [part.name for item in items for part in item.members] or [item.member for item in items]
    assert set(listed) == {inner + one for one in slices}
    assert all(item.excluded is None for item in items)


@pytest.mark.parametrize("name", ["stored.zip", "a.zip", "nested.zip", "a.tar"])
def test_only_the_start_of_a_file_without_a_suffix_is_read(record, folder, name):
    """So it is an input if its start says so, even if the rest is damaged: the build reports that."""
    data = bytes(128) + b"DICM" + random.Random(0).randbytes(3 << 20)
    write_archive(
        folder / name, {"set/IM": data}, zipfile.ZIP_STORED if name == "stored.zip" else zipfile.ZIP_DEFLATED
    )
    if name != "nested.zip":  # the ZIP inside it is read as a whole
        content = bytearray((folder / name).read_bytes())
        content[2 << 20] ^= 1
        (folder / name).write_bytes(content)
    source = record(items=["**/*.dcm"])
    tracemalloc.start()
    outcome = found(source, folder.parent)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert list(outcome.values()) == [None]
    assert peak < (1 << 20) or name == "nested.zip"


def test_a_zip_inside_a_zip_with_slices_only_is_not_called_empty(record, folder, make):
    make.dicom(folder / "IM", make.picture(0), SeriesInstanceUID="1.2.3")
    write_archive(folder / "nested.zip", {"IM.dcm": (folder / "IM").read_bytes()})
    (folder / "IM").unlink()
    source = record(items=[{"pattern": "**/*.dcm", "kind": "dicom_series"}])
    assert found(source, folder.parent) == {"mine/nested.zip!0": None}


def test_a_zip_inside_a_zip_is_a_folder_too(record, folder):
    """One level of it: what lies in a third archive, or in a ZIP inside a TAR, has to be unpacked."""
    inner, innermost = BytesIO(), BytesIO()
    with zipfile.ZipFile(innermost, "w") as archive:
        archive.writestr("5.png", b"5")
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("images/1.png", "masks/1.png", "../evil.png"):
            archive.writestr(name, name.encode() * 9)
        archive.writestr("more.zip", innermost.getvalue())
    with zipfile.ZipFile(folder / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", b"0")
        archive.writestr("set/train.zip", inner.getvalue())
        archive.writestr("set/test.zip", inner.getvalue())
    source = record(
        exclude=[{"pattern": "**/test.zip", "reason": "test"}, {"pattern": "**/masks/*", "reason": "mask"}],
        train={"path": r"^all\.zip/set/train\.zip/images/"},
    )
    name = "mine/all.zip!set/train.zip"
    assert found(source, folder.parent) == {
        "mine/all.zip!0.png": "not in the training part",
        f"{name}!images/1.png": None,
        f"{name}!masks/1.png": "mask",
        f"{name}!../evil.png": "the name leaves the archive",
        f"{name}!more.zip": "an archive inside an archive: unpack the outer one here",
        "mine/all.zip!set/test.zip": "test",
    }
    items = [item for item in list_items(source, folder.parent) if item.excluded is None]
    assert [data for _, data in members(folder / "all.zip", items)] == [b"images/1.png" * 9]
    assert items[0].outer is not None


def test_links_and_devices_in_a_tar_are_excluded(record, folder):
    with tarfile.open(folder / "a.tar.gz", "w:gz") as archive:
        for name, kind in (("l.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE), ("d.png", tarfile.CHRTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
        archive.addfile(tarfile.TarInfo("ok.png"), BytesIO())
    outcome = found(record(), folder.parent)
    assert outcome.pop("mine/a.tar.gz!ok.png") is None
    assert set(outcome.values()) == {"a link or device inside an archive"} and len(outcome) == 3


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.zip", b"not a zip", "broken archive"),
        ("a.tar.gz", b"\x1f\x8b" + b"0" * 50, "broken archive"),
        ("a.tar", b"0" * 2000, "broken archive"),
        ("a.tar.xz", b"\xfd7zXZ\0rest", "broken archive"),
        ("a.zip.001", b"x", "one part of a split archive"),
        ("a.z01", b"x", "one part of a split archive"),
        ("a.rar", b"x", "unpack it here"),
    ],
)
def test_archives_that_cannot_be_read_cost_one_row(record, folder, name, data, reason):
    (folder / name).write_bytes(data)
    ((path, excluded),) = found(record(), folder.parent).items()
    assert path == f"mine/{name}" and reason in excluded


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [(8, 1, "encrypted inside the archive"), (10, 9, "packed with ZIP method 9, which is not supported")],
)
def test_members_that_cannot_be_unpacked_are_excluded(record, folder, at, value, reason):
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("1.png", b"x")
        archive.writestr("2.png", b"x")
    data = bytearray((folder / "a.zip").read_bytes())
    data[data.index(b"PK\1\2") + at] = value
    (folder / "a.zip").write_bytes(data)
    assert found(record(), folder.parent) == {"mine/a.zip!1.png": reason, "mine/a.zip!2.png": None}


def test_a_tar_that_claims_petabytes_is_left_without_reading_them(record, folder):
    entry = tarfile.TarInfo("huge.png")
    entry.size = 1 << 50
    (folder / "a.tar").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)
    assert "times its size" in found(record(), folder.parent)["mine/a.tar"]


def _tar_header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = kind, size
    return entry.tobuf(tarfile.GNU_FORMAT)


def _endless_headers(kind: str) -> bytes:
    """8 MiB of headers, in one of the ways that a TAR can have them, before `late.png`."""
    size = 8 << 20
    if kind == "sparse":
        header = bytearray(_tar_header("s.png", tarfile.GNUTYPE_SPARSE))
        header[482], header[148:156] = 1, b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return bytes(header) + (b"00000000001 00000000001 " * 21 + b"\1" + bytes(7)) * (size // 512)
    if kind in ("chained", "global"):
        record = b"%d k%03d=" + b"v" * 99_990 + b"\n"
        letter = tarfile.XHDTYPE if kind == "chained" else tarfile.XGLTYPE
        between = b"" if kind == "chained" else _tar_header("between.png")
        blocks = [_tar_header("x", letter, 100_000) + (record % (100_000, n)).ljust(100_352, b"\0") for n in range(80)]
        return between.join(blocks) + _tar_header("late.png")
    letter = {"pax": tarfile.XHDTYPE, "name": tarfile.GNUTYPE_LONGNAME, "link": tarfile.GNUTYPE_LONGLINK}[kind]
    return _tar_header("x", letter, size) + bytes(size) + _tar_header("late.png")


def test_a_sparse_member_of_a_tar_is_refused(record, folder):
    header = bytearray(_tar_header("s.png", tarfile.GNUTYPE_SPARSE, 512))
    header[386:410] = b"00000001000 00000001000 "  # 512 bytes that belong at 512
    header[483:495] = b"00000002000 "
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (folder / "a.tar").write_bytes(bytes(header) + b"x" * 512 + bytes(1024))
    assert "sparse" in found(record(), folder.parent)["mine/a.tar!s.png"]


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
@pytest.mark.parametrize("kind", ["pax", "name", "link", "chained", "global", "sparse"])
def test_a_tar_with_endless_headers_is_left_before_they_are_in_memory(record, folder, kind, suffix):
    data = _tar_header("ok.png") + _endless_headers(kind) + bytes(1024)
    path = folder / f"a.{suffix}"
    path.write_bytes(gzip.compress(data, 1) if suffix == "tar.gz" else data)
    del data
    tracemalloc.start()
    outcome = found(record(), folder.parent)
    listing = tracemalloc.get_traced_memory()[1]
    assert outcome.pop(f"mine/a.{suffix}!ok.png") is None
    outcome.pop(f"mine/a.{suffix}!between.png", None)
    reason = "too large: a member with more than 1 MiB of headers; unpack the archive here"
    assert outcome == {f"mine/a.{suffix}": reason}
    wanted = [Item(path.name, name, "image", size=0, offset=512) for name in ("ok.png", "late.png")]
    if suffix == "tar.gz":  # the build goes through it again
        assert [str(data) for _, data in members(path, wanted)] == ["b''", reason]
    reading = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(listing, reading) < 8 << 20


def test_long_names_and_attributes_of_a_tar_are_read(record, folder):
    name = "folder/" + "n" * 900 + ".png"
    for style in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(folder / "a.tar.gz", "w:gz", format=style) as archive:
            entry = tarfile.TarInfo(name)
            entry.pax_headers = {"SCHILY.xattr.note": "x" * 500_000}
            archive.addfile(entry, BytesIO())
        assert found(record(), folder.parent) == {f"mine/a.tar.gz!{name}": None}


@FAST
@given(
    st.dictionaries(st.text("abé/ ", min_size=1, max_size=8), st.binary(max_size=200), max_size=8),
    st.booleans(),
    st.binary(max_size=30),
)
def test_zip_listing_agrees_with_zipfile(tmp_path, members, wide, prefix):
    path = tmp_path / "x.zip"
    with pytest.MonkeyPatch.context() as patch, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if wide:  # every size and offset goes to the 64-bit fields
            patch.setattr(zipfile, "ZIP64_LIMIT", 0)
            patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 0)
        for name, data in members.items():
            with archive.open(name, "w", force_zip64=wide) as written:
                written.write(data)
        archive.comment = b"PK a comment"
        archive.close()
    path.write_bytes(prefix + path.read_bytes())
    listed = list(archives.list_members(path))
    with zipfile.ZipFile(path) as archive:
        expected = [entry for entry in archive.infolist() if not entry.is_dir()]
    assert [(member.name, member.size, member.offset) for member in listed] == [
        (entry.filename, entry.file_size, entry.header_offset) for entry in expected
    ]
    data = path.read_bytes()
    assert all(data[member.offset : member.offset + 4] == b"PK\3\4" for member in listed)


def test_a_long_directory_is_walked_in_blocks(tmp_path, monkeypatch):
    """Even if the archive is read elsewhere between two members."""
    monkeypatch.setattr(zip_directory, "_BLOCK", 200_000)
    names = [f"{number:0100d}.png" for number in range(3000)]
    write_archive(tmp_path / "x.zip", {name: name.encode() for name in names}, zipfile.ZIP_STORED)
    with archives.Archive(tmp_path / "x.zip") as archive:
        digest = archive.digest()
        for name, member in zip(names, archive.members(), strict=True):
            assert member.name == name and content_of(archive, member) == name.encode()
    monkeypatch.undo()
    with archives.Archive(tmp_path / "x.zip") as archive:
        assert archive.digest() == digest


def test_broken_archives_never_raise_anything_unexpected(record, folder):
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"{number}.png", bytes(200))
    tar = BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz") as archive:
        for number in range(5):
            entry = tarfile.TarInfo(f"{number}.png")
            entry.size = 200
            archive.addfile(entry, BytesIO(bytes(200)))
    chance, source = random.Random(0), record()
    for name, whole in (("a.zip", buffer.getvalue()), ("a.tar.gz", tar.getvalue())):
        for _ in range(150):
            data = bytearray(whole[: chance.randrange(1, len(whole) + 1)])
            for _ in range(chance.randrange(4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            (folder / name).write_bytes(data)
            for path in found(source, folder.parent):
                path.encode("utf-8")
        (folder / name).unlink()


@FAST
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=6),
        st.lists(st.lists(st.text(max_size=6), max_size=3), max_size=3),
        max_size=6,
    ),
    st.integers(1, 40),
    st.sampled_from([None, 1]),
)
def test_case_lists_are_streamed_as_json_reads_them(tmp_path, cases, chunk, indent):
    content = {
        case: {"Samples": [{"image_path": paths, "anatomy": "x"} for paths in samples]}
        for case, samples in cases.items()
    }
    file = tmp_path / "cases.json"
    file.write_text(json.dumps(content, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(case_lists, "CHUNK", chunk)
        rows = [(row["case"], row["image_path"]) for row in case_lists.case_rows(file)]
    assert rows == [(case, path) for case, samples in cases.items() for paths in samples for path in paths]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": {"Samples": [', '{"a" 1}', '{"a": 1'])
def test_case_lists_that_are_broken_are_refused(tmp_path, text):
    file = tmp_path / "cases.json"
    file.write_text(text)
    with pytest.raises(ValueError):
        list(case_lists.case_rows(file))


def test_hdf5_files_that_point_elsewhere_or_claim_too_much_are_refused(record, folder, tmp_path):
    import h5py

    (tmp_path / "secret").write_bytes(bytes(range(100)))
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = [1, 2, 3]
    with h5py.File(folder / "a.h5", "w") as file:
        file["good"] = [1, 2, 3]
        file["link"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "x")
        file["soft"] = h5py.SoftLink("/good")
        file.create_group("group")
        file.create_dataset("raw", (100,), "u1", external=[(str(tmp_path / "secret"), 0, 100)])
        file.create_dataset("endless", (1 << 50, 96, 96), "u1", chunks=(1, 96, 96))
    source = record(items=[{"pattern": "*.h5", "kind": "hdf5", "adapter": "hdf5_encoded"}])
    outcome = found(source, folder.parent)
    assert [name for name, reason in outcome.items() if reason is None] == ["mine/a.h5!good"]
    assert "MiB of values in 0 bytes" in outcome["mine/a.h5!endless"]
    assert outcome["mine/a.h5!link"] == outcome["mine/a.h5!soft"] == "a link inside an HDF5 file"
    assert "its values lie outside the file" in outcome["mine/a.h5!raw"]
    source = record(items=[{"pattern": "*.h5", "kind": "hdf5", "adapter": "hdf5_rows", "key": "endless"}])
    assert found(source, folder.parent) == {"mine/a.h5": "cannot be opened as hdf5 (ValueError)"}
    (folder / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\nbroken")
    assert found(source, folder.parent) == {"mine/a.h5": "cannot be opened as hdf5 (OSError)"}


def test_folders_of_slices_with_files_that_are_no_dicom(record, folder):
    (folder / "1.dcm").write_bytes(b"not a DICOM file")
    (folder / "2.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 64)
    source = record(items=[{"pattern": "**/*.dcm", "kind": "dicom_series"}])
    assert found(source, folder.parent) == dict.fromkeys(("mine/1.dcm", "mine/2.dcm"), "not a readable DICOM file")


def test_counts_of_a_walk_add_up(record, folder):
    for number in range(30):
        (folder / f"{number:02}.png").write_bytes(b"x" * number)
    source = record(train={"path": "[02468]\\.png$"})
    items = list(list_items(source, folder.parent))
    assert Counter(item.excluded for item in items) == {None: 15, "not in the training part": 15}
    assert [item.size for item in items] == list(range(30))
