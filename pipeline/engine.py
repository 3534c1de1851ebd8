"""How a stage spreads clips over workers: the one room to change for processes or a cluster.

Threads are enough here, since the work is done by ffmpeg processes or by libraries that release the interpreter's lock.
"""
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pipeline.errors import EarshotError

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_clips(function: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> list[Result]:
    """Return `function(item)` for each item, in the order of `items`, on `jobs` threads.

    The first exception of an item, in that order, is raised.  Raises EarshotError where `jobs` is below 1.
    """
    if jobs < 1:
        raise EarshotError(f"jobs is {jobs}: give 1 or more")
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(function, items))
