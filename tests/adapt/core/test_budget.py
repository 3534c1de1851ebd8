"""A clip's time is kept: steps that would not fit are left out; and the cycle's fixed form."""

import dataclasses

import pytest
import torch

from adapt import backbones
from adapt.contract import Batch
from adapt.core import _budget
from adapt.core._budget import STEP_OVER_PREDICTION, Budget
from adapt.methods.audio import Audio, Settings
from tests import built
from tests.tiny import K, batch, trained

FIXED = Settings(lr=0.01, cycle="fixed", max_iterations=5)  # no stop rule ends the cycle


class Watch:
    """A clock that one winds by hand, in milliseconds."""

    def __init__(self) -> None:
        self.now_ms = 0.0

    def __call__(self) -> float:
        return self.now_ms / 1000

    def pass_ms(self, ms: float) -> None:
        self.now_ms += ms


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    made = Watch()
    monkeypatch.setattr(_budget, "CLOCK", made)
    return made


def test_before_anything_was_timed_a_step_is_taken_for_several_predictions(watch: Watch) -> None:
    for budget_ms, fits in ((10 + 10 * STEP_OVER_PREDICTION + 10, True), (10 + 10 * STEP_OVER_PREDICTION + 9, False)):
        kept = Budget(budget_ms)
        kept.begin(lambda: watch.pass_ms(10))
        assert kept.allows_step() == fits


def test_a_slow_step_is_believed_at_once_and_forgotten_slowly(watch: Watch) -> None:
    kept = Budget(100)
    kept.begin(lambda: watch.pass_ms(5))
    watch.pass_ms(65)
    kept.end([60])  # a step of 60 and 10 besides: the prediction
    kept.begin(lambda: None)
    assert kept.allows_step()
    watch.pass_ms(31)
    assert not kept.allows_step()  # 31 + 60 + 10
    kept.end([])
    kept.begin(lambda: None)
    kept.end([20])
    kept.begin(lambda: None)
    watch.pass_ms(38)
    assert not kept.allows_step()  # .98 x 60, then .8 of that and .2 of 20: 51; and the longest prediction since, 31


def test_without_a_budget_nothing_is_timed_and_every_step_fits(watch: Watch) -> None:
    kept = Budget(0)
    kept.begin(lambda: pytest.fail("a prediction was made for nothing"))
    watch.pass_ms(1e9)
    assert kept.allows_step()


@pytest.mark.parametrize("name", ["vitta", "tent", "audio"])
def test_a_clip_without_time_for_a_step_is_predicted_by_the_weights_as_they_are(name: str) -> None:
    model = trained()
    method = built.alone(name, model, None, K, budget_ms=1e-6)
    clip = batch(heard=1)
    with torch.no_grad():
        expected = trained()(clip.centre[:, 0]).log_softmax(1)
    answer = method.adapt(clip)
    assert (answer.steps, answer.stop_reason) == (0, "budget")
    if name != "tent":  # which predicts with the clip's own batch norm statistics
        assert torch.equal(answer.after, expected)


def test_audio_has_its_fused_answer_where_there_is_no_time_too() -> None:
    method = Audio(trained(), None, K, dataclasses.replace(FIXED, budget_ms=1e-6))
    for i in range(3):
        answer = method.adapt(batch(i, heard=1))
        assert answer.fused is not None
        assert answer.fused.argmax() == 1
        assert answer.fused.exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert method.fusion.information.n_clips == 3


def test_the_cycle_stops_where_one_more_step_would_not_fit(watch: Watch) -> None:
    class Slow(Audio):
        def look(self, batch: Batch):  # type: ignore[no-untyped-def]
            watch.pass_ms(100)
            return super().look(batch)

        def predict(self, batch: Batch) -> torch.Tensor:
            watch.pass_ms(10)
            return super().predict(batch)

        def source_answer(self, batch: Batch) -> torch.Tensor:
            watch.pass_ms(10)
            return super().source_answer(batch)

    assert Slow(trained(), None, K, FIXED).adapt(batch(heard=1)).steps == 5
    started = watch.now_ms
    answer = Slow(trained(), None, K, dataclasses.replace(FIXED, budget_ms=300)).adapt(batch(heard=1))
    # 10 to time a prediction, 10 for the source's, a step of 100, a prediction, an own step of 100: 230; one more would
    # cost 80, a prediction 10
    assert (answer.steps, answer.stop_reason) == (2, "budget")
    assert watch.now_ms - started == 240


def test_a_fixed_cycle_takes_its_steps_whatever_they_do() -> None:
    for n in (1, 3):
        answer = Audio(trained(), None, K, dataclasses.replace(FIXED, max_iterations=n, audio_lr=500.0)).adapt(
            batch(heard=1)
        )
        assert (answer.steps, answer.stop_reason) == (n, "max_iterations")


def test_a_clips_own_steps_change_the_last_blocks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = torch.rand(1, 2, 3, 8, 32, 32)
    s = torch.tensor([[0.0, 0.0, 0.9]])
    clip = Batch(frames, frames[:, :1], s / s.sum(), s, s.amax(1), ("ok",), ("clip",))
    torch.manual_seed(0)
    model = backbones.build("tanet", 3, 8)
    method = Audio(model, None, 3, dataclasses.replace(FIXED, lr=0.0))
    before = {name: value.clone() for name, value in model.named_parameters()}
    predicted_by: dict[str, torch.Tensor] = {}

    def predict(clip: Batch) -> torch.Tensor:
        predicted_by.update({name: value.clone() for name, value in model.named_parameters()})
        return Audio.predict(method, clip)

    monkeypatch.setattr(method, "predict", predict)
    assert method.adapt(clip).steps == 5
    changed = {name for name, value in predicted_by.items() if not torch.equal(value, before[name])}
    assert any("layer4" in name for name in changed)
    assert not any("layer1" in name for name in changed)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())  # and none of them stays
