"""Where a clip's time goes: phases add up to the wall time, and work of a known kind is found where it was done."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from adapt.contract import Answer, Batch, Method
from adapt.core.state import Stateful
from adapt.stream import streaming
from adapt.stream._profile import N_CLIPS, N_WARM_UP, Profile, kind_of
from tests import built, tiny, tiny_project
from tests.tiny_project import options


class Working(Stateful):
    """Does what it is given, once a clip."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.work = work

    def adapt(self, batch: Batch) -> Answer:
        self.work()
        return Answer(batch.q.log(), batch.q.log())

    def source_answer(self, batch: Batch) -> Tensor:
        return batch.q.log()


def profiled(method: Method, n_clips: int = N_WARM_UP + 3, wait_s: float = 0.0) -> Profile:
    """A profile of some tiny clips, each waited for so long."""
    profile = Profile(torch.device("cpu"))
    for i in range(n_clips):
        with profile.batch(1):
            with profile.part("decode wait"):
                time.sleep(wait_s)
            with profile.part("transfer"):
                batch = tiny.batch(i, heard=1)
            with profile.adapting(method):
                method.adapt(batch)
    return profile


def phases(profile: Profile) -> dict[str, float]:
    """Phase -> ms a clip."""
    return {phase: sum(kinds.values()) for phase, kinds in profile.milliseconds().items()}


def test_the_phases_of_a_clip_add_up_to_its_wall_time() -> None:
    profile = profiled(built.fused("vitta", "trusted", tiny.trained(), None, tiny.K), wait_s=0.002)
    spent = phases(profile)
    assert sum(spent.values()) == pytest.approx(1000 * profile.total_s / profile.n_clips, rel=0.01)
    assert all(
        spent[phase] > 0
        for phase in ("decode wait", "transfer", "forward", "backward", "optimiser", "prediction", "bookkeeping")
    )
    assert spent["decode wait"] >= 2


def test_a_method_without_gradients_has_neither_backward_nor_optimiser() -> None:
    weight = torch.rand(64, 64)
    spent = phases(profiled(Working(lambda: weight @ weight)))
    assert (spent["backward"], spent["optimiser"], spent["prediction"]) == (0, 0, 0)
    assert spent["forward"] > 0


def test_a_method_that_only_multiplies_matrices_is_near_its_floor() -> None:
    weight = torch.rand(1024, 1024)
    multiplying = profiled(Working(lambda: weight @ weight))
    floor = sum(kinds["conv+matmul"] for kinds in multiplying.milliseconds().values())
    assert 0.5 < floor / sum(phases(multiplying).values()) <= 1
    assert phases(profiled(Working(lambda: time.sleep(0.02))))["bookkeeping"] >= 20


def test_the_gradient_of_a_convolution_is_backward_and_counts_towards_the_floor() -> None:
    convolution, frames = nn.Conv2d(8, 16, 3), torch.rand(4, 8, 32, 32)

    def work() -> Tensor:
        convolution(frames).square().sum().backward()
        return frames

    ms = profiled(Working(work)).milliseconds()
    assert ms["backward"]["conv+matmul"] > 0
    assert ms["forward"]["conv+matmul"] > 0


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::mkldnn_convolution", "conv+matmul"),
        ("aten::cudnn_convolution", "conv+matmul"),
        ("aten::convolution_backward", "conv+matmul"),
        ("aten::_slow_conv2d_forward", "conv+matmul"),
        ("aten::_conv_depthwise2d", "conv+matmul"),
        ("aten::addmm", "conv+matmul"),
        ("aten::bmm", "conv+matmul"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "conv+matmul"),
        ("aten::native_batch_norm_backward", "norm"),
        ("aten::native_layer_norm", "norm"),
        ("aten::var_mean", "norm"),
        ("aten::mul", "other"),
        ("aten::convolution", "other"),  # only calls one of the above
    ],
)
def test_operations_of_torch_are_what_their_names_say(operation: str, kind: str) -> None:
    assert kind_of(operation) == kind


def test_warming_up_is_not_counted_and_enough_is_enough() -> None:
    counted = [
        profiled(Working(lambda: None), n_clips=n).n_clips
        for n in (1, N_WARM_UP, N_WARM_UP + 1, N_WARM_UP + N_CLIPS + 4)
    ]
    assert counted == [0, 0, 1, N_CLIPS]
    assert "no clip was adapted after 2 of warm-up" in profiled(Working(lambda: None), n_clips=1).table()


def test_the_command_prints_a_table_in_which_no_share_is_above_100_per_cent(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny_project.copy(tmp_path_factory))
    streaming.run(options("vitta", corruptions=("clean",), max_clips=5, profile=True))
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    lines = lines[next(i for i, line in enumerate(lines) if line.startswith("profile of 3 clips on cpu")) :]
    shares = {line[:12].strip(): float(line.split("%")[0].split()[-1]) for line in lines[2:10]}
    assert list(shares)[-1] == "total"
    assert shares.pop("total") == 100
    assert all(0 <= share <= 100 for share in shares.values())
    assert sum(shares.values()) == pytest.approx(100, abs=0.5)
    assert lines[10].startswith("the floor")
    assert not Path("cache/tiny/adapt/vitta/progress").exists()
