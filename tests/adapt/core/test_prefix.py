"""What no step can change runs once a clip, and is the same as if everything ran each time; which weights a scope
names.
"""

import copy
import dataclasses
import gc
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adapt
from adapt.contract import Block
from adapt.core._prefix import Prefix
from adapt.core.learner import Learner, adapted_parameters
from adapt.errors import MethodError
from adapt.losses import consistency
from tests import built
from tests.tiny import K, TinyVideoModel, batch, trained

LAST: dict[str, Any] = {"scope": "last", "lr": 0.05}


class Blocks(nn.Module):
    """Three blocks that count how many views they see; the second's norm is aligned."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv3d(3, 6, 3, padding=1), nn.BatchNorm3d(6)
        self.middle_norm, self.middle = nn.BatchNorm3d(6), nn.Conv3d(6, 6, 3, padding=1)
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(6, K)
        self.seen: Counter[str] = Counter()

    def start(self, frames: Tensor) -> Tensor:
        self.seen["start"] += len(frames)
        x: Tensor = self.stem_norm(self.stem(frames)).relu()
        return x

    def go_on(self, x: Tensor) -> Tensor:
        self.seen["go_on"] += len(x)
        y: Tensor = self.middle_norm(self.middle(x)).relu()
        return y

    def end(self, x: Tensor) -> Tensor:
        self.seen["end"] += len(x)
        logits: Tensor = self.head(self.dropout(x.mean((2, 3, 4))))
        return logits

    def blocks(self) -> list[Block]:
        return [
            Block(("stem", "stem_norm"), self.start),
            Block(("middle", "middle_norm"), self.go_on),
            Block(("dropout", "head"), self.end),
        ]

    def forward(self, frames: Tensor) -> Tensor:
        return self.end(self.go_on(self.start(frames)))

    def alignment_layers(self) -> list[str]:
        return ["middle_norm"]


class Whole(Blocks):
    """The same network without `blocks`."""

    blocks = None  # type: ignore[assignment]


def pair(dtype: torch.dtype = torch.float32) -> tuple[Blocks, Whole]:
    """The same trained weights with blocks and without."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parted = Blocks()
        for _ in range(10):
            parted.train()(torch.rand(8, 3, 4, 8, 8))
    whole = Whole()
    whole.load_state_dict(parted.state_dict())
    parted.seen.clear()
    return parted.to(dtype).eval(), whole.to(dtype).eval()


def build(name: str, model: nn.Module, settings: Mapping[str, Any] = LAST) -> Learner:
    method = built.alone(name, model, None, K, **built.fitting(name, **settings))
    assert isinstance(method, Learner)
    return method


def same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=1e-6)


def test_five_steps_and_the_prediction_run_what_is_frozen_once_a_view() -> None:
    model, _ = pair()
    method = build("vitta", model)
    for n_clips in (1, 2):
        clip = batch(n_clips)
        for _ in range(5):
            method.optimiser.step(consistency(method.look(clip).log_p))  # type: ignore[attr-defined]
        method.predict(clip)
        method.predict(clip)
        # two views and the centre view through the stem; both views five times and the centre twice through what adapts
        assert model.seen == {"start": 3 * n_clips, "go_on": 12 * n_clips, "end": 12 * n_clips}


def test_every_method_that_takes_gradients_answers_as_without_reuse() -> None:
    for name in ("vitta", "vitta_dua", "tent", "eata", "sar", "roid", "cmf", "deyo", "shot", "audio"):
        for scope in ("last", "last_norm", "norm", "all"):
            lr = 0.05 if name in ("vitta", "audio") else 0.01
            settings = {
                "scope": scope,
                "lr": lr,
                "entropy_margin": 1.1,
                "eata_similarity": 1.1,
                "deyo_drop": -1.0,
                "sar_reset": 0.0,
                "sar_frozen": 0.0,
            }
            parted, whole = (build(name, model, settings) for model in pair())
            for seed in range(3):
                mine, reference = parted.adapt(batch(seed, heard=1)), whole.adapt(batch(seed, heard=1))
                assert same(mine.before, reference.before) and same(mine.after, reference.after), (name, scope)


