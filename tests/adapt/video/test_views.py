"""Which frames a view takes: one sampler for files and for tensors, without a decoder."""

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from adapt.video.views import view_indices
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


def test_the_sampler_needs_no_decoder_and_no_torch() -> None:
    heavy = {"torch", "av", "decord", "torchvision", "duckdb"}
    code = f"import sys, adapt.video.views; assert not {heavy} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
