"""Patterns of records: no pattern runs away on a path, and aliases of YAML are refused."""

import time

import pytest

from biovfm_hf.errors import UserError
from dataset_builder.catalog import globs
from dataset_builder.catalog.globs import compile_glob, compile_regex, ending_of_glob
from dataset_builder.catalog.records import load_source

NAMES = "a" * 120 + "-" + "a/" * 60


@pytest.mark.parametrize(
    "pattern", ["^(([a-z/-])+)+[^a-z/-]", "^(a|a|[a-z/-])*[^a-z/-]", "(x+x+)+y|(.*a){30}[^a-z/-]$"]
)
def test_a_regular_expression_that_runs_away_is_an_error(monkeypatch, pattern):
    monkeypatch.setattr(globs, "SECONDS", 0.1)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"takes more than 0.1 s on a path; write it without repeats inside repeats"):
        assert compile_regex(pattern).search(NAMES + "a" * 200 + "-") is None
        compile_regex("^(([a-z/-])+)+[^a-z/-]").search(NAMES)  # where the first was clever enough
    assert time.monotonic() - started < 5


def test_a_glob_of_many_stars_ends(monkeypatch):
    monkeypatch.setattr(globs, "SECONDS", 0.1)
    started = time.monotonic()
    try:
        assert compile_glob("*a" * 30 + "b?c").fullmatch("a" * 250 + "bc") is None
    except UserError as error:
        assert "takes more than" in str(error)
    assert time.monotonic() - started < 5


def test_patterns_mean_what_they_mean_in_python():
    assert compile_regex(r"(p\d+)/(?!x)").search("q/p12/y").groups() == ("p12",)
    assert compile_glob("**/{a,b}_*_*_*_*_*.png").fullmatch("x/A_1_2_3_4_5.PNG")
    with pytest.raises(ValueError, match=r"unterminated|missing"):
        compile_regex("(p")


def test_aliases_that_multiply_are_refused_before_they_expand(tmp_path):
    lines = ["id: &x0 [lol, lol]"] + [f"k{n}: &x{n} [*x{n - 1}, *x{n - 1}]" for n in range(1, 40)]
    (tmp_path / "r.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match="has YAML aliases") as told:
        load_source(tmp_path / "r.yaml")
    assert len(str(told.value)) < 500


@pytest.mark.parametrize(
    ("glob", "ending"),
    [("**/*.png", ".png"), ("*.png", ".png"), ("{a,b/c}/*.png", ".png"), ("a/im*.png", None), ("**.png", None),
     ("a/**", None), ("*/[ab].png", None), ("{a/*.png,b}", None), ("[a/]*.png", None), ("*", "")],
)  # fmt: skip
def test_one_file_of_a_folder_stands_for_those_with_the_ending_of_the_glob(glob, ending):
    assert ending_of_glob(glob) == ending
    compiled = compile_glob(glob)
    for folder in ("", "a/", "b/c/", "x/y/"):
        if ending is not None:
            assert len({bool(compiled.fullmatch(f"{folder}{name}{ending}")) for name in ("1", "im.2", "a")}) == 1
