"""The output at the end of this room's commands: remarks for the user, then the outcome in a line."""

from collections.abc import Iterable


def end_command(notes: Iterable[str], outcome: str) -> int:
    """Print each note and the outcome. Returns the exit status."""
    for note in notes:
        print(f"note: {note}")
    print(outcome)
    return 0
