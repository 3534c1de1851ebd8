"""A head of other classes: its probabilities summed by a class map, for every method and fusion."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adapt
from adapt import fusion, methods
from adapt.core.class_map import ClassMapped, Pairs, shares_of
from adapt.errors import MethodError
from tests import built
from tests.adapt.core.test_prefix import Blocks
from tests.tiny import K, TinyVideoModel, batch, same_weights, trained, weights

NO_HEAD = [
    "source",
    "norm",
    "dua",
    "tent",
    "eata",
    "sar",
    "deyo",
    "roid",
    "cmf",
    "vitta",
    "vitta_dua",
    "audio",
    "ensemble",
]
NAMES = ["dog", "rain"]
HEAD = ["poodle", "beagle", "drizzle", "teapot"]
LEADS = {"poodle": "dog", "beagle": "dog", "drizzle": "rain"}
FRAMES = torch.rand(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(3))


class Says(nn.Module):
    """Answers the same to every clip."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, frames: Tensor) -> Tensor:
        return self.logits.expand(len(frames), -1)


def says(*p: float) -> Says:
    return Says(torch.tensor(p).log())


def mapped(model: nn.Module, pairs: Pairs, n_head: int = 4, n_classes: int = 2) -> ClassMapped:
    return ClassMapped(model, n_head, n_classes, pairs)


def test_a_class_has_the_sum_of_its_head_classes_and_the_unmapped_is_left_out() -> None:
    network = mapped(says(0.4, 0.3, 0.2, 0.1), [(0, 0, 1.0), (1, 0, 1.0), (2, 1, 1.0)])
    p = network(FRAMES).exp()
    assert p[0].tolist() == pytest.approx([0.7 / 0.9, 0.2 / 0.9])
    assert network.left_out() == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("pairs", "expected", "left_out"),
    [
        ([(0, 0, 1.0), (0, 1, 1.0), (1, 0, 1.0)], [0.2 + 0.3, 0.2], 0.3),  # 0.4 is shared, not counted twice
        ([(0, 0, 0.75), (0, 1, 0.5), (1, 0, 1.0)], [0.24 + 0.3, 0.16], 0.3),  # as 3 to 2
        ([(0, 0, 0.5), (0, 1, 0.25), (2, 1, 1.0)], [0.2, 0.1 + 0.2], 0.5),  # weights below 1 as they are
    ],
)
def test_a_head_class_of_several_classes_is_shared(pairs: Pairs, expected: list[float], left_out: float) -> None:
    network = mapped(says(0.4, 0.3, 0.2, 0.1), pairs)
    assert network(FRAMES).exp()[0].tolist() == pytest.approx([x / sum(expected) for x in expected])
    assert network.left_out() == pytest.approx(left_out)


def test_shares_of_a_head_class_never_sum_above_one() -> None:
    shares = shares_of([(0, 0, 1.0), (0, 1, 0.6), (0, 2, 0.4), (1, 0, 0.3)], 2, 3)
    assert shares.tolist() == pytest.approx([0.5, 0.3, 0.2, 0.3])


def test_extreme_logits_lose_no_class_and_have_the_gradients_of_the_plain_formula() -> None:
    logits = torch.tensor([[300.0, 0.0, -300.0, 20.0]], dtype=torch.float64, requires_grad=True)
    pairs = [(0, 0, 0.5), (1, 1, 1.0), (2, 1, 0.25), (3, 2, 1.0)]
    network = mapped(nn.Identity(), pairs, n_classes=3)
    found = network.mapped(logits)
    terms = logits + torch.tensor([0.5, 1.0, 0.25, 1.0]).double().log()
    classes = torch.stack([terms[0, 0], torch.logsumexp(terms[0, 1:3], 0), terms[0, 3]])
    assert torch.allclose(found[0], classes.log_softmax(0), rtol=1e-12)
    assert torch.autograd.gradcheck(lambda x: network.mapped(x), logits)


