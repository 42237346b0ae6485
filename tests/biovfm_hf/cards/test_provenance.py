"""Marks of private sources: they add up from stage to stage, and a damaged mark is no permission."""

import pytest

from biovfm_hf.cards.provenance import PROVENANCE, Provenance, add_provenance, read_provenance, write_provenance
from biovfm_hf.errors import UserError


def test_marks_add_up_and_come_back(tmp_path):
    write_provenance(tmp_path, Provenance(("clinic-b", "clinic-a")))
    add_provenance(tmp_path, Provenance(("clinic-c",), ("wards",)))
    found = read_provenance(tmp_path)
    assert found == Provenance(("clinic-a", "clinic-b", "clinic-c"), ("wards",)) and found
    assert str(found) == "sources: clinic-a, clinic-b, clinic-c; tasks: wards"


def test_a_licence_binds_without_making_anything_private(tmp_path):
    write_provenance(tmp_path, Provenance(licences=("dinov3-license",)))
    add_provenance(tmp_path, Provenance(("clinic",)))
    marks = read_provenance(tmp_path)
    assert marks == Provenance(("clinic",), licences=("dinov3-license",)) and marks.is_private
    assert not Provenance(licences=("dinov3-license",)).is_private and Provenance(licences=("dinov3-license",))


def test_nothing_private_leaves_no_file(tmp_path):
    write_provenance(tmp_path, Provenance(("clinic",)))
    write_provenance(tmp_path, Provenance())
    add_provenance(tmp_path, Provenance())
    assert not list(tmp_path.iterdir()) and not read_provenance(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"private_sources": "clinic"}', '{"private_tasks": 1}'])
def test_a_damaged_mark_is_reported(tmp_path, text):
    (tmp_path / PROVENANCE).write_text(text)
    with pytest.raises(UserError, match=r"provenance\.json"):
        read_provenance(tmp_path)
