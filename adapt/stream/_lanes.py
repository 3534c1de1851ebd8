"""Streams side by side: every lane in a process of its own, forked off this one, at most so many at a time.

A *lane* is a run of streams that must follow one another: a single stream, but where weights go over from one stream to
the next.  A process computes with one torch thread, whether it stands alone or beside others: so rows do not depend on
how many there are, and two cores do the work of two, which threads inside small operations do not.  Fork, as torch's
own DataLoader does it: a child begins with the model that its parent loaded.  On a GPU, and where one lane is left, the
work is done in this process.
"""

import ctypes
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import TypeVar

import torch

from adapt.errors import AdaptError, EarshotError

Item = TypeVar("Item")
News = TypeVar("News")
Work = Callable[[Item, Callable[[News], None]], None]  # on one item, with a way to tell how it goes
PR_SET_PDEATHSIG = 1  # sys/prctl.h
CLOSED = (EOFError, ConnectionResetError)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def each(work: Work[Item, News], items: Sequence[Item], n_jobs: int, tell: Callable[[News], None]) -> None:
    """Call `work(item, tell)` for every item, `n_jobs` at a time; `tell` hands news over to this process, where it is
    called.

    Raises the first error that one of them raised, once the others have been ended; AdaptError where a process was
    killed.
    """
    if min(n_jobs, len(items)) <= 1:
        with one_thread():
            for item in items:
                work(item, tell)
        return
    todo, running = list(items), dict[Connection, ForkProcess]()
    try:
        while todo or running:
            while todo and len(running) < n_jobs:
                connection, process = _start(work, todo.pop(0), [*running])
                running[connection] = process
            ready = wait([*running])
            for connection in [one for one in running if one in ready]:
                if not _hear(connection, running[connection], tell):
                    running.pop(connection)
                    connection.close()
    finally:
        for process in running.values():
            process.kill()  # nothing is lost: progress is on disk
        for connection, process in running.items():
            process.join()
            connection.close()


def _start(work: Work[Item, News], item: Item, others: Sequence[Connection]) -> tuple[Connection, ForkProcess]:
    context = get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, item, theirs, [ours, *others], os.getpid()), daemon=True)
    gc.disable()  # until the child has set aside what it inherits
    try:
        process.start()
    finally:
        gc.enable()
    theirs.close()
    return ours, process


def _child(work: Work[Item, News], item: Item, news: Connection, of_parent: Sequence[Connection], parent: int) -> None:
    """What a process of its own does; Ctrl-C is the parent's to handle, which then ends this one."""
    # what the parent made is never collected here: a destructor that waits for threads, as DuckDB's does, would wait
    # for ever
    gc.freeze()
    gc.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for connection in of_parent:
        connection.close()
    _die_with(parent)
    torch.set_num_threads(1)
    try:
        work(item, lambda what: news.send((what, None)))
    except EarshotError as error:
        news.send((None, error))
    except Exception:  # a fault of ours: the parent raises it with the place where it happened
        news.send((None, RuntimeError(f"in a process of its own:\n{traceback.format_exc()}")))


def _die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, even by SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        os._exit(1)


def _hear(connection: Connection, process: ForkProcess, tell: Callable[[News], None]) -> bool:
    """Pass on what a child says; False when it has ended.  Raises what it raised, AdaptError where it was killed."""
    try:
        what, error = connection.recv()
    except CLOSED:
        process.join()
        if process.exitcode:
            name = signal.Signals(-process.exitcode).name if process.exitcode < 0 else f"exit code {process.exitcode}"
            raise AdaptError(
                f"a process of this run ended by {name}: is there too little memory for --jobs? Run it again to go on"
            ) from None
        return False
    if error is not None:
        raise error
    tell(what)
    return True
