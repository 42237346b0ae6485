"""Retries work over a network after passing failures, with growing pauses."""

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")
ATTEMPTS = 5
LONGEST_PAUSE = 8.0


def retried(
    work: Callable[[], Answer], is_passing: Callable[[Exception], bool], pause: float = 1.0, attempts: int = ATTEMPTS
) -> Answer:
    """The result of `work`, which is retried if it fails with a passing error.

    Args:
        work: can be repeated safely.
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
    """Whether an HTTP status means a passing fault: a timeout, too many calls, a fault of the server."""
    return status in (408, 412, 429) or status >= 500
