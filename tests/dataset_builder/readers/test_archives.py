"""Listing of archives: none of their claims about themselves are trusted."""

import io
import struct
import zipfile

import pytest

from dataset_builder.readers.archives import BrokenArchive, list_members


def shared(count: int, size: int) -> bytes:
    """A ZIP whose directory has `count` entries for the one member of `size` bytes that it holds."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0000.png", bytes(size))
    whole = data.getvalue()
    start, end = whole.rfind(b"PK\1\2"), whole.rfind(b"PK\5\6")
    entries = b"".join(whole[start:end].replace(b"0000.png", b"%04d.png" % number) for number in range(count))
    return whole[:start] + entries + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(entries), start, 0)


def test_members_that_share_their_bytes_are_refused_when_listed(tmp_path):
    (tmp_path / "a.zip").write_bytes(shared(1, 1 << 16))
    assert [member.name for member in list_members(tmp_path / "a.zip")] == ["0000.png"]
    (tmp_path / "a.zip").write_bytes(shared(60, 1 << 16))
    listed = []
    with pytest.raises(BrokenArchive, match="its members overlap"):
        listed += list_members(tmp_path / "a.zip")
    assert len(listed) == 1  # the one that is there
