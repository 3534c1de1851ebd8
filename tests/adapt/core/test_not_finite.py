"""Classes that a head masks by -inf, and steps that are not finite: neither spoils anything."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adapt
from adapt import fusion, losses, methods
from adapt.core.learner import Learner, Views
from adapt.core.state import Sgd
from adapt.fusion.trusted import Settings, SourceMix
from adapt.methods.shot import diversity
from adapt.wrapper import Wrapped
from tests.adapt.wrapper.test_wrap import SOUND, clip, wrapped
from tests.built import fitting
from tests.pairs import runs
from tests.tiny import TinyVideoModel, same_weights, trained, weights

FUSIONS = fusion.names()
METHODS = [name for name in methods.names() if not methods.needs_labels(name)]
MASKED = 2  # the class that SOUND speaks for
INF = math.inf


class Masking(TinyVideoModel):
    """Class MASKED has the logit -inf, or any other that is set."""

    mask = -INF

    def forward(self, frames: Tensor) -> Tensor:
        return super().forward(frames).index_fill(1, torch.tensor([MASKED]), self.mask)


def masking() -> Masking:
    made = Masking()
    made.load_state_dict(trained().state_dict())
    return made.eval()


def adapting(method: str, way: str, model: nn.Module) -> Wrapped:
    settings = {"lr": 0.05, "entropy_margin": 1.0, "eata_similarity": 2.0, "deyo_drop": -1.0}
    settings |= {"collapse_entropy": 0.1, "ensemble": 0.9}
    return wrapped(method, model, fusion=way, **fitting(method, way, **settings))


def takes_gradients(method: str) -> bool:
    return "momentum" in methods.settings_of(method)


def finite(value: Any) -> bool:
    """Whether every tensor and number in a state is finite."""
    if isinstance(value, dict | list | tuple):
        return all(finite(item) for item in (value.values() if isinstance(value, dict) else value))
    return not isinstance(value, Tensor | float) or bool(torch.as_tensor(value).isfinite().all())


# masked classes


@pytest.mark.parametrize(("method", "way"), runs([name for name in METHODS if name != "audio_only"], FUSIONS))
def test_a_class_that_the_head_masks_is_never_answered_and_nothing_else_suffers(method: str, way: str) -> None:
    model = adapting(method, way, masking())
    for i in range(5):
        answer = model(clip(i, b=1 + i % 2), [None, SOUND, {"yoga": 0.5}, SOUND, SOUND][i])
        others = answer[:, [k for k in range(4) if k != MASKED]]
        assert (answer[:, MASKED] == -INF).all() and others.isfinite().all()
        assert model.answer is not None and not model.answer.before.isnan().any()
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert finite(model.state())
    if takes_gradients(method):
        assert not same_weights(model.model, weights(trained()))
    if method != "shot":  # whose pseudo-label may be the masked class: such a step is not taken
        assert model.n_not_finite == 0


@pytest.mark.parametrize("method", ["tent", "eata", "sar", "vitta"])
def test_a_masked_class_is_as_one_that_the_head_does_not_have(method: str) -> None:
    whole, less = masking(), trained()
    rest = [k for k in range(4) if k != MASKED]
    head = nn.Linear(6, 3)
    head.load_state_dict({name: value[rest] for name, value in less.head.state_dict().items()})
    less.head = head
    with_mask = wrapped(method, whole, fusion="none", **fitting(method, lr=0.05, entropy_margin=1.0))
    chosen = fitting(method, lr=0.05, entropy_margin=math.log(4) / math.log(3))  # a share of log K: the same margin
    without: Wrapped = adapt.wrap(less, method, classes=["a", "b", "c"], fusion="none", **chosen)
    for i in range(3):
        torch.testing.assert_close(with_mask(clip(i))[:, rest], without(clip(i)), rtol=1e-4, atol=1e-5)


def log_p(*p: float) -> Tensor:
    return torch.tensor(p, dtype=torch.float64).log().requires_grad_(True)


def gradient_of(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Of a function of log-probabilities, in the logits."""
    logits = logits.clone().requires_grad_(True)
    loss(logits.log_softmax(-1)).sum().backward()
    assert logits.grad is not None
    return logits.grad


def views(*rows: list[float]) -> Tensor:
    return torch.tensor([rows], dtype=torch.float64)  # (1, V, K)


