"""Do the same to many items in a few threads, so that an error, or Ctrl-C, lets finish what is in flight and starts
nothing more.

Requests in flight are paid for: dropping them would mean asking again.  `concurrent.futures` can do half of this; its
threads also keep a process alive that was told twice to stop.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
log = logging.getLogger(__name__)


class Stopped(Exception):  # noqa: N818 - what happened, not an error of ours
    """Ctrl-C was pressed, and what was in flight is finished or was given up."""


def each(
    work: Callable[[Item, threading.Event], None], items: Iterable[Item], n_threads: int, done: Callable[[], object]
) -> None:
    """Call `work(item, stop)` on every item, and `done()` in this thread after each.

    `stop` is set when nothing new should be begun.  Raises the first error of `work`, or Stopped on Ctrl-C; a second
    Ctrl-C does not wait for what is in flight.
    """
    todo: queue.SimpleQueue[Item] = queue.SimpleQueue()
    for item in items:
        todo.put(item)
    news: queue.SimpleQueue[Exception | None | threading.Thread] = (
        queue.SimpleQueue()
    )  # an error, an item done, a thread at its end
    stop = threading.Event()

    def serve() -> None:
        try:
            while not stop.is_set():
                work(todo.get_nowait(), stop)
                news.put(None)
        except queue.Empty:
            pass
        except Exception as error:  # handed to the caller's thread, which raises it
            stop.set()
            news.put(error)
        news.put(threading.current_thread())

    threads = {threading.Thread(target=serve, daemon=True) for _ in range(n_threads)}
    for thread in threads:
        thread.start()
    try:
        _follow(news, threads, stop, done)
    except KeyboardInterrupt:  # a second one while the first was being told of
        raise Stopped from None


def _follow(
    news: "queue.SimpleQueue[Exception | None | threading.Thread]",
    threads: set[threading.Thread],
    stop: threading.Event,
    done: Callable[[], object],
) -> None:
    """Wait until all threads have ended; raise what is to be raised."""
    first: Exception | None = None
    while threads:
        try:
            match news.get():
                case None:
                    done()
                case Exception() as error:
                    first = first or error
                case threading.Thread() as thread:
                    threads.discard(thread)
        except KeyboardInterrupt:
            if isinstance(first, Stopped):
                raise first from None
            first = Stopped()
            stop.set()
            log.warning("stopping: waiting for what is in flight (Ctrl-C again drops it)")
    if first is not None:
        raise first
