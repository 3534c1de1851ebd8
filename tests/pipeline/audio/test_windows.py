"""windows: the same however the sound is cut, covering it to its end, with no more held than a window and a piece."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt.errors import TaggerError
from pipeline.audio.windows import Windows


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int, list[int]]:
    """(window, hop, lengths of the pieces)."""
    window = draw(st.integers(1, 30))
    return window, draw(st.integers(1, window)), draw(st.lists(st.integers(0, 70), max_size=12))


@given(cuts())
def test_windows_follow_from_the_length_alone(cut: tuple[int, int, list[int]]) -> None:
    window, hop, lengths = cut
    n = sum(lengths)
    windows, found, at = Windows(window, hop), [], 0
    for length in lengths:
        made = windows.add(np.arange(at, at + length)[None])
        at += length
        assert all(start + window <= at for start, _ in made)
        found += made
        assert not n or len(found) == len([s for s in range(0, at, hop) if s + window <= at])  # none is kept waiting
    found += windows.end()
    starts = [start for start in range(0, n, hop) if start == 0 or start + window - hop < n]  # closed form
    assert [start for start, _ in found] == starts
    for start, samples in found:
        assert samples.tolist() == [list(range(start, min(start + window, n)))]


def test_another_sound_may_follow_the_end() -> None:
    windows = Windows(4, 2)
    windows.add(np.arange(5))
    windows.end()
    assert [(start, s.tolist()) for start, s in windows.add(np.arange(9, 13))] == [(0, [9, 10, 11, 12])]
    assert windows.end() == []


def test_no_more_is_held_than_a_window_and_a_piece() -> None:
    windows = Windows(1000, 10)
    for _ in range(200):
        windows.add(np.zeros(77))
        assert sum(piece.size if piece.base is None else piece.base.size for piece in windows._pieces) <= 1077


@pytest.mark.parametrize(("window", "hop"), [(10, 0), (10, 11), (0, 0)])
def test_windows_that_would_leave_sound_out_are_an_error(window: int, hop: int) -> None:
    with pytest.raises(TaggerError, match="give 0 < hop <= window"):
        Windows(window, hop)
