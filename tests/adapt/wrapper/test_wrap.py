"""`adapt.wrap`: any nn.Module adapted from Python, without tables, files or a decoder."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adapt
from adapt.contract import Batch
from adapt.errors import AdaptError, MethodError
from adapt.wrapper import Heard, Wrapped, from_evidence, views_of
from tests import built
from tests.places import ROOT
from tests.tiny import K, TinyVideoModel, same_weights, trained, weights

NAMES = ["dog barking", "chess", "rain", "yoga"]
SOUND = {"rain": 0.9}


def clip(seed: int = 0, t: int = 4, b: int = 1) -> Tensor:
    return torch.rand(b, 3, t, 8, 8, generator=torch.Generator().manual_seed(seed))


def wrapped(method: str = "audio", model: nn.Module | None = None, **options: Any) -> Wrapped:
    made: Wrapped = adapt.wrap(trained() if model is None else model, method, classes=NAMES, **options)
    return made


def snippets() -> list[str]:
    """The Python blocks of the README, and the one in adapt's own docstring."""
    readme = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert adapt.__doc__ is not None
    return [*readme, "\n".join(line.strip() for line in adapt.__doc__.splitlines() if line.startswith("    "))]


@pytest.mark.parametrize("code", snippets())
def test_the_documented_lines_run_and_give_logits(code: str) -> None:
    space: dict[str, Any] = {"my_video_model": trained(), "names": NAMES, "frames": clip()}
    exec(code, space)  # noqa: S102 - our own documentation
    assert space["logits"].shape == (1, K)
    assert space["model"].trace


def test_wrapping_and_adapting_needs_no_decoder_no_tables_and_no_stages() -> None:
    absent = ["duckdb", "pyarrow", "decord", "av", "dvc", "tyro", "torchvision"]
    absent += ["pipeline", "adapt.stream", "adapt.video.clips"]
    code = (
        f"import sys\nfor name in {absent!r}: sys.modules[name] = None\n"
        "import torch, adapt\n"
        "from adapt import methods\n"
        "from torch import nn\n"
        "net = nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.AdaptiveAvgPool3d(1), nn.Flatten(), "
        "nn.Linear(4, 2))\n"
        "for name in methods.names():\n"
        "    if not methods.needs_labels(name):\n"
        "        logits = adapt.wrap(net, name, classes=['a', 'b'])(torch.rand(1, 3, 4, 8, 8), sound={'a': 0.9})\n"
        "        assert logits.shape == (1, 2) and logits.isfinite().all(), name\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_importing_adapt_loads_nothing_heavy() -> None:
    code = "import sys, adapt; assert 'torch' not in sys.modules and 'adapt.wrapper' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_wrapping_gives_what_the_method_itself_gives_on_the_same_views() -> None:
    frames, mine = clip(), trained()
    views, centre = views_of(frames, 2, None)
    sound = from_evidence(torch.tensor([[0.0, 0.0, 0.9, 0.0]]))
    method = built.fused("audio", "trusted", mine, None, K, lr=0.01)
    expected = method.adapt(Batch(views, centre, sound.q, sound.s, sound.mass, ("ok",), ("clip",)))
    model = wrapped(lr=0.01)
    assert expected.fused is not None
    assert torch.equal(model(frames, SOUND), expected.fused)
    assert torch.equal(wrapped(lr=0.01, predict="alone")(frames, SOUND), expected.after)
    with pytest.raises(MethodError, match="predict 'both': choose 'fused' or 'alone'"):
        wrapped(predict="both")
    assert len(model.trace) == expected.steps > 1
    assert model.answer is not None and model.answer.stop_reason == expected.stop_reason
    saved = model.save()
    assert saved.keys() == mine.state_dict().keys()
    assert same_weights(mine, saved)


def test_the_source_method_answers_the_models_own_log_probabilities() -> None:
    frames = clip(t=5)
    assert torch.equal(wrapped("source", predict="alone")(frames), trained()(frames).log_softmax(1))


def test_reset_gives_back_the_users_weights_and_the_first_answer_bit_for_bit() -> None:
    mine = trained()
    before, model = weights(mine), wrapped(model=mine)
    first = model(clip(), SOUND)
    model(clip(1), SOUND)
    assert not same_weights(mine, before)
    model.reset()
    assert same_weights(mine, before)
    assert (model.trace, model.answer) == ([], None)
    assert torch.equal(model(clip(), SOUND), first)


def test_the_saved_weights_are_an_ordinary_state_dict_of_the_users_model_and_a_copy() -> None:
    mine = trained()
    model = wrapped("vitta", mine)
    model(clip())
    saved, plain = model.save(), TinyVideoModel().eval()
    plain.load_state_dict(saved)
    assert torch.equal(plain(clip(1)), mine(clip(1)))
    model(clip(2))
    assert not same_weights(mine, saved)


def test_a_saved_state_goes_on_in_another_process_bit_for_bit(tmp_path: Path) -> None:
    model = wrapped()
    for i in range(3):
        model(clip(i), SOUND)
    torch.save(model.state(), tmp_path / "state.pt")
    other = wrapped()
    other.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other(clip(3), SOUND), model(clip(3), SOUND))


