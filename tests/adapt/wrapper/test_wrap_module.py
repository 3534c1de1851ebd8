"""A wrapped model is an nn.Module: to the rest of torch it is the network; what the method remembers moves along."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adapt
from adapt import backbones, fusion, methods
from adapt.errors import MethodError
from adapt.wrapper import Wrapped
from tests.adapt.wrapper.test_wrap import NAMES, SOUND, clip, wrapped
from tests.built import fitting
from tests.pairs import runs
from tests.tiny import K, TinyVideoModel, same_weights, trained, weights

METHODS = [name for name in methods.names() if not methods.needs_labels(name)]
FUSIONS = fusion.names()


def adapting(method: str, way: str = "trusted", model: nn.Module | None = None) -> Wrapped:
    """With settings under which every method does something."""
    chosen = fitting(method, way, lr=0.05, entropy_margin=1.0, collapse_entropy=0.1, ensemble=0.9)
    return wrapped(method, model, fusion=way, **chosen)


def after(model: Wrapped, n_clips: int, dtype: torch.dtype = torch.float32, start: int = 0) -> list[Tensor]:
    """The answers to clips `start` to `start + n_clips`."""
    return [model(clip(i).to(dtype), SOUND) for i in range(start, start + n_clips)]


def tensors(value: Any) -> list[Tensor]:
    """All tensors in a state."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [tensor for item in items for tensor in tensors(item)]


def test_state_dict_parameters_and_buffers_are_the_networks_own() -> None:
    mine = trained()
    model = wrapped("vitta", mine)
    model(clip())
    assert isinstance(model, nn.Module)
    assert list(model.state_dict()) == list(mine.state_dict()) == list(TinyVideoModel().state_dict())
    assert same_weights(mine, model.state_dict())
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in mine.named_parameters()]
    assert [id(p) for p in model.parameters()] == [id(p) for p in mine.parameters()]
    assert [name for name, _ in model.named_buffers()] == [name for name, _ in mine.named_buffers()]
    TinyVideoModel().load_state_dict(model.state_dict())


def test_loading_a_state_dict_sets_the_weights_and_not_what_reset_gives_back() -> None:
    mine, other = trained(), TinyVideoModel()
    source, model = weights(mine), wrapped("tent", mine)
    assert str(model.load_state_dict(other.state_dict())) == "<All keys matched successfully>"
    assert same_weights(mine, other.state_dict())
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "conv.weight"'):
        model.load_state_dict({})
    with pytest.raises(MethodError, match="assign=True"):
        model.load_state_dict(other.state_dict(), assign=True)
    model.reset()
    assert torch.equal(mine.norm.weight, source["norm.weight"])  # these two adapt
    assert torch.equal(mine.norm.bias, source["norm.bias"])


def test_inside_another_module_its_state_dict_has_the_networks_names() -> None:
    def outer() -> nn.ModuleDict:
        return nn.ModuleDict({"seen": wrapped("vitta"), "rest": nn.Linear(2, 2)})

    one, other = outer(), outer()
    one["seen"](clip(), SOUND)
    assert "seen.norm.weight" in one.state_dict() and "seen.model.norm.weight" not in one.state_dict()
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.state_dict()["seen.norm.weight"], one.state_dict()["seen.norm.weight"])


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("method", ["tent", "vitta", "audio", "source"])
def test_train_and_eval_neither_stop_nor_start_adapting(method: str, mode: str) -> None:
    plain, switched = adapting(method), adapting(method)
    getattr(switched, mode)()
    assert switched.training == (mode == "train")
    for expected, found in zip(after(plain, 2), after(switched, 2), strict=True):
        assert torch.equal(expected, found)
    assert len(switched.trace) == len(plain.trace)
    assert not switched.model.training


def test_a_network_that_its_owner_puts_in_training_mode_answers_as_ever() -> None:
    mine = trained()
    model, expected = adapting("vitta", model=mine), after(adapting("vitta"), 2)
    mine.train()
    assert all(torch.equal(a, b) for a, b in zip(after(model, 2), expected, strict=True))
    assert mine.norm.num_batches_tracked == trained().norm.num_batches_tracked


def test_dropout_is_as_the_setting_says_whatever_the_mode() -> None:
    class Dropping(TinyVideoModel):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.9)

        def forward(self, frames: Tensor) -> Tensor:
            logits: Tensor = self.head(self.drop(self.norm(self.conv(frames)).relu().mean((2, 3, 4))))
            return logits

    def loss(seed: int, dropout: bool, train: bool) -> float:
        torch.manual_seed(0)
        model = wrapped("vitta", Dropping(), fusion="none", dropout=dropout).train(train)
        torch.manual_seed(seed)
        model(clip())
        return float(model.trace[0].loss)

    assert loss(1, False, True) == loss(2, False, True) == loss(1, False, False)
    assert loss(1, True, False) != loss(2, True, False)
    assert loss(1, True, False) == loss(1, True, True)


