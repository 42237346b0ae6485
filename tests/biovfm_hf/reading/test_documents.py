"""Bounded reading of text, JSON and YAML, and the words around them."""

import doctest
import time

import pytest
from transformers import image_utils

from biovfm_hf import errors, imagenet, nearest
from biovfm_hf.errors import UserError
from biovfm_hf.reading.documents import MAX_DEPTH, as_number, parse_yaml, read_json, read_text, read_yaml

BILLION_LAUGHS = "a: &a [x, x]\n" + "\n".join(f"{b}: &{b} [*{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi"))  # noqa: B905


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BILLION_LAUGHS, "has YAML aliases"),
        ("[" * 100_000, "nesting"),
        ("a: " + "{b: " * (MAX_DEPTH + 1), "nested deeper than 64"),
        ("a: [1, 2", "not valid YAML"),
        ("a: 2026-02-31", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("- 1", "not a YAML mapping"),
        ("", "not a YAML mapping"),
        ("a: " + "x" * (1 << 20), "larger than 1 MiB"),
    ],
)
def test_refused_yaml_is_reported_in_one_line_at_once(tmp_path, text, reason):
    path, start = tmp_path / "record.yaml", time.process_time()
    path.write_text(text)
    with pytest.raises(UserError, match=reason) as told:
        read_yaml(path)
    assert str(told.value).startswith(f"{path}: ") and "\n" not in str(told.value)
    assert time.process_time() - start < 5


def test_yaml_is_read(tmp_path):
    (tmp_path / "a.yaml").write_text("a: {b: [1, 2.5, yes, null]}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"b": [1, 2.5, True, None]}}
    assert parse_yaml("1e-3", "lr") == "1e-3" and parse_yaml("0.001", "lr") == 0.001


@pytest.mark.parametrize(
    ("raw", "reason"),
    [(b"{", "not valid JSON"), (b"[" * 200_000, "nested too deep"), (b"\xff", "not valid JSON")],
)
def test_refused_json_is_reported_in_one_line(tmp_path, raw, reason):
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(UserError, match=f"{reason}.*; run it again") as told:
        read_json(tmp_path / "a.json", remedy="run it again")
    assert "\n" not in str(told.value)


def test_text_that_yaml_does_not_take_for_a_number():
    given = ["1e-5", "3", "vit-large", True, 7, None, "1e-5 m"]
    assert [as_number(one) for one in given] == [1e-5, 3.0, "vit-large", True, 7, None, "1e-5 m"]


def test_text_is_bounded_and_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    assert read_text(tmp_path / "a.txt") == "caf\N{REPLACEMENT CHARACTER}"
    with pytest.raises(UserError, match=r"a\.txt: larger than"):
        read_text(tmp_path / "a.txt", max_bytes=3)
    with pytest.raises(UserError, match=r"none\.txt: cannot be read"):
        read_text(tmp_path / "none.txt")


def test_an_error_in_one_line_has_one_length():
    assert errors.one_line(ValueError("x " * 1000)) == ("x " * 150)[:300]


@pytest.mark.parametrize("module", [errors, nearest])
def test_examples(module):
    assert doctest.testmod(module).failed == 0


def test_imagenet_statistics_equal_those_of_transformers():
    assert list(imagenet.IMAGENET_MEAN) == image_utils.IMAGENET_DEFAULT_MEAN
    assert list(imagenet.IMAGENET_STD) == image_utils.IMAGENET_DEFAULT_STD
