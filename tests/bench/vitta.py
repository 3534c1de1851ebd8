"""One clip through ViTTA on TANet ResNet-50 (2 x 16 x 224 x 224, one step, all weights; 10 s of 320 x 240):
PERFORMANCE's targets.

`python -m tests.bench vitta`; two minutes on two idle cores.  Each way is a process of its own
(tests/bench/vitta_ways.py) that takes its turn in every run; values are medians over runs, ratios medians of each run's
ratio.  ViTTA's way runs under the C library's own allocator, as its code does; ours keeps freed memory
(adapt/command.py), and once more without that.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench import Row
from tests.places import ROOT
from tests.sounds import encode

RUNS = 2
PEAK_MB = 3500
HEARD = 0.36  # share of photosound's clips in which something is heard
CLIP = "testsrc2=size=320x240:rate=25:duration=10,noise=alls=8:allf=t"


class Way:
    """A process that waits for commands."""

    def __init__(self, name: str, clip: Path, keep: bool = False) -> None:
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "tests.bench.vitta_ways",
            name,
            str(clip),
            *(["keep"] if keep else []),
        ]
        environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, command: str) -> dict[str, Any]:
        """Run a command and wait for its answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def end(self) -> None:
        """Let it go, once or again."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def rows() -> Iterator[Row]:
    """The targets, one or two rows each."""
    with tempfile.TemporaryDirectory() as folder:
        clip = encode(Path(folder) / "clip.mp4", "-f", "lavfi", "-i", CLIP, "-pix_fmt", "yuv420p", "-c:v", "libx264")
        ways = {
            "theirs": Way("theirs", clip),
            "ours": Way("ours", clip, keep=True),
            "plain": Way("ours", clip),
            "bare": Way("bare", clip, keep=True),
        }
        try:
            yield from _rows(ways)
        finally:
            for way in ways.values():
                way.end()


def _rows(ways: dict[str, Way]) -> Iterator[Row]:
    yield from _parity(ways["theirs"].ask("parity"), ways["ours"].ask("parity"))
    ways["plain"].ask("clip")
    ways["bare"].ask("clip")
    taken: dict[str, list[dict[str, Any]]] = {}
    for _ in range(RUNS):
        for name, way in ways.items():
            taken.setdefault(name, []).append(way.ask("clip"))
        for name in ("theirs", "ours"):
            taken.setdefault(f"{name}, decode", []).append(ways[name].ask("decode"))
    peaks = {name: seconds[-1]["peak_mb"] for name, seconds in taken.items()}
    ways["plain"].end()
    for command in ("audio", "audio silent"):
        ways["ours"].ask(command)
        taken[command] = [ways["ours"].ask(command) for _ in range(RUNS)]
    ways["ours"].ask("reused 5 last_norm")
    taken["norms, five steps"] = [ways["ours"].ask("reused 5 last_norm") for _ in range(RUNS)]
    for name in ("ours", "bare"):
        ways[name].ask("reused")
    for _ in range(RUNS):
        for name, command in (("ours", "reused"), ("bare", "reused"), ("theirs", "clip 5")):
            taken.setdefault(f"{name}, five steps", []).append(ways[name].ask(command))
    names = {
        "theirs": "ViTTA's way",
        "ours": "ours",
        "plain": "ours, freed memory given back",
        "bare": "bare convolutions",
    }
    for name, title in names.items():
        yield Row(f"vitta, {title}", _median(taken[name], "whole"), "CPU s/clip")
    yield _ratio("vitta: ViTTA's way / ours", taken["theirs"], taken["ours"], 1.5)
    yield _ratio("vitta: ViTTA's way / ours, freed memory given back", taken["theirs"], taken["plain"], 1.5)
    yield _ratio("vitta: bare convolutions / ours", taken["bare"], taken["ours"], 0.75)
    for phase in ("decode", "forward", "backward", "optimiser", "predict"):
        yield Row(f"vitta, ours: {phase}", _median(taken["ours"], phase), "CPU s/clip")
    rest = statistics.median(
        1 - sum(s[phase] for phase in ("decode", "forward", "backward", "predict")) / s["whole"] for s in taken["ours"]
    )
    yield Row("vitta, ours: all but decode, forward and backward", 100 * rest, "%", "<= 5", rest <= 0.05)
    for name, title in names.items():
        target = name in ("ours", "plain")
        yield Row(
            f"vitta, {title}: peak memory",
            peaks[name],
            "MB",
            f"<= {PEAK_MB}" if target else "",
            peaks[name] <= PEAK_MB if target else None,
        )
    reused = statistics.median(
        a["whole"] / b["whole"] for a, b in zip(taken["theirs, five steps"], taken["ours, five steps"], strict=True)
    )
    yield Row(
        "five steps: ViTTA's way / ours, stem reused, last blocks whole", reused, "x"
    )  # bare convolutions have no more room
    limit = statistics.median(
        a["whole"] / b["whole"] for a, b in zip(taken["theirs, five steps"], taken["bare, five steps"], strict=True)
    )
    yield Row("five steps: ViTTA's way / bare convolutions, stem reused", limit, "x")
    yield _ratio(
        "five steps: ViTTA's way / ours, stem reused, last norms",
        taken["theirs, five steps"],
        taken["norms, five steps"],
        3.0,
    )
    yield _ratio("frames of a clip: ViTTA's way / one pass", taken["theirs, decode"], taken["ours, decode"], 2.4)
    shares = {}
    for command, title in (("audio", "heard"), ("audio silent", "silent")):
        yield Row(f"audio at its defaults, {title} clip of noise: steps", _median(taken[command], "steps"), "steps")
        shares[command] = statistics.median(
            a["whole"] / b["whole"] for a, b in zip(taken[command], taken["theirs"], strict=True)
        )
        yield Row(f"audio at its defaults, {title} clip of noise / ViTTA's clip", shares[command], "x")
    mean = HEARD * shares["audio"] + (1 - HEARD) * shares["audio silent"]
    yield Row(
        f"audio at its defaults, a clip of a set in which {HEARD:.0%} are heard / ViTTA's clip",
        mean,
        "x",
        "<= 0.8",
        mean <= 0.8,
    )


def _parity(theirs: dict[str, Any], ours: dict[str, Any]) -> Iterator[Row]:
    """One step from the same weights on the same frames, in float32."""
    loss = abs(theirs["loss"] - ours["loss"]) / abs(theirs["loss"])
    yield Row("vitta: relative difference of the loss, ours - theirs", loss, "", "<= 1e-3", loss <= 1e-3)
    log_p = max(abs(a - b) for a, b in zip(theirs["log_p"], ours["log_p"], strict=True))
    yield Row("vitta: largest difference of log-probabilities after a step", log_p, "", "<= 1e-2", log_p <= 1e-2)


def _median(taken: list[dict[str, Any]], phase: str) -> float:
    return statistics.median(seconds[phase] for seconds in taken)


def _ratio(name: str, theirs: list[dict[str, Any]], ours: list[dict[str, Any]], target: float) -> Row:
    value = statistics.median(a["whole"] / b["whole"] for a, b in zip(theirs, ours, strict=True))
    return Row(name, value, "x", f">= {target}", value >= target)
