"""Which frames a view takes: one sampler for files and for tensors, without a decoder."""

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from adapt.errors import AdaptError
from adapt.video.views import indices_of_views, view_indices
from adapt.wrapper import views_of
from tests.places import ROOT


@pytest.mark.parametrize("frames", range(1, 33))
def test_a_view_takes_a_frame_of_each_segment_at_its_offset(frames: int) -> None:
    for n_frames in range(1, 301):
        for offset in (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4)):  # of two views and the centre
            exact = [min(int((i + offset) * n_frames / frames), n_frames - 1) for i in range(frames)]
            assert view_indices(n_frames, frames, float(offset)).tolist() == exact


@pytest.mark.parametrize("frames", range(1, 33))
def test_offsets_that_floats_round_give_the_places_of_both_samplers_of_before(frames: int) -> None:
    """The decoder's was written in numpy, that of tensors in torch: the formulas stand here as they were."""
    for n_frames in range(1, 301):
        for offset in (1 / 6, 5 / 6, 0.9):
            by_file = np.minimum(((np.arange(frames) + offset) * n_frames / frames).astype(int), n_frames - 1)
            places = (torch.arange(frames, dtype=torch.float64) + offset) * n_frames / frames
            found = view_indices(n_frames, frames, offset).tolist()
            assert found == by_file.tolist() == places.long().clamp_max(n_frames - 1).tolist()


def test_three_views_of_a_tensor_are_the_samplers() -> None:
    views, centre = views_of(torch.arange(50).view(1, 1, -1, 1, 1), 3, 8)
    expected = [view_indices(50, 8, (v + 0.5) / 3).tolist() for v in range(3)]
    assert views[0].flatten(1).tolist() == expected
    assert centre.flatten().tolist() == view_indices(50, 8, 0.5).tolist()


def published(n_frames: int, frames: int, views: int) -> list[list[int]]:
    """ViTTA's `uniform_equidist` of the views and `uniform-1` of the centre view, frame by frame, its decoder's clamp
    included.
    """
    tick = n_frames / float(frames)
    starts = [int(v * (tick - 1) / (views - 1)) if views > 1 else 0 for v in range(views)]
    seen = [[int(start + tick * x) % n_frames + 1 for x in range(frames)] for start in starts]
    seen.append([int(tick / 2.0 + tick * x) + 1 for x in range(frames)])
    return [[min(index, n_frames - 1) for index in view] for view in seen]


def test_vittas_views_start_at_both_ends_of_the_first_segment() -> None:
    first, second, centre = indices_of_views(186, 16, 2, "vitta").tolist()
    assert (first[0], second[0]) == (1, 11)
    assert centre == [index + 1 for index in view_indices(186, 16, 0.5).tolist()]
    assert indices_of_views(186, 16, 2)[:2, 0].tolist() == [2, 8]  # ours


@pytest.mark.parametrize(("frames", "views"), [(16, 2), (8, 1), (16, 3)])
def test_vittas_views_are_its_codes_for_clips_of_any_length(frames: int, views: int) -> None:
    for n_frames in range(1, 301):
        assert indices_of_views(n_frames, frames, views, "vitta").tolist() == published(n_frames, frames, views)


def test_even_views_are_the_samplers_at_the_middles_of_equal_parts() -> None:
    expected = [view_indices(50, 8, offset).tolist() for offset in (1 / 6, 3 / 6, 5 / 6, 0.5)]
    assert indices_of_views(50, 8, 3).tolist() == expected


def test_an_unknown_sampling_is_one_clear_error() -> None:
    with pytest.raises(AdaptError, match=r"sampling 'odd': choose one of \['even', 'vitta'\]"):
        indices_of_views(10, 4, 2, "odd")


def test_the_sampler_needs_no_decoder_and_no_torch() -> None:
    heavy = {"torch", "av", "decord", "torchvision", "duckdb"}
    code = f"import sys, adapt.video.views; assert not {heavy} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
