"""Processes that work on one results folder together, as `accelerate launch` starts them."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Crew:
    """This process' number and how many there are."""

    rank: int = 0
    size: int = 1

    def takes(self, number: int) -> bool:
        """Whether piece `number` of a shared work is this process'."""
        return number % self.size == self.rank

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def crew() -> Crew:
    """The processes that `accelerate launch` (or torchrun) started; a crew of one without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    return Crew(int(os.environ.get("RANK", "0")), size) if size > 1 else Crew()