def test_every_form_of_the_same_sound_gives_the_same_answer() -> None:
    s = torch.tensor([0.0, 0.0, 0.9, 0.0])
    forms: list[Heard] = [SOUND, s, s[None], s.double(), adapt.Sound(q=torch.eye(4)[2], s=s, mass=torch.tensor(0.9))]
    answers = [wrapped()(clip(), form) for form in forms]
    assert all(torch.equal(answers[0], other) for other in answers[1:])
    nothing: list[Heard] = [None, {}, torch.zeros(4)]
    silence = [wrapped()(clip(), form) for form in nothing]
    assert all(torch.equal(silence[0], other) for other in silence[1:])
    assert not torch.equal(silence[0], answers[0])


def test_evidence_alone_becomes_q_by_its_sum_and_mass_by_its_maximum() -> None:
    sound = from_evidence(torch.tensor([[0.6, 0.2], [0.0, 0.0]]))
    assert sound.q.tolist() == [pytest.approx([0.75, 0.25]), [0.5, 0.5]]
    assert sound.mass.tolist() == [pytest.approx(0.6), 0]


def test_two_clips_at_once_get_a_sound_each() -> None:
    model = wrapped("source", fusion="plain")
    heard = torch.tensor([[0.9, 0, 0, 0], [0, 0, 0, 0.9]])
    assert model(clip(b=2), heard).argmax(1).tolist() == [0, 3]


@pytest.mark.parametrize(("n_frames", "frames"), [(10, 4), (7, 7), (48, 16)])
def test_views_of_a_tensor_are_frames_of_equal_segments(n_frames: int, frames: int) -> None:
    views, centre = views_of(torch.arange(n_frames).view(1, 1, -1, 1, 1), 2, frames)
    sampled = torch.cat([views, centre], 1)[0].flatten(1).tolist()
    quarters = (1, 3, 2)  # of a segment: two views, and the centre
    assert sampled == [[(4 * i + place) * n_frames // (4 * frames) for i in range(frames)] for place in quarters]


def test_without_view_frames_a_view_holds_every_other_frame_twice() -> None:
    views, centre = views_of(torch.arange(5).view(1, 1, -1, 1, 1), 2, None)
    assert views.flatten(2).tolist() == [[[0, 0, 2, 2, 4], [1, 1, 3, 3, 4]]]
    assert centre.flatten().tolist() == [0, 1, 2, 3, 4]


def test_the_users_own_views_are_taken_as_they_are() -> None:
    views = torch.stack([clip(i) for i in range(3)], 1)
    assert torch.equal(wrapped("source", predict="alone")(views), trained()(clip(1)).log_softmax(1))


class TimeFirst(nn.Module):
    """A network with another layout, its own normalisation and an answer object: (B, T, C, H, W) around 0."""

    def __init__(self) -> None:
        super().__init__()
        self.tiny = trained()

    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.tiny(x.transpose(1, 2) + 0.5))


def test_a_network_of_another_layout_and_answer_takes_two_lines() -> None:
    other = wrapped(model=TimeFirst(), prepare=lambda x: x.transpose(1, 2) - 0.5, read=lambda answer: answer.logits)
    assert torch.allclose(other(clip(), SOUND), wrapped()(clip(), SOUND), atol=1e-5)


class Normless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, K)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.mean((2, 3, 4)))
        return logits


class LayerNormed(Normless):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(x.mean((2, 3, 4))))
        return logits


