"""A caller's torch.autocast: every method and fusion runs in it and learns in float32."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adapt import fusion, methods
from adapt.core.moments import moments
from adapt.core.oracle import Oracle
from tests import built
from tests.adapt.wrapper.test_wrap import SOUND, clip, wrapped
from tests.pairs import runs
from tests.tiny import K, batch, same_weights, trained, weights

METHODS = [name for name in methods.names() if not methods.needs_labels(name)]
TYPES = [torch.bfloat16, torch.float16]


def learns(method: str) -> bool:
    """Whether weights or batch norm buffers change."""
    return bool({"momentum", "dua_momentum"} & set(methods.settings_of(method)))


@pytest.mark.parametrize("scope", ["all", pytest.param("norm", marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("method", "way"), runs(METHODS, fusion.names()))
def test_every_method_and_fusion_runs_in_autocast_near_to_what_it_answers_without(
    method: str, way: str, dtype: torch.dtype, scope: str
) -> None:
    chosen = built.fitting(method, way, lr=0.01, entropy_margin=1.0, deyo_drop=-1.0, audio_lr=0.05, scope=scope)
    mine = trained()
    before, model = weights(mine), wrapped(method, mine, fusion=way, **chosen)
    plain = wrapped(method, fusion=way, **chosen)
    with torch.autocast("cpu", dtype=dtype):
        answers = [model(clip(i), SOUND) for i in range(3)]
    assert all(answer.isfinite().all() for answer in answers)
    assert {value.dtype for value in mine.state_dict().values() if value.is_floating_point()} == {torch.float32}
    assert all(value.isfinite().all() for value in mine.state_dict().values())
    assert same_weights(mine, before) != learns(method)
    assert model.n_not_finite == 0
    for i, answer in enumerate(answers):
        assert (answer.softmax(1) - plain(clip(i), SOUND).softmax(1)).abs().max() < 0.1


@pytest.mark.parametrize("way", fusion.names())
@pytest.mark.parametrize("method", [name for name in methods.names() if methods.needs_labels(name)])
def test_an_upper_bound_runs_in_autocast(method: str, way: str) -> None:
    bound = built.fused(method, way, trained(), None, K, Oracle({"clip 0": (2,)}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = bound.adapt(batch(0, heard=2))
    assert answer.after.isfinite().all() and (answer.fused is None or answer.fused.isfinite().all())


def test_steps_and_looks_are_by_the_weights_of_now_not_by_casts_of_before() -> None:
    """Autocast keeps a weight's cast until its block ends, unless told not to: a step would work on old weights."""

    def stream(cache: bool) -> tuple[list[Tensor], Tensor, Tensor]:
        settings: dict[str, Any] = {"scope": "all", "lr": 1.0, "audio_lr": 1.0, "cycle": "fixed", "max_iterations": 4}
        model = wrapped("audio", predict="alone", **settings)
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=cache):
            first: Tensor = model.model(clip())  # the caller's own look, whose casts are kept
            answers = [model(clip(i), SOUND) for i in range(2)]
            assert torch.is_autocast_cache_enabled() == cache
            return answers, first, model.model(clip())

    (kept, _, own), (fresh, first, expected) = stream(True), stream(False)
    assert all(torch.equal(a, b) for a, b in zip(kept, fresh, strict=True))
    assert torch.equal(own, expected) and not torch.equal(own, first)


def test_moments_of_reduced_numbers_are_taken_in_float32() -> None:
    x = (torch.rand(64, 4, 9) + 100).bfloat16().requires_grad_(True)
    mean, variance = moments(x, channel_last=False)
    expected = torch.var_mean(x.detach().double(), (0, 2), correction=0)
    assert (mean.dtype, variance.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(mean.double(), expected[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), expected[0], rtol=1e-3, atol=0)
    (mean.sum() + variance.sum()).backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16


class Linear(nn.Module):
    """A network whose mean over frames is taken before a head in reduced numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(3), nn.Linear(3, K)

    def forward(self, frames: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(frames.mean((3, 4)).transpose(1, 2))).mean(1)
        return logits


@pytest.mark.parametrize("method", ["t3a", "shot"])
def test_a_head_is_found_behind_logits_of_reduced_numbers(method: str) -> None:
    model = wrapped(method, Linear())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(clip(), SOUND).isfinite().all()
