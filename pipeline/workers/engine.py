"""How a stage spreads clips over workers: the one room to change for processes or a cluster.

Threads are enough here, since the work is done by ffmpeg processes or by libraries that release the interpreter's lock.
Everything comes back in the order in which it was asked for, and no more is held than a few items a worker.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from queue import Full, Queue
from threading import Event
from typing import Generic, TypeVar

from adapt.errors import EarshotError

Item = TypeVar("Item")
Result = TypeVar("Result")
LOOK_S = 0.2  # how often a worker that waits for its reader looks whether the reader has gone


def map_clips(
    function: Callable[[Item], Result], items: Iterable[Item], jobs: int, stop: Callable[[], None] | None = None
) -> list[Result]:
    """Return `function(item)` for each item, in the order of `items`, on `jobs` threads.

    The first exception of an item, in that order, is raised.  Raises EarshotError where `jobs` is below 1.  `stop` as
    `imap` has it.
    """
    return list(imap(function, items, jobs, stop))


def imap(
    function: Callable[[Item], Result], items: Iterable[Item], jobs: int, stop: Callable[[], None] | None = None
) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order, on `jobs` threads, at most 2 x `jobs` items ahead of the reader.

    `items` is read by the caller's thread, as far as it is needed.  Raises as `map_clips` does.  `stop` is called where
    the reading ends before the items do, such as by Ctrl-C: it ends what the threads wait for.
    """
    _check(jobs)
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) == 2 * jobs:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
            if pending and stop is not None:
                stop()


@dataclass(frozen=True)
class _End:
    """The last thing that a worker says of an item."""

    error: BaseException | None = None


@dataclass(frozen=True)
class _Outbox(Generic[Result]):
    """What one worker has made of one item and nobody has read yet."""

    queue: "Queue[Result | _End]"
    reader_gone: Event

    def put(self, value: "Result | _End") -> bool:
        """Wait until there is room; False where nobody reads any more."""
        while not self.reader_gone.is_set():
            try:
                self.queue.put(value, timeout=LOOK_S)
                return True
            except Full:
                continue
        return False

    def read(self) -> Iterator[Result]:
        """Yield the results; raises what the worker raised."""
        while not isinstance(value := self.queue.get(), _End):
            yield value
        if value.error is not None:
            raise value.error


def stream(
    function: Callable[[Item], Generator[Result, None, None]], items: Iterable[Item], jobs: int, depth: int = 4
) -> Iterator[tuple[Item, Iterator[Result]]]:
    """Yield (item, results of `function(item)`) for each item, in order; `jobs` threads work ahead, at most `depth`
    results an item.

    So a long item is never held whole.  What a reader leaves of an item is read and dropped before the next one comes.
    An exception of `function` is raised where its results are read.  Generators that the reader abandons are closed.
    Raises as `map_clips` does.
    """
    _check(jobs)
    reader_gone = Event()

    def work(item: Item, outbox: _Outbox[Result]) -> None:
        try:
            with closing(function(item)) as results:
                for result in results:
                    if not outbox.put(result):
                        return
            outbox.put(_End())
        except BaseException as error:  # raised again by the reader
            outbox.put(_End(error))

    waiting: deque[tuple[Item, _Outbox[Result]]] = deque()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for item in items:
                outbox: _Outbox[Result] = _Outbox(Queue(depth), reader_gone)
                pool.submit(work, item, outbox)
                waiting.append((item, outbox))
                if len(waiting) == jobs + 1:
                    yield from _read(*waiting.popleft())
            while waiting:
                yield from _read(*waiting.popleft())
        finally:
            reader_gone.set()


def _read(item: Item, outbox: _Outbox[Result]) -> Iterator[tuple[Item, Iterator[Result]]]:
    results = outbox.read()
    yield item, results
    for _ in results:
        pass


def _check(jobs: int) -> None:
    if jobs < 1:
        raise EarshotError(f"jobs is {jobs}: give 1 or more")