def test_a_network_without_batch_norm_adapts_with_statistics_of_source_clips() -> None:
    with pytest.raises(MethodError, match="pass adapt.source_statistics"):
        wrapped("vitta", LayerNormed())
    model = LayerNormed()
    statistics = adapt.source_statistics(model, [clip(i) for i in range(3)])
    by_hand = torch.stack([model.norm(clip(i).mean((2, 3, 4))) for i in range(3)])
    assert torch.allclose(statistics.moments["norm"][0], by_hand.mean((0, 1)), atol=1e-6)
    before = weights(model)
    wrapped("vitta", model, statistics=statistics)(clip())
    assert not same_weights(model, before)


def test_only_the_layers_asked_for_are_aligned() -> None:
    two = nn.Sequential(nn.BatchNorm3d(3), nn.BatchNorm3d(3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, K))
    assert wrapped("vitta", two, layers=["1"]).state()["method"]["alignment"]["online"].keys() == {"model.1"}
    with pytest.raises(MethodError, match="Sequential has no layer '9'"):
        wrapped("vitta", two, layers=["9"])


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_adapts_inside_a_context_without_gradients(context: Any) -> None:
    outside, model = wrapped(scope="all")(clip(), SOUND), wrapped(scope="all")
    with context():
        assert torch.equal(model(clip(), SOUND), outside)


def one_value(value: float) -> Tensor:
    frames = clip()
    frames[0, 0, 0, 0, 0] = value
    return frames


@pytest.mark.parametrize(("call", "message"), [
    (lambda: wrapped("vitta", Normless()), "Normless has no norm layer to align"),
    (lambda: wrapped("tent", Normless()), "Normless has no norm layer with weights"),
    (lambda: wrapped("norm", Normless()), "Normless has no batch norm layer"),
    (lambda: wrapped("t3a", nn.BatchNorm3d(3)), "BatchNorm3d has no linear layer with 4 outputs"),
    (lambda: wrapped("oracle_gate"), "upper bound that sees labels"),
    (lambda: wrapped("audoi"), "unknown method 'audoi': choose one of"),
    (lambda: wrapped(learning_rate=1), "unknown setting 'learning_rate': choose among"),
    (lambda: wrapped(views=0), "views=0"),
    (lambda: wrapped(view_frames=9)(clip()), "the clip has 4 frames, a view takes 9"),
    (lambda: adapt.wrap(trained(), classes=NAMES[:3])(clip()),
    r"answers \(1, 4\) to 1 clips, \(1, 3\) is wanted: classes= has 3 names"),
    (lambda: wrapped(model=TimeFirst(), prepare=lambda x: x.transpose(1, 2))(clip()), "answers SimpleNamespace, no "
                                                                                      "tensor: pass read="),
    (lambda: wrapped()(one_value(float("nan"))), "frames hold NaN"),
    (lambda: wrapped()(one_value(float("inf"))), r"frames lie in \[.*, inf\]"),
    (lambda: wrapped()(clip() * 255), r"frames lie in \[.*\]: pass values in \[0, 1\]"),
    (lambda: wrapped()(clip() - 0.5), r"frames lie in \[-0"),
    (lambda: wrapped()((clip() * 255).byte()), "frames are torch.uint8: pass float"),
    (lambda: wrapped()(clip()[0]), r"frames are \(3, 4, 8, 8\): pass \(B, C, T, H, W\)"),
    (lambda: wrapped()(clip()[:0]), r"frames are \(0, 3, 4, 8, 8\)"),
    (lambda: wrapped()(clip().to("meta")), "frames are on meta, the model is on cpu"),
    (lambda: wrapped()(clip(), {"thunder": 0.5}), "sound names 'thunder', which is no class"),
    (lambda: wrapped()(clip(), torch.zeros(3)), r"sound is \(3,\): pass \(4,\) or \(1, 4\)"),
    (lambda: wrapped()(clip(), {"rain": 1.5}), r"sound lies in \[0, 1.5\]"),
    (lambda: wrapped()(clip(), torch.full((4,), float("nan"))), "sound lies in"),
    (lambda: wrapped()(clip(), adapt.Sound(torch.ones(4), torch.zeros(4), torch.tensor(0.5))), "q that sums to 1"),
    (lambda: adapt.source_statistics(trained(), []), "at least one clip"),
])  # fmt: skip
def test_what_cannot_work_is_one_clear_line(call: Any, message: str) -> None:
    with pytest.raises(AdaptError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_an_unknown_name_of_the_package_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'adapt' has no attribute 'warp'"):
        _ = adapt.warp  # type: ignore[attr-defined]
