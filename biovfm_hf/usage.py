"""What this process has used and may use; without the module `resource` (Windows) nothing is known or limited."""

import sys

try:
    import resource
except ModuleNotFoundError:  # Windows
    _CAN_COUNT = False
else:
    _CAN_COUNT = True


def peak_memory() -> int | None:
    """Most resident memory of this process since its start, in bytes; None where the system does not report it."""
    if not _CAN_COUNT:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)


def thread_waits() -> int:
    """How often this thread has given up the processor to wait; 0 where the system does not count it: Linux does."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw if _CAN_COUNT and sys.platform == "linux" else 0


def limit_addresses(size: int) -> None:
    """Bound the address space of this process to `size` bytes, and let it write no core file if it crashes."""
    if _CAN_COUNT:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
