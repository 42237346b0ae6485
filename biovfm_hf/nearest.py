"""The known word nearest to one that is not known."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about `word`: `; did you mean NAME?`, or nothing where no known word is near.

    Capitals do not count.

    >>> did_you_mean("biuld", ["build", "probe"])
    '; did you mean build?'
    >>> did_you_mean("demo", ["build", "probe"])
    ''
    """
    names = {name.casefold(): name for name in known}
    near = get_close_matches(word.casefold(), names, n=1, cutoff=0.5)
    return f"; did you mean {names[near[0]]}?" if near else ""