def test_classes_that_nothing_leads_to_or_the_head_masks_are_ruled_out_without_harm() -> None:
    logits = torch.tensor([[1.0, 2.0, -math.inf, 0.0]], requires_grad=True)
    found = mapped(nn.Identity(), [(0, 0, 1.0), (1, 1, 1.0), (2, 2, 1.0)], n_classes=4).mapped(logits)
    expected = torch.tensor([1.0, 2.0]).log_softmax(0).tolist()
    assert found[0].tolist() == pytest.approx([*expected, -math.inf, -math.inf])
    found[0, 0].backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())


class Split(TinyVideoModel):
    """A model whose head says each class twice, each time with half of its probability."""

    def forward(self, frames: Tensor) -> Tensor:
        logits = super().forward(frames) - math.log(2)
        return torch.cat([logits, logits], 1)


class Normalised(TinyVideoModel):
    """Its logits are log-probabilities, as those of a class map are: ROID multiplies logits."""

    def forward(self, frames: Tensor) -> Tensor:
        return super().forward(frames).log_softmax(1)


def same(kind: type[TinyVideoModel]) -> TinyVideoModel:
    """A model of that kind with the weights of `trained`."""
    made = kind().eval()
    made.load_state_dict(trained().state_dict())
    return made


def split() -> ClassMapped:
    made = same(Split)
    return ClassMapped(made, 2 * K, K, [(i, i % K, 1.0) for i in range(2 * K)])


@pytest.mark.parametrize("name", [*NO_HEAD, "audio_only"])
def test_a_head_that_splits_each_class_in_two_gives_the_same_answers(name: str) -> None:
    for fused in fusion.names():
        plain, other = same(Normalised), split()
        methods_of = [built.fused(name, fused, model, None, K) for model in (plain, other)]
        for i, heard in enumerate([2, None, 1]):
            answers = []
            for method in methods_of:
                torch.manual_seed(i)  # of noise that a method adds
                answers.append(method.adapt(batch(i, heard)))
            for field in ("before", "after", "fused"):
                ours, theirs = (getattr(answer, field) for answer in answers)
                assert (ours is None) == (theirs is None)
                assert ours is None or torch.allclose(ours.softmax(1), theirs.softmax(1), atol=2e-5), (fused, field)
        assert other.left_out() == pytest.approx(0, abs=1e-6)


def test_every_method_is_tried_or_needs_a_head_or_labels() -> None:
    others = {"t3a", "shot", "neo", "firm", "audio_only"}
    assert {name for name in methods.names() if not methods.needs_labels(name)} == set(NO_HEAD) | others


@pytest.mark.parametrize("name", ["t3a", "shot", "neo", "firm"])
def test_methods_that_work_on_the_heads_rows_say_that_a_class_map_lies_behind_it(name: str) -> None:
    with pytest.raises(MethodError, match="the head of Split has 8 classes of its own, which a class map leads to 4"):
        built.alone(name, split(), None, K)


def test_shot_without_labels_needs_no_head() -> None:
    answer = built.alone("shot", split(), None, K, shot_labels=0.0).adapt(batch(0))
    assert answer.after.shape == (1, K)


def test_blocks_run_one_after_the_other_are_the_network_with_its_class_map() -> None:
    network = ClassMapped(Blocks().eval(), K, 2, [(0, 0, 1.0), (2, 1, 0.5), (3, 1, 1.0)])
    x = FRAMES
    for block in network.blocks():
        x = block.run(x)
    assert torch.equal(x, network(FRAMES))
    assert [block.modules for block in network.blocks()][-1] == ("model.dropout", "model.head")
    assert ClassMapped(trained(), K, 2, [(0, 0, 1.0)]).blocks() == []