TARGET = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "entropy": lambda x: losses.entropy(x[:, 0]),
    "entropy of the mean": lambda x: losses.entropy(Views(x).log_mean),
    "consistency": losses.consistency,
    "divergence": lambda x: losses.divergence(x, TARGET[:, : x.shape[2]]),
    "diversity": lambda x: diversity(Views(x).log_mean, torch.full((x.shape[2],), 0.25, dtype=torch.float64)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_gradient_are_those_without_the_masked_class(name: str) -> None:
    loss = LOSSES[name]
    with_mask, without = views([0.3, 1.0, -INF], [0.8, -0.5, -INF]), views([0.3, 1.0], [0.8, -0.5])
    torch.testing.assert_close(loss(with_mask.log_softmax(2)), loss(without.log_softmax(2)))
    found = gradient_of(loss, with_mask)
    torch.testing.assert_close(found[..., :2], gradient_of(loss, without))
    assert (found[..., 2] == 0).all()


def test_entropy_and_divergence_of_known_distributions_with_a_zero() -> None:
    assert losses.entropy(log_p(0.5, 0.5, 0.0)[None]).item() == pytest.approx(math.log(2))
    seen = log_p(0.25, 0.75, 0.0).detach()[None, None]
    kl = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert losses.divergence(seen, TARGET).item() == pytest.approx(kl)
    assert losses.divergence(log_p(1.0, 0.0, 0.0)[None, None], TARGET).item() == INF  # t is not 0 where p is


def test_the_mix_with_the_source_rules_out_what_either_rules_out() -> None:
    mix = SourceMix(3, Settings(source_mix=1.0, information=0.2))
    ours, theirs = log_p(0.5, 0.5, 0.0)[None].detach(), log_p(0.2, 0.4, 0.4)[None].detach()
    half = torch.tensor([(0.5 * 0.2) ** 0.5, (0.5 * 0.4) ** 0.5, 0.0], dtype=torch.float64)
    expected = half / half.sum()  # the weight starts at one half
    assert torch.allclose(mix.picture(ours, theirs).exp()[0], expected)
    assert torch.allclose(mix.picture(theirs, ours).exp()[0], expected)
    unheeded = SourceMix(3, Settings(source_mix=0.0))
    assert torch.equal(unheeded.picture(theirs, ours), theirs.log_softmax(1))


# steps that are not finite


class Spoilt(TinyVideoModel):
    """While `spoil` is set, the logits are that number."""

    spoil: float | None = None

    def forward(self, frames: Tensor) -> Tensor:
        logits = super().forward(frames)
        return logits if self.spoil is None else logits * self.spoil


def spoilt() -> Spoilt:
    made = Spoilt()
    made.load_state_dict(trained().state_dict())
    return made.eval()


def estimates(model: Wrapped) -> Any:
    """The state without the counters of what this is about, a method's own and its members'."""
    return without_counts(copy.deepcopy(model.state()))


def without_counts(state: Any) -> Any:
    if not isinstance(state, dict):
        return state
    return {name: without_counts(value) for name, value in state.items() if name != "n_not_finite"}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("value", [math.nan, INF])
@pytest.mark.parametrize(("method", "way"), runs(METHODS, FUSIONS))
def test_a_clip_that_gives_no_number_changes_nothing_but_the_count(method: str, way: str, value: float) -> None:
    mine, untouched = spoilt(), adapting(method, way, spoilt())
    model = adapting(method, way, mine)
    for i in range(2):
        model(clip(i), SOUND)
        untouched(clip(i), SOUND)
    before, kept = weights(mine), estimates(model)
    mine.spoil = value
    answers = method == "audio_only"  # by ear, whatever is seen
    assert bool(model(clip(2), SOUND).isfinite().all()) == answers
    mine.spoil = None
    assert same_weights(mine, before)
    if answers:
        return
    assert same(estimates(model), kept)
    assert model.answer is not None
    assert model.n_not_finite == takes_gradients(method)
    if takes_gradients(method):
        assert (model.answer.stop_reason, model.answer.steps, model.trace) == ("not_finite", 0, [])
    for i in range(3, 5):  # the stream goes on as if the clip had not been
        assert torch.equal(model(clip(i), SOUND), untouched(clip(i), SOUND))
    model.reset()
    assert model.n_not_finite == 0


@pytest.mark.parametrize("method", [name for name in METHODS if takes_gradients(name)])
def test_a_gradient_that_is_not_finite_is_no_step_though_the_loss_is(method: str) -> None:
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return gradients[0] * INF

    class Overflowing(TinyVideoModel):
        def forward(self, frames: Tensor) -> Tensor:
            y: Tensor = Steep.apply(self.norm(self.conv(frames)))  # type: ignore[no-untyped-call]
            logits: Tensor = self.head(y.relu().mean((2, 3, 4)))
            return logits

    mine = Overflowing()
    mine.load_state_dict(trained().state_dict())
    before = weights(mine)
    model = wrapped(method, mine, **fitting(method, "trusted", entropy_margin=1.0, deyo_drop=-1.0, consistency=1.0))
    assert model(clip(), SOUND).isfinite().all()
    assert model.answer is not None and (model.answer.stop_reason, model.answer.steps) == ("not_finite", 0)
    assert same_weights(mine, before) and model.n_not_finite == 1
    assert isinstance(model.method.method, Learner) and all(p.grad is None for p in model.method.method.parameters)


@pytest.mark.parametrize("loss", [math.nan, INF])
def test_a_step_that_is_not_taken_leaves_weight_and_momentum(loss: float) -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    sgd = Sgd([weight], lr=0.1, momentum=0.5)
    assert sgd.step((weight * torch.tensor([1.0, 3.0])).sum())
    assert weight.tolist() == pytest.approx([0.9, 1.7])
    assert not sgd.step(weight.sum() * 0 + loss)  # the gradient is finite for inf, the loss is not
    assert weight.tolist() == pytest.approx([0.9, 1.7]) and sgd.n_refused == 1
    assert sgd.step((weight * torch.tensor([1.0, 3.0])).sum())
    assert weight.tolist() == pytest.approx([0.9 - 0.1 * 1.5, 1.7 - 0.1 * 4.5])  # v = 0.5 v + g
    assert not sgd.apply([torch.tensor([1.0, INF])], weight.sum())


def test_own_steps_of_audio_end_where_one_is_not_finite_and_the_streams_stays() -> None:
    class Later(Spoilt):
        looks = 0

        def forward(self, frames: Tensor) -> Tensor:
            self.looks += torch.is_grad_enabled() and len(frames) == 2  # both views
            self.spoil = math.nan if torch.is_grad_enabled() and self.looks == 2 else None
            return super().forward(frames)

    mine = Later()
    mine.load_state_dict(trained().state_dict())
    model = wrapped("audio", mine.eval(), cycle="fixed", max_iterations=4, lr=0.05)
    vitta = wrapped("vitta", trained(), fusion="none", lr=0.05)
    assert model(clip(), SOUND).isfinite().all()
    vitta(clip())
    assert model.answer is not None and (model.answer.stop_reason, model.answer.steps) == ("not_finite", 1)
    assert model.n_not_finite == 1
    assert same_weights(mine, weights(vitta.model))