@pytest.mark.parametrize("way", FUSIONS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow
def test_moving_in_the_middle_of_a_stream_keeps_the_state(method: str, way: str) -> None:
    moved, unmoved = adapting(method, way), adapting(method, way)
    for model in (moved, unmoved):
        after(model, 3)
    before = tensors(moved.state())
    assert moved.double() is moved
    found = tensors(moved.state())
    assert all(torch.equal(a.double(), b.double()) for a, b in zip(before, found, strict=True))
    assert {tensor.dtype for tensor in found if tensor.is_floating_point()} <= {torch.float64}
    one, other = after(moved, 2, torch.float64, start=3), after(unmoved, 2, start=3)
    for a, b in zip(one, other, strict=True):
        assert a.dtype == torch.float64
        torch.testing.assert_close(a.softmax(1), b.double().softmax(1), rtol=1e-3, atol=1e-4)
    moved.reset()
    assert same_weights(moved.model, weights(trained().double()))


def test_a_stream_moved_to_float64_answers_as_one_moved_before_it() -> None:
    """Only the first step is in float32: what the move forgot of momentum and moments would show."""
    early, late = wrapped("vitta", lr=0.05).to(torch.float64), wrapped("vitta", lr=0.05)
    first = clip()
    early(first.double(), SOUND)
    late(first, SOUND)
    late.to(torch.float64)
    for a, b in zip(after(early, 3, torch.float64, 1), after(late, 3, torch.float64, 1), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    forgetful = wrapped("vitta", lr=0.05).double()
    forgetful(first.double(), SOUND)
    forgetful.method.method.optimiser.reset()  # type: ignore[attr-defined]
    assert (after(forgetful, 1, torch.float64, 1)[0] - after(late, 1, torch.float64, 1)[0]).abs().max() > 1e-4


def test_moving_a_module_that_holds_it_moves_it_too() -> None:
    model = wrapped("vitta")
    model(clip(), SOUND)
    nn.Sequential(model).double()
    assert all(t.dtype == torch.float64 for t in tensors(model.state()["method"]))
    assert all(torch.isfinite(answer).all() for answer in after(model, 2, torch.float64))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("way", FUSIONS)
@pytest.mark.parametrize("method", METHODS)
def test_moving_to_cuda_in_the_middle_of_a_stream_keeps_the_state(method: str, way: str) -> None:
    moved, unmoved = adapting(method, way), adapting(method, way)
    for model in (moved, unmoved):
        after(model, 3)
    moved.cuda()
    for i in range(3, 5):
        a, b = moved(clip(i).cuda(), SOUND), unmoved(clip(i), SOUND)
        torch.testing.assert_close(a.softmax(1).cpu(), b.softmax(1), rtol=1e-2, atol=1e-2)
    moved.reset()
    assert same_weights(moved.model.cpu(), weights(trained()))


def test_a_move_that_replaces_the_parameters_is_one_clear_line() -> None:
    with pytest.raises(MethodError, match="replaced the parameters that adapt: move the network first"):
        wrapped("vitta").to("meta")


def tanet() -> nn.Module:
    """A network of blocks, some of which run once a clip."""
    torch.manual_seed(0)
    return backbones.build("tanet", K, 4).eval()


def blocks_adapting() -> Wrapped:
    made: Wrapped = adapt.wrap(tanet(), "audio", classes=NAMES, scope="last", lr=0.01)
    return made


COPIES = [(kind, "deepcopy") for kind in ("tiny", "blocks", "prepared")] + [
    (kind, "pickle") for kind in ("tiny", "blocks")
]


@pytest.mark.parametrize(("kind", "copied"), COPIES)
def test_a_copy_goes_on_alike_and_apart(kind: str, copied: str) -> None:
    frames = torch.rand(4, 1, 3, 4, 32, 32)
    if kind == "prepared":
        model = wrapped("audio", tanet(), scope="last", prepare=nn.Identity(), read=torch.clone)
    else:
        model = wrapped("audio", lr=0.01) if kind == "tiny" else blocks_adapting()
    model(frames[0], SOUND)
    other: Wrapped = copy.deepcopy(model) if copied == "deepcopy" else pickle.loads(pickle.dumps(model))
    kept, first = weights(model.model), other(frames[1], SOUND)
    assert same_weights(model.model, kept)  # the copy's step is not ours
    assert torch.equal(model(frames[1], SOUND), first)
    other(frames[2], SOUND)
    other.reset()
    source = weights(trained() if kind == "tiny" else tanet())
    assert same_weights(other.model, source)
    assert not same_weights(model.model, source)


@pytest.mark.parametrize(("method", "way"), runs(METHODS, FUSIONS))
def test_a_state_survives_pickling_and_goes_on_bit_for_bit(method: str, way: str) -> None:
    model = adapting(method, way)
    after(model, 3)
    other = adapting(method, way)
    other.load_state(pickle.loads(pickle.dumps(copy.deepcopy(model.state()))))
    assert all(torch.equal(a, b) for a, b in zip(after(other, 2, start=3), after(model, 2, start=3), strict=True))


def in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize(("cover", "message"), [
    (lambda model: torch.compile(model, backend="eager"), r"the model \(OptimizedModule\) wraps .* _orig_mod"),
    (nn.DataParallel, r"the model \(DataParallel\) wraps a network, .*: pass its attribute module"),
    (lambda model: nn.Sequential(nn.DataParallel(model)), r"0 \(DataParallel\) wraps"),
    (in_place, r"the model \(TinyVideoModel\) was compiled by its method compile"),
])  # fmt: skip
def test_a_network_in_the_wrapper_of_another_is_one_clear_line(cover: Any, message: str) -> None:
    with pytest.raises(MethodError, match=message) as caught:
        wrapped(model=cover(trained()))
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_lazy_network_is_refused_until_it_has_weights() -> None:
    model = nn.Sequential(nn.LazyBatchNorm3d(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.LazyLinear(K))
    with pytest.raises(MethodError, match=r"0 \(LazyBatchNorm3d\) is lazy and has no weights yet: forward one clip"):
        wrapped(model=model)
    model(torch.rand(2, 3, 4, 8, 8))
    assert wrapped("vitta", model.eval())(clip()).shape == (1, K)
