"""Work over a network, done again after a pause where the line or the server falters."""

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")
ATTEMPTS = 5
LONGEST_PAUSE = 8.0


def retried(
    work: Callable[[], Answer], is_passing: Callable[[Exception], bool], pause: float = 1.0, attempts: int = ATTEMPTS
) -> Answer:
    """What `work` returns; where it fails with an error that may pass, it is done again.

    Args:
        work: does the same when it is done again.
        is_passing: whether an error may be gone the next time.
        pause: seconds before the second attempt; doubled each time, up to 8.
        attempts: how often in all.

    Raises:
        Exception: what `work` raised last.
    """
    for attempt in range(attempts - 1):
        try:
            return work()
        except Exception as error:
            if not is_passing(error):
                raise
            time.sleep(min(LONGEST_PAUSE, pause * 2**attempt))
    return work()


def is_passing_status(status: int) -> bool:
    """Whether an HTTP status tells of a fault that may be gone soon: a timeout, too many calls, the server's own."""
    return status in (408, 412, 429) or status >= 500
