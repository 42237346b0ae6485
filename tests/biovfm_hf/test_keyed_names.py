"""Names that replace paths: the same for the same key, readable in their suffix only."""

from biovfm_hf.keyed_names import keyed_hash, longest_suffix


def test_a_hash_depends_on_name_and_key_and_is_that_of_earlier_builds():
    assert keyed_hash("mine/doe/1.dcm", b"0f" * 16, 8) == "bdb486ec3c467b92"
    names = [keyed_hash(name, key, 4) for name in ("a", "b") for key in (b"1", b"2")]
    assert len(set(names)) == 4 and all(len(name) == 8 for name in names)


def test_a_name_that_is_not_utf8_has_a_hash():
    assert len(keyed_hash("scan-\udce9.png", b"key", 8)) == 16


def test_the_longest_suffix_counts():
    assert longest_suffix("a/B.NII.GZ", (".gz", ".nii", ".nii.gz")) == ".nii.gz"
    assert longest_suffix("a/b.txt", (".gz", ".nii")) == ""
