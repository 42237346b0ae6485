"""How a command of this room ends: remarks for the user, then what was done, in a line."""

from collections.abc import Iterable


def end_command(notes: Iterable[str], outcome: str) -> int:
    """Print each note and the outcome. Returns the exit status."""
    for note in notes:
        print(f"note: {note}")
    print(outcome)
    return 0
