"""Foreign text in Markdown stays text: no HTML, no headings, no links but to web pages."""

import pytest

from biovfm_hf.cards.markdown import link, plain


@pytest.mark.parametrize(
    "text", ["a\n# b", "a\r\n---\nb", "a\n\n| x |", "<script>x</script>", "[a](javascript:b)", "`c`"]
)
def test_text_makes_no_markup(text):
    made = plain(text)
    assert "\n" not in made and "<" not in made
    assert all(made[place - 1] == "\\" for place, sign in enumerate(made) if sign in "#|[]`*_~")


def test_long_text_is_cut():
    assert plain("x" * 300) == "x" * 199 + "…" and len(plain("x" * 300, 1000)) == 300


@pytest.mark.parametrize(
    "address",
    [None, "", "javascript:alert(1)", "JaVaScRiPt:x", "data:text/html,x", "//host/x", "http://", "https://[x"],
)
def test_what_is_no_web_page_is_no_link(address):
    assert link("name", address) == "name"


def test_a_web_page_is_a_link_that_nothing_leaves():
    assert link("A (b)", "https://example.org/a_(1)?q=x&y=1#z") == "[A (b)](https://example.org/a_%281%29?q=x&y=1#z)"
    assert link("a]b", "https://e.org/) <script>\n[x](y)") == "[a\\]b](https://e.org/%29%3Cscript%3E%5Bx%5D%28y%29)"
