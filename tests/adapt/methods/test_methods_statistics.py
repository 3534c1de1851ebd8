"""Methods whose statistics follow the stream without a gradient, DUA and NEO: expected values are torch's own training
mode, or worked out by hand.
"""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.contract import SourceStatistics
from adapt.core.batch_norm import Buffers
from adapt.errors import MethodError
from adapt.methods import dua, neo, vitta, vitta_dua
from adapt.methods.dua import Dua
from adapt.methods.neo import Neo
from adapt.methods.vitta import Vitta
from adapt.methods.vitta_dua import VittaDua
from tests.tiny import K, TinyVideoModel, batch, same_weights, trained, weights

BUFFERS = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


# dua


def test_dua_is_torchs_training_mode_with_a_momentum_that_decays() -> None:
    model, by_hand = trained(), trained()
    method = Dua(model, dua.Settings(dua_momentum=0.3, dua_decay=0.5, dua_floor=0.01))
    for n in range(1, 5):
        by_hand.norm.momentum = 0.3 * 0.5**n + 0.01
        with torch.no_grad():
            by_hand.train()(batch(n).frames[0])
            expected = by_hand.eval()(batch(n).centre[:, 0]).log_softmax(1)
        answer = method.adapt(batch(n))
        assert torch.allclose(answer.after, expected, atol=1e-6)
        assert all(torch.allclose(value, by_hand.state_dict()[name]) for name, value in model.state_dict().items())
        assert not any(module.training for module in model.modules())
    assert model.norm.momentum == TinyVideoModel().norm.momentum


def test_the_published_momentum_of_dua_is_that_of_the_authors_loop() -> None:
    method = Dua(trained(), dua.Settings(dua_floor=0.005))
    decayed = 0.1
    for n in range(5):
        decayed *= 0.94  # mom_new = mom_pre * decay_factor; m.momentum = mom_new + min_mom
        assert method.follower.momentum() == pytest.approx(decayed + 0.005)
        method.adapt(batch(n))


def test_dua_changes_the_statistics_of_batch_norm_and_no_weight() -> None:
    model = trained()
    before, method = weights(model), Dua(model, dua.Settings())
    method.adapt(batch())
    assert changed(model, before) == BUFFERS
    method.reset()
    assert same_weights(model, before) and method.follower.n_batches == 0


def test_under_dua_a_shifted_stream_is_normalised_to_mean_0_and_std_1_in_the_end() -> None:
    """The paper's claim (figure 2): the shifted features' distribution is brought back onto the source's."""
    model = trained()
    nn.init.ones_(model.norm.weight)
    nn.init.zeros_(model.norm.bias)
    outputs: list[Tensor] = []
    model.norm.register_forward_hook(lambda m, i, o: outputs.append(o.detach()))
    method = Dua(model, dua.Settings(dua_floor=0.1))
    for seed in range(120):
        clip = batch(seed)
        method.adapt(dataclasses.replace(clip, frames=clip.frames * 3 + 5, centre=clip.centre * 3 + 5))
        if seed == 0:
            assert outputs[1].mean((0, 2, 3, 4)).abs().max() > 1  # the second forward of a clip is in eval mode
    last = outputs[-1]
    assert last.mean((0, 2, 3, 4)).abs().max() < 0.2
    assert (last.std((0, 2, 3, 4)) - 1).abs().max() < 0.1


def test_the_answer_before_is_the_mean_of_views_by_the_followed_statistics() -> None:
    model = trained()
    answer = Dua(model, dua.Settings()).adapt(batch())
    with torch.no_grad():
        expected = model(batch().frames[0]).softmax(1).mean(0, keepdim=True)
    assert torch.allclose(answer.before.exp(), expected, atol=1e-6)


def test_without_batch_norm_dua_and_vitta_on_dua_say_what_to_choose() -> None:
    model = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, K))
    known = SourceStatistics({"0": (torch.zeros(3), torch.ones(3))})
    with pytest.raises(MethodError, match="^dua: Sequential has no batch norm layer .*: choose neo, which needs none$"):
        Dua(model, dua.Settings())
    with pytest.raises(MethodError, match="^vitta_dua: Sequential has no batch norm layer"):
        VittaDua(model, known, vitta_dua.Settings())


def test_one_value_a_channel_is_a_clear_error_that_changes_nothing() -> None:
    layers = (nn.BatchNorm3d(3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, K))
    model = nn.Sequential(*layers)
    before = weights(model)
    with pytest.raises(MethodError, match="batch norm '3' sees one value a channel"):
        Dua(model, dua.Settings()).adapt(dataclasses.replace(batch(), frames=batch().centre))
    assert same_weights(model, before) and not model[0].training


def test_a_state_of_another_models_statistics_is_a_clear_error() -> None:
    wide = nn.Sequential(nn.BatchNorm3d(7))
    with pytest.raises(MethodError, match="the state's 3 batch norm statistics are not the 3 of this model"):
        Buffers(trained()).load_state(Buffers(wide).state())


# vitta_dua


