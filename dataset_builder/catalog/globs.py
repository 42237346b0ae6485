"""The two pattern languages of a record: globs that select files, and regular expressions that capture from paths."""

import re
from functools import cache
from typing import Any

import regex

from biovfm_hf.errors import UserError

MAX_LENGTH = 2000
SECONDS = 1.0  # time limit of a pattern on one path
_PLAIN_STARS = 4  # in a glob: with up to this many, no path takes long
_PLAIN_REPEATS, _PLAIN_LENGTH = 2, 400  # limits within which a regular expression is quick on any path
_CHARACTERS = ("LITERAL", "NOT_LITERAL", "IN", "ANY")


class Pattern:
    """A pattern of a record that gives up after SECONDS on any path."""

    def __init__(self, pattern: str, expression: str, flags: int = 0) -> None:
        self._pattern, self._compiled = pattern, regex.compile(expression, flags)
        self._plain = re.compile(expression, flags) if _is_quick(expression) else None
        self.groups: int = self._compiled.groups

    def search(self, text: str) -> Any:
        """The first match in `text`, or None.

        Raises:
            UserError: the pattern takes too long.
        """
        if self._plain is not None and len(text) <= _PLAIN_LENGTH:
            return self._plain.search(text)
        return self._within_time(self._compiled.search, text)

    def joined_groups(self, text: str, joint: str = "/") -> str | None:
        """The groups of the first match, joined; None if there is no match or they are empty."""
        plain = self._plain  # repeats `search`: a call less for each of millions of paths
        match = self.search(text) if plain is None or len(text) > _PLAIN_LENGTH else plain.search(text)
        if match is None:
            return None
        if self.groups == 1:
            return match[1] or None
        return joint.join(group for group in match.groups() if group) or None

    def joined_groups_of_all(self, texts: list[str], joint: str = "/") -> list[str | None]:
        """`joined_groups` of each text, in half the time if there is one group."""
        plain = self._plain
        if plain is None or self.groups != 1 or max(map(len, texts), default=0) > _PLAIN_LENGTH:
            return [self.joined_groups(text, joint) for text in texts]
        return [match and (match[1] or None) for match in map(plain.search, texts)]

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


def _is_quick(expression: str) -> bool:
    """Whether a regular expression needs no time limit on short paths: few, single-character repeats, no references.

    Python's own matcher then takes a tenth of the time.
    """
    try:
        return _effort(re._parser.parse(expression)) <= _PLAIN_REPEATS  # type: ignore[attr-defined]
    except re.error:  # extensions of the package `regex`
        return False


def _effort(parsed: Any) -> float:
    """Count single-character repeats in a parsed expression, optional parts as half; infinite if it has more."""
    effort = 0.0
    for kind, argument in parsed:
        name = str(kind)
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            _, most, inside = argument
            optional = most <= 1
            effort += 0.5 + _effort(inside) if optional else 1 if _is_one_character(inside) else float("inf")
        elif name == "SUBPATTERN":
            effort += _effort(argument[-1])
        elif name == "BRANCH":
            effort += sum(map(_effort, argument[1]))
        elif name not in (*_CHARACTERS, "AT"):
            effort = float("inf")
    return effort


def _is_one_character(parsed: Any) -> bool:
    return len(parsed) == 1 and str(parsed[0][0]) in _CHARACTERS


@cache
def compile_glob(pattern: str) -> re.Pattern[str] | Pattern:
    """A glob as a regular expression for `fullmatch` on a relative path with "/", ignoring case.

    `**/` matches any number of folders (even none), `*` and `?` stay inside one name, `[...]` is a set of characters
    and `{a,b}` are alternatives (not nested).

    Raises:
        ValueError: the glob is absolute, too long, contains `..`, or has an unclosed bracket.
    """
    if pattern.startswith("/") or ".." in pattern.split("/") or not 0 < len(pattern) <= MAX_LENGTH:
        raise ValueError("a glob is relative, has no '..' and at most 2000 characters")
    if len(re.findall(r"\*+", pattern)) > _PLAIN_STARS:
        return Pattern(pattern, _translate(pattern), regex.IGNORECASE)
    return re.compile(_translate(pattern), re.IGNORECASE)  # a tenth of the time


@cache
def ending_of_glob(pattern: str) -> str | None:
    """What a glob asks of a name in the right folder, if that is one ending: `.png` of `**/*.png`; else None."""
    name = pattern.rpartition("/")[2]
    return name[1:] if name[:1] == "*" and not set(name[1:]) & set("*?[]{}") else None


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
        re.compile(pattern)  # only Python's own syntax is allowed
        return Pattern(pattern, pattern)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from None
