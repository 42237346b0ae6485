"""Progress of long commands: a bar on a terminal, whole lines in a log file."""

import sys
from typing import Any

from tqdm import tqdm

SECONDS = 20.0
"""Between two lines of a log file, and before the first: a short command writes none."""


class _Lines(tqdm):
    disable: bool
    shown = -1  # the count of the last line

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Print the state as a line, unless it is the last one's: tqdm redraws bars that stand still."""
        if msg is None and self.n != self.shown:
            self.shown = self.n
            print(self, file=self.fp, flush=True)
        return True

    def clear(self, nolock: bool = False) -> None:
        """Nothing: no bar is in the way of other lines."""

    def close(self) -> None:
        """Print the last state if there were others before it."""
        if not self.disable:
            if self.last_print_t > self.start_t:
                self.display()
            self.disable = True
            self._decr_instances(self)


def progress_bar(**settings: Any) -> "tqdm[Any]":
    """A tqdm bar as wide as the screen, with tqdm's `settings`; without a terminal a line now and then."""
    if sys.stderr.isatty():
        return tqdm(dynamic_ncols=True, mininterval=0.5, **settings)
    form = "{desc}: {n_fmt} of {total_fmt} {unit}, {elapsed}, left {remaining}{postfix}"
    return _Lines(bar_format=form, mininterval=SECONDS, delay=SECONDS, **settings)
