"""The two pattern languages of a record: globs that name files, regular expressions that take words out of paths."""

import re
from functools import cache
from typing import Any

import regex

from biovfm_hf.errors import UserError

MAX_LENGTH = 2000
SECONDS = 1.0  # that a pattern may take on one path
_PLAIN_STARS = 4  # in a glob: up to so many, no path takes long


class Pattern:
    """A pattern of a record that ends after SECONDS, whatever it is and whatever path it meets."""

    def __init__(self, pattern: str, expression: str, flags: int = 0) -> None:
        self._pattern, self._compiled = pattern, regex.compile(expression, flags)
        self.groups: int = self._compiled.groups

    def search(self, text: str) -> Any:
        """The first match in `text`, None where there is none.

        Raises:
            UserError: the pattern takes too long.
        """
        return self._within_time(self._compiled.search, text)

    def fullmatch(self, text: str) -> Any:
        """The match of all of `text`; otherwise as `search`."""
        return self._within_time(self._compiled.fullmatch, text)

    def _within_time(self, match: Any, text: str) -> Any:
        try:
            return match(text, timeout=SECONDS)
        except TimeoutError:
            raise UserError(
                f"the pattern {self._pattern[:200]!r} of a record takes more than {SECONDS:g} s on a path; write it "
                "without repeats inside repeats"
            ) from None


@cache
def compile_glob(pattern: str) -> re.Pattern[str] | Pattern:
    """A glob as a regular expression for `fullmatch` on a relative path with "/"; upper and lower case are the same.

    `**/` stands for any number of folders (none too), `*` and `?` stay inside one name, `[...]` is a set of characters
    and `{a,b}` are alternatives (not nested).

    Raises:
        ValueError: the glob is absolute, too long, holds `..`, or has an unclosed bracket.
    """
    if pattern.startswith("/") or ".." in pattern.split("/") or not 0 < len(pattern) <= MAX_LENGTH:
        raise ValueError("a glob is relative, has no '..' and at most 2000 characters")
    if len(re.findall(r"\*+", pattern)) > _PLAIN_STARS:
        return Pattern(pattern, _translate(pattern), regex.IGNORECASE)
    return re.compile(_translate(pattern), re.IGNORECASE)  # a tenth of the time


def _translate(pattern: str) -> str:
    expression, at = "", 0
    while at < len(pattern):
        letter = pattern[at]
        if pattern.startswith("**/", at):
            expression, at = expression + "(?:[^/]+/)*", at + 3
        elif pattern.startswith("**", at):
            expression, at = expression + ".*", at + 2
        elif letter in "[{":
            end = pattern.find("]" if letter == "[" else "}", at + 2 if letter == "[" else at)
            if end < 0:
                raise ValueError(f"{letter} is not closed")
            inside = pattern[at + 1 : end]
            if letter == "[":
                expression += "[" + ("^/" + inside[1:] if inside[0] in "!^" else inside).replace("\\", "\\\\") + "]"
            else:
                expression += "(?:" + "|".join(_translate(choice) for choice in inside.split(",")) + ")"
            at = end + 1
        else:
            expression += {"*": "[^/]*", "?": "[^/]"}.get(letter) or re.escape(letter)
            at += 1
    return expression


@cache
def compile_regex(pattern: str) -> Pattern:
    """A regular expression of a record.

    Raises:
        ValueError: it does not compile, or is too long.
    """
    if len(pattern) > MAX_LENGTH:
        raise ValueError("at most 2000 characters")
    try:
        re.compile(pattern)  # the language is Python's own
        return Pattern(pattern, pattern)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from None
