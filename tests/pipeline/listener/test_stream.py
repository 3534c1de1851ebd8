"""stream: sound in chunks of any length is heard window by window, as each window would be alone."""

import itertools
from contextlib import chdir

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.errors import DecodeError
from pipeline import Listener
from pipeline.listener import Hearing
from tests.pipeline.listener.conftest import CLASSES, Made, Samples, recordings

RATE, WINDOW_S, HOP_S = 22050, 1.0, 0.4
LENGTH = int(2.5 * RATE)


@pytest.fixture(scope="session")
def music() -> Samples:
    """Two instruments, one a channel: (2, LENGTH)."""
    return recordings()["stereo"][0].T[:, :LENGTH].astype(np.float32)


@pytest.fixture(scope="session")
def short(made: Made) -> Listener:
    """A listener of short windows."""
    with chdir(made.root):
        return Listener(CLASSES, label_map="lexical", window_s=WINDOW_S, hop_s=HOP_S)


@pytest.fixture(scope="session")
def expected(short: Listener, music: Samples) -> list[Hearing]:
    """What each window is alone, by the stages' rule: one every hop, until the sound's end is heard."""
    window, hop = int(WINDOW_S * RATE), int(HOP_S * RATE)
    starts = [s for s in range(0, LENGTH, hop) if s == 0 or s + window - hop < LENGTH]
    found = []
    for start in starts:
        short(music[:, start : start + window], RATE)
        found.append(short.clips[0])
    return found


def same(one: Hearing, other: Hearing) -> bool:
    if (one.status, one.level_dbfs, one.duration_s) != (other.status, other.level_dbfs, other.duration_s):
        return False
    if one.sound is None or other.sound is None:
        return one.sound is other.sound
    equal = torch.allclose(one.sound.s, other.sound.s, atol=1e-5)
    return equal and [s.sound for s in one.heard] == [s.sound for s in other.heard]


@settings(max_examples=12)
@given(st.lists(st.integers(0, LENGTH), max_size=8).map(sorted))
def test_the_answer_does_not_depend_on_how_chunks_are_cut(
    short: Listener, music: Samples, expected: list[Hearing], cuts: list[int]
) -> None:
    stream, found = short.stream(RATE), []
    for start, stop in itertools.pairwise([0, *cuts, LENGTH]):
        found += stream.add(music[:, start:stop])
    found += stream.end()
    assert [round(one.start_s / HOP_S, 6) for one in found] == list(range(len(expected)))
    assert all(same(one, other) for one, other in zip(found, expected, strict=True))


def test_a_window_is_answered_with_its_last_sample(short: Listener, music: Samples) -> None:
    stream, window = short.stream(RATE), int(WINDOW_S * RATE)
    assert stream.add(music[:, : window - 1]) == []
    (one,) = stream.add(torch.from_numpy(music[:, window - 1 : window]))
    assert (one.start_s, one.duration_s) == (0.0, WINDOW_S)
    assert stream.end() == []  # all of it was heard


def test_a_silent_window_is_none_among_others(short: Listener, music: Samples) -> None:
    quiet = np.zeros_like(music[:, : 3 * RATE // 2])
    found = short.stream(RATE).add(np.concatenate([music[:, :RATE], quiet], axis=1))
    assert [one.sound is None for one in found] == [False, False, False, True]
    assert found[-1].status == "silent" and found[-1].heard == []


def test_chunks_of_another_kind_are_an_error_until_the_stream_ends(short: Listener, music: Samples) -> None:
    stream = short.stream(RATE)
    stream.add(music[:, :100])
    with pytest.raises(DecodeError, match="keep channels and type, or end"):
        stream.add(music[0, :100])
    with pytest.raises(DecodeError, match="keep channels and type"):
        stream.add((music[:, :100] * 30000).astype(np.int16))
    stream.end()
    assert stream.add(music[0, :100]) == []
