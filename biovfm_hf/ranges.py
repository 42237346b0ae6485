"""Ranges of the numbers of settings, each stated once at its field."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

LARGEST = 2**31 - 1  # products of two such numbers fit into 64 bits, and each is a 32-bit float


@dataclass(frozen=True)
class Range:
    """The range of a number, or of each of several, including both ends; None is always allowed.

    Attributes:
        low: the least.
        high: the most.
        ordered: whether the smaller of two numbers must come first.
    """

    low: float = -LARGEST
    high: float = LARGEST
    ordered: bool = False

    def fault(self, value: Any) -> str | None:
        """The requirement that `value`, a number or any nesting of numbers, does not meet, or None."""
        numbers = list(_numbers(value))
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            return "it must be finite"
        if all(self.low <= number <= self.high for number in numbers):
            return "the smaller number comes first" if self.ordered and numbers != sorted(numbers) else None
        if self.high != LARGEST:
            return f"it must be from {self.low} to {self.high}"
        return f"it must be at least {self.low}" if min(numbers) < self.low else f"it must be at most {self.high}"


def ranged(default: Any, low: float = -LARGEST, high: float = LARGEST) -> Any:
    """A dataclass field with this default and range, as `field.metadata["range"]`."""
    return field(default=default, metadata={"range": Range(low, high)})


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for item in value:
            yield from _numbers(item)
    elif value is not None:
        yield value
