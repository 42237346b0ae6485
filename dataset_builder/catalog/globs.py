"""The two pattern languages of a record: globs that name files, regular expressions that take words out of paths."""

import re
from functools import cache

MAX_LENGTH = 2000


@cache
def compile_glob(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression for `fullmatch` on a relative path with "/"; upper and lower case are the same.

    `**/` stands for any number of folders (none too), `*` and `?` stay inside one name, `[...]` is a set of characters
    and `{a,b}` are alternatives (not nested).

    Raises:
        ValueError: the glob is absolute, too long, holds `..`, or has an unclosed bracket.
    """
    if pattern.startswith("/") or ".." in pattern.split("/") or not 0 < len(pattern) <= MAX_LENGTH:
        raise ValueError("a glob is relative, has no '..' and at most 2000 characters")
    return re.compile(_translate(pattern), re.IGNORECASE)


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
def compile_regex(pattern: str) -> re.Pattern[str]:
    """A regular expression of a record.

    Raises:
        ValueError: it does not compile, or is too long.
    """
    if len(pattern) > MAX_LENGTH:
        raise ValueError("at most 2000 characters")
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(str(error)) from None
