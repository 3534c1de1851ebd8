"""Which numbers an option may be, said where the option stands: `jobs: int = number(2, low=1)`.

`main` checks every option before the command runs.  A float is finite in any case.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from adapt.errors import OptionsError

KEY = "range"  # in a field's metadata


@dataclass(frozen=True)
class Range:
    """From `low` to `high`; without `low` itself where `above`."""

    low: float
    high: float
    above: bool

    def holds(self, value: float) -> bool:
        """Whether `value` lies within."""
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        start = f"more than {self.low:g}" if self.above else f"{self.low:g}"
        if math.isinf(self.high):
            return start if self.above else f"{start} or more"
        return f"{start}, up to {self.high:g}" if self.above else f"{start} to {self.high:g}"


def number(default: Any, *, low: float = 0, high: float = math.inf, above: bool = False) -> Any:
    """A field of options: a number, several, or None, from `low` to `high`; without `low` itself where `above`."""
    return dataclasses.field(default=default, metadata={KEY: Range(low, high, above)})


def check_numbers(options: object) -> None:
    """Raise OptionsError, which names option and range, for a number outside its range, or that is none."""
    for name, value, allowed in _numbers(options):
        if not math.isfinite(value):
            raise OptionsError(f"{name} is {value!r}: give {allowed or 'a number'}")
        if allowed is not None and not allowed.holds(value):
            raise OptionsError(f"{name} is {value!r}: give {allowed}")


def _numbers(options: object) -> Iterator[tuple[str, float, Range | None]]:
    """(name, value, what it may be) of every number of a dataclass, those of dataclasses in it included."""
    for field in dataclasses.fields(options) if dataclasses.is_dataclass(options) else ():
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _numbers(value)
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(one, (int, float)) and not isinstance(one, bool):
                yield field.name, one, field.metadata.get(KEY)
