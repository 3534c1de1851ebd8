"""The milliseconds that a clip may take (`budget_ms`): a step is taken only where it and the prediction still fit
(ours).

What a step and a prediction take is learned from the clips before: the larger of the last one and a running mean, so
that a slow spell is believed at once and forgotten slowly.  Before the first clip a prediction is timed, and a step is
taken to cost STEP_OVER_PREDICTION times that.
"""

import time
from collections.abc import Callable, Sequence

STEP_OVER_PREDICTION = 8  # forward and backward of two views; measured 4 to 7
MEMORY = 0.8  # weight of the past in the running means
FORGET = 0.98  # of the step time, for each clip that took none
CLOCK = time.perf_counter


class Budget:
    """One clip's time, and what steps and predictions took before."""

    def __init__(self, budget_ms: float) -> None:
        self.budget_ms = budget_ms
        self.reset()

    def reset(self) -> None:
        """Nothing timed."""
        self._step_ms: float | None = None
        self._prediction_ms: float | None = None
        self._started = CLOCK()

    def begin(self, predict: Callable[[], object]) -> None:
        """A clip comes in; `predict` is timed where nothing was before."""
        self._started = CLOCK()
        if self.budget_ms > 0 and self._prediction_ms is None:
            predict()
            self._prediction_ms = self.spent_ms()
            self._step_ms = STEP_OVER_PREDICTION * self._prediction_ms

    def spent_ms(self) -> float:
        """Milliseconds since the clip came in."""
        return 1000 * (CLOCK() - self._started)

    def allows_step(self, longest_ms: float = 0.0) -> bool:
        """Whether one more step and the prediction are expected to fit; `longest_ms` is the longest step on this clip
        so far.
        """
        if self.budget_ms <= 0 or self._step_ms is None or self._prediction_ms is None:
            return True
        return self.spent_ms() + max(self._step_ms, longest_ms) + self._prediction_ms <= self.budget_ms

    def end(self, steps_ms: Sequence[float]) -> None:
        """The clip is answered after steps that took `steps_ms` each."""
        if self.budget_ms <= 0:
            return
        if steps_ms:
            self._step_ms = _grown(self._step_ms, max(steps_ms))
        else:
            self._step_ms = (
                None if self._step_ms is None else FORGET * self._step_ms
            )  # a slow spell must not forbid steps for ever
        self._prediction_ms = _grown(self._prediction_ms, max(0.0, self.spent_ms() - sum(steps_ms)))


def _grown(mean: float | None, new: float) -> float:
    return new if mean is None else max(new, MEMORY * mean + (1 - MEMORY) * new)