def test_gradients_are_those_without_reuse() -> None:
    parted, whole = pair(torch.float64)
    clip = batch(0)
    clip = dataclasses.replace(clip, frames=clip.frames.double(), centre=clip.centre.double())
    gradients = []
    for model in (parted, whole):
        method = build("vitta", model)
        for _ in range(2):  # the second from what the first has left
            views = method.look(clip)  # type: ignore[attr-defined]
            loss = views.log_p.square().sum() + sum(
                mean.sum() + variance.sum() for mean, variance in views.seen.values()
            )
            gradients.append(torch.autograd.grad(loss, method.parameters))
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in zip(gradients[0], gradients[2], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(gradients[0], gradients[1], strict=True))


def test_what_is_kept_goes_when_the_next_clip_comes() -> None:
    model, _ = pair()
    outputs: list[weakref.ref[Tensor]] = []
    start = model.start

    def watched(frames: Tensor) -> Tensor:
        x = start(frames)
        outputs.append(weakref.ref(x))
        return x

    model.start = watched  # type: ignore[method-assign]
    method = build("vitta", model)
    for seed in range(4):
        method.adapt(batch(seed))
        gc.collect()
        assert [ref() is not None for ref in outputs] == [False] * 2 * seed + [True] * 2


def test_another_sound_of_the_same_frames_is_the_same_clip() -> None:
    model, whole = pair()
    prefix, clip = Prefix(model.requires_grad_(False)), batch(0)
    prefix.views(clip)
    prefix.views(dataclasses.replace(clip, mass=torch.ones(1)))
    assert model.seen["start"] == 2
    clip.frames.mul_(0.5)
    assert same(prefix.views(clip), whole(clip.frames[0]))
    assert model.seen["start"] == 4


@pytest.mark.parametrize("change", ["reset", "load_state", "frozen"])
def test_answers_follow_the_weights_however_they_change(change: str) -> None:
    model, whole = pair()
    method, clip = build("vitta", model), batch(0)
    state = method.state()
    method.adapt(clip)
    if change == "frozen":
        with torch.no_grad():
            model.stem.weight.mul_(1.5)
    elif change == "reset":
        method.reset()
    else:
        method.load_state(state)
    whole.load_state_dict(model.state_dict())
    assert same(method.predict(clip), whole(clip.centre[:, 0]).log_softmax(1))
    assert same(method.forward_views(clip)[0], whole(clip.frames[0]).log_softmax(1))


def test_a_clips_own_batch_norm_statistics_are_kept_apart_from_the_sources() -> None:
    model, whole = pair()
    clip = batch(0)
    plain, mixing = build("vitta", model), build("tent", model, LAST | {"bn_prior": 1.0})
    mixing.network = plain.network
    expected = build("tent", whole, LAST | {"bn_prior": 1.0}).predict(clip)
    for _ in range(2):
        assert same(plain.predict(clip), whole(clip.centre[:, 0]).log_softmax(1))
        assert same(mixing.predict(clip), expected)
    assert not torch.allclose(plain.predict(clip), mixing.predict(clip), atol=1e-3)


def test_a_later_block_that_works_in_place_spoils_nothing() -> None:
    model, whole = pair()
    go_on = model.go_on
    model.go_on = lambda x: go_on(x.mul_(1.0).add_(0.0))  # type: ignore[method-assign]
    method, reference, clip = build("vitta", model), build("vitta", whole), batch(0)
    for _ in range(2):
        assert same(method.predict(clip), reference.predict(clip))
        model.go_on = lambda x: go_on(x.clone()) + 0 * x.zero_()  # type: ignore[method-assign]


