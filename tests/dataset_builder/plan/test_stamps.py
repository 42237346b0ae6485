"""Inputs that change between plan and build are reported and listed again, never used as if unchanged."""

import io
import os
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from biovfm_hf.reading.image_files import read_uint8
from dataset_builder.build import build
from dataset_builder.dataset.check import faults
from dataset_builder.plan.stamps import stamp
from dataset_builder.screening.hashing import sha256_of_pixels


def bmp(pixels) -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="BMP")
    return data.getvalue()


def write_archive(path: Path, members: dict[str, bytes]) -> None:
    """Members as they are, so that archives of the same members in another order have the same size.

    A `.tgz` is not packed.
    """
    if path.name.startswith("nested"):
        write_archive(path.with_name("b.zip"), members)
        inner = path.with_name("b.zip").read_bytes()
        path.with_name("b.zip").unlink()
        members = {"in/b.zip": inner}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, data in members.items():
                archive.writestr(zipfile.ZipInfo(name), data)
        return
    with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix not in (".tar", ".tgz") else "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


@pytest.mark.parametrize("same_time", [True, False])
@pytest.mark.parametrize("name", ["a.zip", "nested.zip", "a.tar", "a.tar.gz"])
def test_an_archive_with_the_same_members_in_another_order_is_listed_anew(tmp_path, make, capsys, name, same_time):
    members = {f"p{number}.bmp": bmp(make.picture(number)) for number in range(4)}
    path = tmp_path / "raw" / "own" / name
    path.parent.mkdir(parents=True)
    write_archive(path, members)
    record = make.record(tmp_path, "own", items=["**/*.bmp"], subject={"path": r"(p\d)\.bmp"})
    words = {"workers": 0, "size": 64}
    build(tmp_path / "raw", tmp_path / "out", [record], plan_only=True, **words)
    before = path.stat()
    write_archive(path, dict(reversed(members.items())))
    if same_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    build(tmp_path / "raw", tmp_path / "out", [record], **words)
    rows = [row for file in (tmp_path / "out/data").rglob("*.parquet") for row in pq.read_table(file).to_pylist()]
    inner = "in/b.zip!" if name == "nested.zip" else ""
    assert {row["path"] for row in rows} == {f"own/{name}!{inner}{member}" for member in members}
    for row in rows:
        assert row["sha256"] == sha256_of_pixels(read_uint8(members[row["path"].rpartition("!")[2]]))
    assert "inputs have changed since they were listed: listing the sources again" in capsys.readouterr().out
    assert faults(tmp_path / "out")[1] == []


@pytest.mark.parametrize("name", ["a.zip", "nested.zip", "a.tar", "a.tgz", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_an_archive_whose_members_exchanged_their_content_is_another(tmp_path, make, name):
    """Names, sizes and the time are the same: a ZIP's directory and the end of a packed TAR have checksums."""
    members = {f"p{number}.bmp": bmp(make.picture(number)) for number in range(4)}
    path = tmp_path / name
    write_archive(path, members)
    before, digest = path.stat(), stamp(str(path), path.stat())
    write_archive(path, dict(zip(members, [*list(members.values())[1:], members["p0.bmp"]], strict=True)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    while (after := path.stat()).st_ctime_ns == before.st_ctime_ns:  # the clock of files ticks every few ms
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    same_size = {"st_size": before.st_size, "st_mtime_ns": before.st_mtime_ns}
    assert stamp(str(path), SimpleNamespace(**same_size, st_ctime_ns=after.st_ctime_ns, st_ino=after.st_ino)) != digest
    assert digest.startswith(f"{before.st_size}/{before.st_mtime_ns}/")


def test_a_loose_file_that_changed_is_reported_and_listed_anew(tmp_path, make, capsys):
    for number in range(3):
        make.png(tmp_path / "raw" / "own" / f"{number}.png", make.picture(number))
    record = make.record(tmp_path, "own")
    build(tmp_path / "raw", tmp_path / "out", [record], plan_only=True, workers=0, size=32)
    make.png(tmp_path / "raw" / "own" / "1.png", make.picture(7, 90, 90))
    (tmp_path / "raw" / "own" / "2.png").unlink()
    summary = build(tmp_path / "raw", tmp_path / "out", [record], workers=0, size=32)
    assert "2 inputs have changed" in capsys.readouterr().out and summary["outcomes"] == {"kept": 2}
    build(tmp_path / "raw", tmp_path / "fresh", [record], workers=0, size=32)
    for name in ("manifest.parquet", "data/ultrasound/own-00000.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()
