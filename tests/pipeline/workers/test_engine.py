"""engine: clips over threads, in order, with little held at a time."""

import threading
import time
from collections.abc import Generator, Iterator

import pytest

from adapt.errors import EarshotError
from pipeline.workers import engine


def test_map_clips_keeps_the_order_and_raises_what_an_item_raised() -> None:
    assert engine.map_clips(lambda x: x * x, range(20), jobs=4) == [x * x for x in range(20)]
    with pytest.raises(ZeroDivisionError):
        engine.map_clips(lambda x: 1 // x, [1, 0], jobs=2)


def test_no_worker_at_all_is_an_error() -> None:
    with pytest.raises(EarshotError, match="jobs is 0"):
        engine.map_clips(str, [1], jobs=0)
    with pytest.raises(EarshotError, match="jobs is -1"):
        next(iter(engine.stream(letters, ["a"], jobs=-1)))


def test_imap_reads_no_more_items_than_its_workers_need() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    results = engine.imap(lambda x: x, items(), jobs=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(taken) <= 3 + 2 * 2


def letters(word: str) -> Generator[str, None, None]:
    yield from word


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_a_stream_gives_every_items_results_in_order(jobs: int) -> None:
    words = ["clip", "", "sound", "a" * 50]
    assert [(word, "".join(found)) for word, found in engine.stream(letters, words, jobs)] == [
        (word, word) for word in words
    ]


def test_what_a_reader_leaves_of_an_item_is_skipped() -> None:
    assert [next(found) for _, found in engine.stream(letters, ["clip", "sound"], jobs=1)] == ["c", "s"]


def test_a_stream_works_ahead_no_further_than_its_depth() -> None:
    made: list[int] = []

    def endless(_: str) -> Generator[int, None, None]:
        for i in range(10_000):
            made.append(i)
            yield i

    stream = engine.stream(endless, ["long", "long"], jobs=1, depth=3)
    _, results = next(stream)
    next(results)
    time.sleep(0.3)
    assert len(made) <= 1 + 3 + 1  # read, in the queue, in the worker's hand
    stream.close()  # type: ignore[attr-defined]


def test_a_reader_that_goes_away_closes_the_generators() -> None:
    closed = threading.Event()

    def endless(_: str) -> Generator[int, None, None]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    stream = engine.stream(endless, ["long"], jobs=1)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert closed.is_set()


def test_a_stream_raises_an_items_exception_where_its_results_are_read() -> None:
    def torn(word: str) -> Generator[str, None, None]:
        yield word
        raise ValueError(f"{word} is torn")

    stream = engine.stream(torn, ["clip"], jobs=2)
    _, results = next(stream)
    assert next(results) == "clip"
    with pytest.raises(ValueError, match="clip is torn"):
        next(results)