def test_noise_hooks_and_weights_outside_every_block_are_seen_by_each_forward() -> None:
    model, _ = pair()
    model.requires_grad_(False)
    prefix, clip, calls = Prefix(model), batch(0), []
    prefix.views(clip)
    handle = model.stem.register_forward_hook(lambda *given: calls.append(len(given)))
    prefix.views(clip)
    prefix.views(clip)
    assert len(calls) == 2
    handle.remove()
    model.dropout.train()
    model.seen.clear()
    assert not torch.equal(prefix.views(clip), prefix.views(clip))
    assert model.seen == {"start": 2, "go_on": 2, "end": 4}
    model.eval()
    model.extra = nn.Parameter(torch.ones(1))
    prefix = Prefix(model)
    model.seen.clear()
    prefix.views(clip)
    prefix.views(clip)
    assert model.seen["start"] == 4


def test_a_model_whose_blocks_are_a_module_of_its_own_runs_whole() -> None:
    class WithModuleList(TinyVideoModel):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList()

    model = WithModuleList()
    model.load_state_dict(trained().state_dict())
    assert same(build("vitta", model, {}).predict(batch(0)), trained()(batch(0).centre[:, 0]).log_softmax(1))


def test_wrapping_keeps_the_blocks_between_prepare_and_read() -> None:
    model, whole = pair()
    prepared: Counter[str] = Counter()

    def prepare(name: str) -> Callable[[Tensor], Tensor]:
        def half(frames: Tensor) -> Tensor:
            prepared[name] += len(frames)
            return frames / 2

        return half

    names, frames = ["a", "b", "c", "d"], batch(0).frames[:, 0]
    options: dict[str, Any] = {
        "classes": names,
        "read": lambda logits: 2 * logits,
        "scope": "last",
        "lr": 0.05,
        "members": "none",
    }
    mine = adapt.wrap(model, "audio", prepare=prepare("parted"), **options)
    reference = adapt.wrap(whole, "audio", prepare=prepare("whole"), **options)
    for _ in range(2):
        assert same(mine(frames, {"b": 0.9}), reference(frames, {"b": 0.9}))
    assert len(mine.trace) > 1
    assert prepared["parted"] == model.seen["start"] == 6  # two clips, each two views and the centre
    assert prepared["whole"] > 6
    with pytest.raises(MethodError, match=r"answers \(\d, 4\) to \d clips, \(\d, 3\) is wanted"):
        adapt.wrap(copy.deepcopy(pair()[0]), "vitta", classes=names[:3], scope="last")(frames)


def names_of(model: nn.Module, scope: str) -> list[str]:
    chosen = {id(parameter) for parameter in adapted_parameters(model, scope)}
    return [name for name, parameter in model.named_parameters() if id(parameter) in chosen]


def test_scopes_name_the_weights_that_they_say() -> None:
    model, _ = pair()
    middle_norm, rest = (
        ["middle_norm.weight", "middle_norm.bias"],
        ["middle.weight", "middle.bias", "head.weight", "head.bias"],
    )
    assert names_of(model, "norm") == ["stem_norm.weight", "stem_norm.bias", *middle_norm]
    assert names_of(model, "last_norm") == middle_norm
    assert names_of(model, "last") == [*middle_norm, *rest]
    assert names_of(model, "all") == [name for name, _ in model.named_parameters()]


def test_without_blocks_the_last_weights_begin_with_the_first_aligned_layer() -> None:
    _, model = pair()
    assert names_of(model, "last_norm") == ["middle_norm.weight", "middle_norm.bias"]
    assert names_of(model, "last") == names_of(pair()[0], "last")
    assert names_of(trained(), "last") == ["norm.weight", "norm.bias", "head.weight", "head.bias"]


def test_unknown_and_empty_scopes_are_refused() -> None:
    with pytest.raises(MethodError, match=r"scope 'head': choose one of \['norm', 'last_norm', 'last', 'all'\]"):
        adapted_parameters(trained(), "head")
    with pytest.raises(MethodError, match="has no norm layer with weights: set scope to 'all'"):
        adapted_parameters(nn.Linear(2, 2), "norm")
    with pytest.raises(MethodError, match="has no norm layer to align"):
        adapted_parameters(nn.Linear(2, 2), "last")