def test_vitta_on_dua_is_duas_statistics_and_then_vittas_step() -> None:
    ours, by_hand = trained(), trained()
    method = VittaDua(ours, None, vitta_dua.Settings(lr=0.01))
    step = Vitta(by_hand, None, vitta.Settings(lr=0.01))
    for n in range(1, 4):
        by_hand.norm.momentum = 0.1 * 0.94**n + 0.02
        by_hand.norm.train()
        with torch.no_grad():
            by_hand(batch(n).frames[0])
        by_hand.norm.eval()
        expected, answer = step.adapt(batch(n)), method.adapt(batch(n))
        assert torch.allclose(answer.after, expected.after, atol=1e-6)
        assert torch.allclose(answer.before, expected.before, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours.parameters(), by_hand.parameters(), strict=True))


def test_without_momentum_vitta_on_dua_is_vitta() -> None:
    ours, plain = trained(), trained()
    settings = vitta_dua.Settings(lr=0.01, dua_momentum=0.0, dua_floor=0.0)
    method, other = VittaDua(ours, None, settings), Vitta(plain, None, vitta.Settings(lr=0.01))
    for n in range(3):
        assert torch.equal(method.adapt(batch(n)).after, other.adapt(batch(n)).after)


# neo


class Colours(nn.Module):
    """The first two channels' means are the features, through no norm at all."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
            self.head.bias.copy_(torch.tensor([0.5, 0.0]))

    def forward(self, frames: Tensor) -> Tensor:
        logits: Tensor = self.head(frames[:, :2].mean((2, 3, 4)))
        return logits


def coloured(*values: tuple[float, float]) -> Tensor:
    """Clips (B, 1, 3, 2, 2, 2) of these features."""
    return torch.tensor([(a, b, 0.0) for a, b in values]).view(-1, 1, 3, 1, 1, 1).expand(-1, 1, 3, 2, 2, 2)


def adapted(method: Neo, *values: tuple[float, float]) -> Tensor:
    frames = coloured(*values)
    n = len(values)
    clip = dataclasses.replace(batch(), frames=frames, centre=frames, clip_ids=("clip",) * n, status=("silent",) * n)
    return method.adapt(clip).after


def expected(features: list[list[float]], mean: list[float]) -> Tensor:
    """(h - mean) W + b, written out."""
    rows = [[a - mean[0] + 0.5, 2 * (b - mean[1])] for a, b in features]
    return torch.tensor(rows).log_softmax(1)


def test_neo_takes_the_running_mean_of_features_away_before_the_head() -> None:
    method = Neo(Colours(), 2, neo.Settings(neo_start=0.0))
    assert torch.allclose(adapted(method, (0.2, 0.6), (0.4, 0.0)), expected([[0.2, 0.6], [0.4, 0.0]], [0.3, 0.3]))
    # a third clip: (0.6, 0.6, 0) summed is (1.2, 1.2) of three
    assert torch.allclose(adapted(method, (0.6, 0.6)), expected([[0.6, 0.6]], [0.4, 0.4]), atol=1e-6)


def test_the_origin_counts_as_a_clip_and_the_first_clip_keeps_its_direction() -> None:
    method = Neo(Colours(), 2, neo.Settings())
    assert torch.allclose(adapted(method, (0.2, 0.6)), expected([[0.2, 0.6]], [0.1, 0.3]), atol=1e-6)
    assert torch.allclose(adapted(method, (0.1, 0.3)), expected([[0.1, 0.3]], [0.1, 0.3]), atol=1e-6)
    published = Neo(Colours(), 2, neo.Settings(neo_start=0.0))
    assert torch.allclose(adapted(published, (0.2, 0.6)), torch.tensor([[0.5, 0.0]]).log_softmax(1))  # the bias alone


def test_neo_continual_is_a_moving_mean_from_the_origin() -> None:
    method = Neo(Colours(), 2, neo.Settings(neo_ema=0.1))
    for n in range(1, 8):
        answer = adapted(method, (0.4, 0.8))
        share = 1 - 0.9**n
        assert torch.allclose(answer, expected([[0.4, 0.8]], [0.4 * share, 0.8 * share]), atol=1e-6)


def test_neo_gives_the_sources_answers_back_under_a_shift_of_all_features() -> None:
    """The paper's claim: what a shift adds to every feature is what the mean finds."""
    torch.manual_seed(0)
    clips = (torch.rand(200, 2) - 0.5) / 2  # of mean 0, as the source's
    frames = clips - clips.mean(0)
    source = F.linear(frames, Colours().head.weight, Colours().head.bias).argmax(1)
    shift = torch.tensor([-0.6, 0.7])
    right = {}
    for name in ("source", "neo"):
        method, found = Neo(Colours(), 2, neo.Settings()), []
        for feature in frames + shift:
            values = (float(feature[0]), float(feature[1]))
            after = adapted(method, values) if name == "neo" else Colours()(coloured(values)[:, 0])
            found.append(int(after.argmax()))
        right[name] = (torch.tensor(found) == source).float()[50:].mean().item()
    assert right["source"] < 0.6 < 0.95 < right["neo"]


def test_neo_needs_a_head() -> None:
    with pytest.raises(MethodError, match="BatchNorm3d has no linear layer with 4 outputs"):
        Neo(nn.BatchNorm3d(3), K, neo.Settings())


def test_a_frozen_network_under_neo_keeps_every_tensor() -> None:
    model = trained()
    before = weights(model)
    answer = Neo(model, K, neo.Settings()).adapt(batch())
    assert same_weights(model, before)
    assert not torch.allclose(answer.after, answer.before) and math.isfinite(answer.after.sum().item())
