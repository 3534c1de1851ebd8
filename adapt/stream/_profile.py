"""Where a clip's time goes, against the floor (`python -m adapt --profile`).

A few clips are adapted under torch's profiler.  Each operation's own time belongs to a phase, by what it was called
from (the backward pass, the optimiser, the method's prediction, else the forward pass), and to a kind: convolutions and
matrix products, which no rewrite of the same maths avoids (their sum over phases is the floor), norm layers, or other.
What is left of the method's wall time is Python between operations, on a GPU the time in which it had nothing to do:
bookkeeping, with the making and saving of rows.  Transfer and the wait for decoded clips are wall time.

The profiler slows small operations down, so shares of very small models say little.  Its own starting and stopping is
not counted.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, record_function

from adapt.contract import Method
from adapt.stream._streams import Watch

N_WARM_UP = 2  # clips that are not counted
N_CLIPS = 10  # clips that are, at least (whole batches)
PHASES = ("decode wait", "transfer", "forward", "backward", "optimiser", "prediction", "bookkeeping")
KINDS = ("conv+matmul", "norm", "other")
PREDICTION = "earshot.prediction"
FLOOR = re.compile(
    r"(aten|mkldnn|mkl)::_?("
    r"(mkldnn|cudnn|miopen)_\w*(convolution|linear)\w*|convolution_backward\w*|(thnn|slow)_conv\w+|conv_depthwise\w+|"
    r"mm|bmm|addmm|baddbmm|addmm_activation|mv|addmv|linear_pointwise|convolution_pointwise|"
    r"(scaled_dot_product|flash|efficient|cudnn)_\w*attention\w*)"
)
NORM = re.compile(
    r"aten::(_?native_(batch|layer|group)_norm\w*|cudnn_batch_norm\w*|_?fused_\w*norm\w*|_?batch_norm\w*|var_mean|var|std\w*)"
)


def kind_of(operation: str) -> str:
    """What an operation of that name is."""
    if FLOOR.fullmatch(operation):
        return "conv+matmul"
    return "norm" if NORM.fullmatch(operation) else "other"


def phase_of(event: Any) -> str:
    """The phase of a profiler's event, by the events that it happened in, the innermost first."""
    while event is not None:
        if event.name.startswith("Optimizer."):
            return "optimiser"
        if event.name.startswith("autograd::engine"):
            return "backward"
        if event.name == PREDICTION:
            return "prediction"
        event = event.cpu_parent
    return "forward"


class Profile(Watch):
    """Looks on at the first clips of a run."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.n_clips, self._n_seen, self._excluded = device, 0, 0, 0.0
        self._looks = False
        self.seconds: dict[str, dict[str, float]] = {phase: dict.fromkeys(KINDS, 0.0) for phase in PHASES}
        self.total_s = 0.0

    @contextmanager
    def batch(self, n_clips: int) -> Iterator[None]:
        """Count a batch, unless it warms up or enough were counted."""
        self._looks, self._excluded = self._n_seen >= N_WARM_UP and self.n_clips < N_CLIPS, 0.0
        before, started = self._counted(), time.perf_counter()
        yield
        self._n_seen += n_clips
        if self._looks:
            wall = time.perf_counter() - started - self._excluded
            self.n_clips, self.total_s = self.n_clips + n_clips, self.total_s + wall
            self.seconds["bookkeeping"]["other"] += max(0.0, wall - (self._counted() - before))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Wall time of a phase that the profiler knows nothing of."""
        started = time.perf_counter()
        yield
        if self._looks:
            self.seconds[name]["other"] += time.perf_counter() - started

    @contextmanager
    def adapting(self, method: Method) -> Iterator[None]:
        """The method's work, operation by operation."""
        if not self._looks:
            yield
            return
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self.device.type == "cuda")
        started = time.perf_counter()
        with _marked(method), torch.profiler.profile(activities=activities, acc_events=True) as profiler:
            begun = time.perf_counter()
            yield
            ended = time.perf_counter()
        self._take_in(profiler.events() or [])
        self._excluded += time.perf_counter() - started - (ended - begun)

    def _take_in(self, events: Any) -> None:
        for event in events:
            if (
                event.device_type.name == "CPU" and event.name != PREDICTION
            ):  # a kernel's time is that of the operation that started it
                microseconds = event.self_device_time_total if self.device.type == "cuda" else event.self_cpu_time_total
                self.seconds[phase_of(event)][kind_of(event.name)] += microseconds / 1e6

    def _counted(self) -> float:
        return sum(sum(kinds.values()) for kinds in self.seconds.values())

    def milliseconds(self) -> dict[str, dict[str, float]]:
        """Phase -> kind -> ms a clip."""
        n = max(1, self.n_clips)
        return {
            phase: {kind: 1000 * value / n for kind, value in kinds.items()} for phase, kinds in self.seconds.items()
        }

    def table(self) -> str:
        """What was found, for people."""
        if not self.n_clips:
            return f"profile: no clip was adapted after {N_WARM_UP} of warm-up"
        ms = self.milliseconds()
        total = sum(sum(kinds.values()) for kinds in ms.values())
        lines = [f"profile of {self.n_clips} clips on {self.device}, ms a clip", _line("", ["ms", "share", *KINDS])]
        for phase, kinds in ms.items():
            whole = sum(kinds.values())
            lines.append(
                _line(phase, [f"{whole:.2f}", f"{whole / total:.1%}", *(f"{kinds[kind]:.2f}" for kind in KINDS)])
            )
        sums = [sum(kinds[kind] for kinds in ms.values()) for kind in KINDS]
        lines.append(_line("total", [f"{total:.2f}", "100.0%", *(f"{value:.2f}" for value in sums)]))
        lines.append(
            f"the floor, convolutions and matrix products alone: {sums[0]:.2f} ms, {sums[0] / total:.1%} of a clip"
        )
        return "\n".join(lines)


def _line(name: str, cells: list[str]) -> str:
    return f"{name:<12}" + "".join(f"{cell:>12}" for cell in cells)


@contextmanager
def _marked(method: Method) -> Iterator[None]:
    """Within the block a method's `predict`, where it has one, is a region that the profiler sees."""
    method = getattr(method, "method", method)  # within its fusion
    predict: Callable[..., Any] | None = getattr(method, "predict", None)
    if predict is None:
        yield
        return

    def marked(*args: Any, **kwargs: Any) -> Any:
        with record_function(PREDICTION):
            return predict(*args, **kwargs)

    vars(method)["predict"] = marked
    try:
        yield
    finally:
        del vars(method)["predict"]