def wrapped(model: nn.Module | None = None, method: str = "audio", **options: Any) -> adapt.Wrapped:
    given: dict[str, Any] = {"classes": NAMES, "model_classes": HEAD, "class_map": LEADS} | options
    made: adapt.Wrapped = adapt.wrap(trained() if model is None else model, method, **given)
    return made


def test_wrap_answers_the_callers_classes_and_says_what_was_left_out() -> None:
    p = trained()(FRAMES).detach().softmax(1)[0]
    model = wrapped(method="source", fusion="plain", predict="alone")
    told = torch.stack([p[0] + p[1], p[2]])
    assert torch.allclose(model(FRAMES, {"rain": 0.9}).exp()[0], told / told.sum())
    assert model.answer is not None and model.answer.left_out == pytest.approx(float(p[3]))
    assert adapt.wrap(trained(), "source", classes=HEAD)(FRAMES).shape == (1, 4)


def test_wrap_adapts_the_models_own_weights_and_resets_them_bit_for_bit() -> None:
    mine = trained()
    before, model = weights(mine), wrapped(mine)
    model(FRAMES, {"rain": 0.9})
    assert model.trace and not same_weights(mine, before)
    assert model.state_dict().keys() == before.keys()
    model.reset()
    assert same_weights(mine, before)


def test_wrap_with_prepare_read_layers_and_statistics_keeps_the_users_names() -> None:
    statistics = adapt.source_statistics(trained(), [FRAMES], layers=["norm"])
    plain = wrapped(statistics=statistics)
    around = wrapped(
        statistics=statistics, layers=["norm"], prepare=lambda frames: frames, read=lambda logits: logits + 1.0
    )
    assert torch.allclose(plain(FRAMES, {"dog": 0.9}), around(FRAMES, {"dog": 0.9}), atol=1e-5)


def test_a_moved_model_takes_its_class_map_along() -> None:
    model = wrapped().double()
    assert model(FRAMES.double(), {"dog": 0.9}).dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_map": None}, "model_classes and class_map go together"),
        ({"model_classes": ()}, "model_classes and class_map go together"),
        ({"class_map": {"cat": "dog"}}, "class_map names 'cat', which is not among model_classes"),
        ({"class_map": {"poodle": "cat"}}, "class_map names 'cat', which is not among classes"),
        ({"class_map": {}}, "the class map is empty"),
        ({"class_map": {"poodle": {"dog": 1.5}}}, "with weight 1.5: give"),
        ({"class_map": {"poodle": {"dog": math.nan}}}, "with weight nan: give"),
    ],
)
def test_a_class_map_that_does_not_fit_is_one_clear_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        wrapped(**options)


def test_a_head_of_another_size_than_its_names_is_one_clear_error() -> None:
    model = wrapped(model_classes=[*HEAD, "kettle"])
    with pytest.raises(MethodError, match=r"answers \(1, 4\) to 1 clips, \(1, 5\) is wanted: model_classes= has 5"):
        model(FRAMES)


@pytest.mark.parametrize("pairs", [[(0, 0, 1.0), (0, 0, 0.5)], [(4, 0, 1.0)], [(0, 2, 1.0)], [(-1, 0, 1.0)]])
def test_a_pair_twice_or_out_of_place_is_an_error(pairs: Pairs) -> None:
    with pytest.raises(MethodError, match="twice|of 4 and 2 classes"):
        shares_of(pairs, 4, 2)


class Layered(nn.Module):
    """A network without batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(3), nn.Linear(3, 4)

    def forward(self, frames: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(frames.mean((2, 3, 4))))
        return logits


def test_audio_on_a_network_without_batch_norm_says_which_members_need_no_head() -> None:
    statistics = adapt.source_statistics(Layered(), [FRAMES])
    with pytest.raises(MethodError, match="of ensemble and audio, members 'source'"):
        wrapped(Layered(), statistics=statistics)
    assert wrapped(Layered(), statistics=statistics, members="source")(FRAMES, {"dog": 0.9}).shape == (1, 2)
