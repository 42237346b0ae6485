"""Suggestions for misspelt words: the nearest known one."""

from collections.abc import Iterable
from difflib import get_close_matches

_FEW = 20


def did_you_mean(word: str, known: Iterable[str], before: str = "") -> str:
    """The end of a message about `word`: the nearest known word (capitals do not count), or all of a few.

    `before` stands before all of them, as the section before its keys.

    >>> did_you_mean("biuld", ["build", "probe"])
    '; did you mean build?'
    >>> did_you_mean("x", ["probe", "build"])
    '; there are: build, probe'
    >>> did_you_mean("x", map(str, range(100)))
    ''
    >>> did_you_mean("stpes", ["steps", "seed"], "run.")
    '; did you mean run.steps?'
    """
    names = list(known)
    few = f"; there are: {', '.join(before + name for name in sorted(names))}" if 0 < len(names) <= _FEW else ""
    return nearest(word, names, before) or few


def nearest(word: str, known: Iterable[str], before: str = "") -> str:
    """The same for a message that lists all known words itself: the nearest one, or nothing."""
    names = {name.casefold(): name for name in known}
    near = get_close_matches(word.casefold(), names, n=1, cutoff=0.5)
    return f"; did you mean {before}{names[near[0]]}?" if near else ""
